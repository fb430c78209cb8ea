"""What a run begins with or is measured of: a workdir of ours, or a PyTorch checkpoint."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.config import from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.compare import NEEDS_VIEWS
from cleanclip_jax.models.clip import CLIP, init
from cleanclip_jax.start.store import newest_whole
from cleanclip_jax.start.torch import is_torch_checkpoint
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.origin import Origin, load_origin
from cleanclip_jax.text.tokenizer import Tokenizer, find_merges

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
CLIP_VOCABULARY = 49408


def start_config(path: Path, config: ConfigDict | None = None) -> ConfigDict:
    """Returns a run's config, or one that says what a PyTorch checkpoint is.

    Args:
      config: what a PyTorch checkpoint doesn't show is taken from it: the activation, where CLIP's
        merges file is, and how captions are cut.

    Raises:
      UserError: no workdir and no checkpoint, or a damaged one.
    """
    if not is_torch_checkpoint(path):
        return from_json(path / "config.json")
    checkpoint = open_checkpoint(path, activation=config.model.activation if config else None)
    for line in checkpoint.describe():
        log.log(logging.WARNING if line in checkpoint.notes else logging.INFO, "%s", line)
    found = checkpoint.config()
    if config is not None:
        found.text.merges, found.text.keep_end = config.text.merges, config.text.keep_end
    return found


def load_tokenizer(path: Path, config: ConfigDict) -> Tokenizer:
    """Returns the tokenizer of a workdir or of a PyTorch checkpoint.

    Args:
      config: the workdir's, or the checkpoint's from `start_config`.

    Raises:
      UserError: it isn't known: the vocabulary is not CLIP's, and nobody said whose it is.
    """
    text, file = config.text, path / TOKENIZER
    # A Hugging Face folder has a file of this name and of another kind.
    if not is_torch_checkpoint(path) and (file.is_file() or text.tokenizer == "trained"):
        return Tokenizer.load(file)
    if text.tokenizer == "clip":
        merges = find_merges(text.merges)
        return Tokenizer.clip(merges, text.context_length, keep_end=text.keep_end)
    raise UserError(
        f"{path} has a vocabulary of {text.vocab_size}, not CLIP's {CLIP_VOCABULARY}, and no "
        f"{TOKENIZER}: convert the checkpoint with --tokenizer={TOKENIZER} of the run it is from"
    )


def vocabulary(path: Path, config: ConfigDict) -> int:
    """Returns how many ids the model of a workdir or a PyTorch checkpoint knows."""
    file = path / TOKENIZER
    if is_torch_checkpoint(path) or not file.is_file():
        return config.text.vocab_size
    # A trained tokenizer may have fewer than its config asks for.
    return Tokenizer.load(file).vocab_size


def torch_variables(path: Path, model: CLIP) -> dict[str, Any]:
    """Returns a PyTorch checkpoint's weights in the types that the model trains in."""
    variables = open_checkpoint(path, activation=model.activation).variables()
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    wanted = {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}
    return jax.tree.map(lambda like, x: jnp.asarray(np.asarray(x, like.dtype)), wanted, variables)


def origin_of(start: Path) -> Origin | None:
    """Returns the PyTorch checkpoint behind a start, its counters as at the start's newest step."""
    if is_torch_checkpoint(start):
        return open_checkpoint(start).origin
    origin = load_origin(start)
    if origin is None:
        return None
    return origin.advanced(forwards(from_json(start / "config.json"), _newest(start)))


def start_of(start: Path) -> dict[str, Any]:
    """Returns what a run's inputs.json says of its start: the path and, of a workdir, the step."""
    if is_torch_checkpoint(start):
        return {"path": str(start)}
    return {"path": str(start), "step": _newest(start)}


def _newest(start: Path) -> int:
    """The step of a run's newest checkpoint; one process may ask alone."""
    folder = start / "checkpoints"
    step = newest_whole(folder) if folder.is_dir() else None
    if step is None:
        raise UserError(f"{start} holds no finished checkpoint: train it first (cleanclip train)")
    return step


def forwards(config: ConfigDict, steps: int) -> int:
    """How often batch norm has counted a batch in so many steps of a run."""
    if config.model.bn_frozen or config.train.trainable == "head":
        return 0
    views = any(config.objective[name] for name in NEEDS_VIEWS)
    return steps * (2 if views and config.objective.separate_views else 1)
