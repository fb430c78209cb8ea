"""What a run begins with, or is measured of: a workdir or a PyTorch checkpoint, opened once."""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.config import defaults, from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import local_copy
from cleanclip_jax.losses.terms import TERMS, read_objective
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.sharding import copied_over, make_mesh, place_state
from cleanclip_jax.start.digests import FILE as DIGESTS
from cleanclip_jax.start.head import Head, load_head
from cleanclip_jax.start.model import make_model, shapes_of
from cleanclip_jax.start.store import abstract, load_model, load_opt_state, newest_whole
from cleanclip_jax.start.torch import is_torch_checkpoint
from cleanclip_jax.text.tokenizer import Tokenizer, find_merges
from cleanclip_jax.workdir import CHECKPOINTS, CONFIG, TOKENIZER, Workdir, workdir_path

if TYPE_CHECKING:
    from cleanclip_jax.start.torch.origin import Origin
else:
    Origin = Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint with all that goes with it; `variables` are of the two towers."""

    config: ConfigDict
    tokenizer: Tokenizer
    model: CLIP
    variables: Mapping[str, Any]
    step: int
    head: Head | None


class RunStart:
    """A workdir's newest checkpoint that is whole."""

    def __init__(self, path: Path):
        self.path = path
        self._workdir = Workdir(path)
        self.config = from_json(path / CONFIG)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; an error where nobody knows it."""
        file = self._workdir / TOKENIZER
        if self._workdir.has(TOKENIZER) or self.config.text.tokenizer == "trained":
            return Tokenizer.load(file)
        return clip_tokenizer(self.path, self.config)

    @property
    def vocab_size(self) -> int:
        """How many ids its model knows."""
        # A trained tokenizer may have fewer ids than its config names.
        trained = self._workdir.has(TOKENIZER)
        return self.tokenizer.vocab_size if trained else self.config.text.vocab_size

    @cached_property
    def step(self) -> int:
        """The step of the newest checkpoint; one process may look alone."""
        folder = self._workdir / CHECKPOINTS
        step = newest_whole(folder) if folder.is_dir() else None
        if step is None:
            raise UserError(
                f"{self.path} holds no finished checkpoint: train it first (cleanclip train)"
            )
        return step

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run's inputs.json says of its start: where it was, and what tells it again."""
        digests = self._workdir / CHECKPOINTS / str(self.step) / DIGESTS
        digest = hashlib.sha256(digests.read_bytes()).hexdigest() if digests.is_file() else None
        return {"path": str(self.path), "step": self.step, "digest": digest}

    def origin(self) -> Origin | None:
        """The PyTorch checkpoint behind it, its counters as at its newest step."""
        from cleanclip_jax.start.torch.origin import load_origin

        origin = load_origin(self.path)
        return None if origin is None else origin.advanced(forwards(self.config, self.step))

    def restore(
        self, model: CLIP, mesh: Mesh, step: int | None = None
    ) -> tuple[int, dict[str, Any], Head | None]:
        """Its step, the towers' variables and its head; `step` None: of the newest checkpoint."""
        variables = shapes_of(model)
        head = load_head(self._workdir)
        if head is not None:
            shapes = head.shapes(model.variant.features, str(model.compute.param_dtype))
            variables["params"] = {**variables["params"], "head": shapes}
        step, variables = load_model(self.path, abstract(variables, copied_over(mesh)), step)
        if head is not None:
            head = replace(head, params=variables["params"]["head"])
        # Another run's head tells other classes apart.
        towers = {name: part for name, part in variables["params"].items() if name != "head"}
        return step, {**variables, "params": towers}, head

    def optimizer_state(self, placed: Any) -> Any:
        """The optimizer's state at its newest checkpoint, in the given shapes and places."""
        return load_opt_state(self.path, placed)


class TorchStart:
    """A PyTorch checkpoint of OpenAI, open_clip, CleanCLIP or Hugging Face."""

    def __init__(self, path: Path, settings: ConfigDict | None = None, key: str | None = None):
        from cleanclip_jax.start.torch.checkpoint import open_checkpoint

        self.path = path
        activation = settings.model.activation if settings else None
        self._checkpoint = open_checkpoint(path, activation=activation, key=key)
        for line in self._checkpoint.describe():
            if line in self._checkpoint.notes:
                log.warning("%s: %s", path, line.removeprefix("warning: "))
            else:
                log.info("%s", line)
        self.config = self._checkpoint.config()
        if settings is not None:
            text = self.config.text
            text.merges, text.keep_end = settings.text.merges, settings.text.keep_end

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return clip_tokenizer(self.path, self.config)

    @property
    def vocab_size(self) -> int:
        return self.config.text.vocab_size

    @cached_property
    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        path = local_copy(self.path)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return {"path": str(self.path), "digest": digest.hexdigest()}

    def origin(self) -> Origin:
        return self._checkpoint.origin

    def restore(
        self, model: CLIP, mesh: Mesh, step: int | None = None
    ) -> tuple[int, dict[str, Any], Head | None]:
        # In the types that the model trains in.
        variables = jax.tree.map(
            lambda like, x: jnp.asarray(np.asarray(x, like.dtype)),
            shapes_of(model),
            self._checkpoint.variables(),
        )
        return 0, place_state(mesh, variables), None


Start: TypeAlias = RunStart | TorchStart


def open_start(path: Path, settings: ConfigDict | None = None, key: str | None = None) -> Start:
    """Opens a workdir or a PyTorch checkpoint.

    Args:
      settings: what a PyTorch checkpoint doesn't show is taken from it: the activation, where
        CLIP's merges file is, and how captions are cut.
      key: where in a PyTorch checkpoint the state dict lies, in place of the usual keys.
    """
    if is_torch_checkpoint(path):
        return TorchStart(path, settings, key)
    if key is not None:
        raise UserError(f"{path} is no PyTorch checkpoint, and has no key {key!r}: leave it out")
    return RunStart(path)


def is_same(
    old: str | None, new: str | None, key: str | None, recorded: Mapping[str, Any] | None
) -> bool:
    """Whether two paths name the same start: the same place, or what has the recorded digest."""
    if old is None or new is None:
        return False
    if os.path.realpath(old) == os.path.realpath(new):
        return True
    digest = (recorded or {}).get("digest")
    if digest is None:
        return False
    return open_start(workdir_path(new), key=key).identity.get("digest") == digest


def load_start(
    start: Start, mesh: Mesh, config: ConfigDict | None = None, step: int | None = None
) -> Loaded:
    """Loads a start's model.

    Args:
      config: the start's, with changes.
      step: of a workdir's checkpoint; None: the newest.
    """
    config = config or start.config
    tokenizer = start.tokenizer
    model = make_model(config, tokenizer.vocab_size)
    step, variables, head = start.restore(model, mesh, step)
    return Loaded(config, tokenizer, model, variables, step, head)


def load_weights(
    path: Path, activation: str | None = None, key: str | None = None
) -> tuple[CLIP, dict[str, Any]]:
    """Returns the model and its variables, without asking for a tokenizer.

    Args:
      activation: where a PyTorch checkpoint doesn't say.
      key: where in a PyTorch checkpoint the state dict lies, in place of the usual keys.
    """
    settings = defaults()
    with settings.ignore_type():
        settings.model.activation = activation
    start = open_start(path, settings, key)
    if activation not in (None, start.config.model.activation):
        raise UserError(
            f"{path} was trained with {start.config.model.activation}, not {activation}"
        )
    model = make_model(start.config, start.vocab_size)
    _, variables, head = start.restore(model, make_mesh(1))
    if head is not None:
        log.warning("%s: its head of %d classes is left out", path, len(head.classes))
    return model, variables


def clip_tokenizer(path: Path, config: ConfigDict) -> Tokenizer:
    text = config.text
    if text.tokenizer == "clip":
        merges = find_merges(text.merges)
        return Tokenizer.clip(merges, text.context_length, keep_end=text.keep_end)
    raise UserError(
        f"{path} has a vocabulary of {text.vocab_size} that is not CLIP's, and no {TOKENIZER}: "
        f"convert the checkpoint with --tokenizer={TOKENIZER} of the run it is from"
    )


def forwards(config: ConfigDict, steps: int) -> int:
    """How often batch norm has counted a batch in so many steps of a run."""
    if config.model.bn_frozen or config.train.trainable == "head":
        return 0
    weights, _ = read_objective(config.objective.to_dict())
    views = any("view" in TERMS[name].needs for name, weight in weights.items() if weight)
    return steps * (2 if views and config.objective.separate_views else 1)
