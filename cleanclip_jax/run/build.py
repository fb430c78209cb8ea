"""A workdir is a run: what lies in it, how a new one begins and an old one is taken up."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan, make_plan, spelled_out
from cleanclip_jax.config import defaults, flatten, from_json, to_json
from cleanclip_jax.data.sources import Source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.models.blocks import ATTENTION
from cleanclip_jax.models.clip import CLIP, build, init
from cleanclip_jax.models.variants import find_variant
from cleanclip_jax.run.head import load_head
from cleanclip_jax.sharding import copied_over, make_mesh, place_state
from cleanclip_jax.start.start import (
    TOKENIZER,
    foreign_variables,
    load_tokenizer,
    origin_of,
    start_config,
    start_of,
    vocabulary,
)
from cleanclip_jax.start.store import abstract, load_model
from cleanclip_jax.start.torch import tensors as interop
from cleanclip_jax.start.torch.checkpoint import is_foreign
from cleanclip_jax.text.tokenizer import Tokenizer, find_merges
from cleanclip_jax.workdir import workdir_path

log = logging.getLogger(__name__)

# What may differ between the start of a run and its resumption: it changes no weight, but for the
# rounding of sums.
FREE = (
    "data.workers",
    "data.resident",
    "data.resident_share",
    "data.timeout",
    "data.max_bad_share",
    "train.log_every",
    "text.merges",
    "train.checkpoint_every",
    "train.keep",
    "train.chunks",
    "train.text_lengths",
    "train.wandb",
    "objective.ring",
    "evaluation.",
    "mesh.",
    "model.attention",
    "model.scan",
    "model.remat",
)
DTYPES = ("float32", "bfloat16", "float64")
# Keys of config.evaluation that a run takes over from its start where it names none of its own.
MEASURED = ("data", "sets", "classes", "templates", "attack", "target", "retrieval")
# What lies in a workdir beside config.json, its tokenizer and interop.json.
MANIFEST, INPUTS = "poison.parquet", "inputs.json"


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns the config with what it leaves open filled in, from its start run or by default.

    Raises:
      UserError: no start and no variant, or a start of another architecture.
    """
    check(config)
    config = config.copy_and_resolve_references()
    start = start_config(workdir_path(config.start), config) if config.start else None
    inherited = ("variant", "activation", "image_size")
    with config.unlocked(), config.ignore_type():
        if start is not None:
            for key in inherited:
                theirs = start.model[key]
                if config.model[key] not in (None, theirs):
                    raise UserError(
                        f"config.model.{key} is {config.model[key]!r}, but the start run "
                        f"{config.start} has {theirs!r}: leave it out"
                    )
                config.model[key] = theirs
            # Where CLIP's merges file is says nothing of what is in it.
            start.text.merges = config.text.merges or start.text.merges
            for key, default in defaults().text.items():
                if config.text[key] not in (default, start.text[key]):
                    raise UserError(
                        f"config.text.{key} is {config.text[key]!r}, but the start run "
                        f"{config.start} has {start.text[key]!r}: leave it out"
                    )
            config.text = start.text
            # A run that is poisoned itself is measured with its own attack.
            own = ("attack", "target") if config.attack is not None else ()
            for key in MEASURED:
                if config.evaluation[key] is None and key not in own:
                    config.evaluation[key] = start.evaluation[key]
        if config.model.variant is None:
            raise UserError("config.model.variant is not set: name one, or a config.start")
        if config.model.activation is None:
            config.model.activation = "quick_gelu"
        numbers = find_variant(config.model.variant)
        if config.model.image_size is None:
            config.model.image_size = numbers.image_size
        if config.text.context_length is None:
            config.text.context_length = numbers.context_length
        if config.text.tokenizer is None:
            config.text.tokenizer = "clip"
        if config.evaluation.templates is None:
            config.evaluation.templates = "imagenet"
        if config.attack is not None:
            config.attack = ConfigDict(spelled_out(config.attack.to_dict()))
            if config.attack.get("seed") is None:
                config.attack.seed = config.seed
        if config.evaluation.attack is None:
            config.evaluation.attack = config.attack
    return config


def check(config: ConfigDict) -> None:
    """Refuses values that no run can have.

    Raises:
      UserError: the first of them.
    """
    whole = {
        "seed": 0,
        "train.batch_size": 1,
        "train.log_every": 1,
        "train.checkpoint_every": 1,
        "train.keep": 1,
        "evaluation.batch_size": 1,
        "evaluation.projection": 0,
        "model.bn_groups": 1,
        "data.workers": 0,
        "train.epochs" if config.train.steps is None else "train.steps": 1,
    }
    values = flatten(config)
    for key, least in whole.items():
        if not isinstance(values[key], int) or values[key] < least:
            raise UserError(
                f"config.{key} is {values[key]!r}; it takes a whole number, {least} or more"
            )
    for key in ("model.dtype", "model.param_dtype"):
        if values[key] not in DTYPES:
            raise UserError(f"config.{key} is {values[key]!r}; known: {', '.join(DTYPES)}")
    if config.train.batch_size % config.model.bn_groups:
        raise UserError(
            f"config.train.batch_size {config.train.batch_size} does not divide into "
            f"config.model.bn_groups {config.model.bn_groups}"
        )
    if config.data.resident and config.views.on != "device":
        raise UserError(
            "config.data.resident needs config.views.on=device: what lies in device memory is "
            "poisoned and augmented there"
        )
    share, lengths = config.data.resident_share, config.train.text_lengths
    if not 0 < share <= 1:
        raise UserError(f"config.data.resident_share is {share!r}; it takes a share, 0 to 1")
    if not all(isinstance(length, int) and length > 0 for length in lengths):
        raise UserError(
            f"config.train.text_lengths is {lengths!r}; it takes whole numbers, as (16, 32, 48), "
            "or () for whole captions"
        )
    for key in ("attack", "evaluation.attack", "evaluation.data", "evaluation.retrieval"):
        node = config[key]
        if node is not None and not isinstance(node, ConfigDict):
            raise UserError(
                f"config.{key} is {node!r}; it takes a dictionary, as in configs/demo.py"
            )
    for key in ("attack", "evaluation.attack"):
        if config[key] is None or (key == "attack" and config.attack.get("manifest") is not None):
            continue
        if not isinstance(config[key].get("trigger"), ConfigDict):
            raise UserError(f"config.{key} has no trigger: {{'name': 'badnet', ...}}")


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Checks that `workdir` is this run's or nobody's; writes nothing.

    Raises:
      UserError: it holds another run, or files that no run made.
    """
    path = workdir / "config.json"
    if path.is_file():
        # By way of JSON, which knows no tuples.
        now = ConfigDict(json.loads(to_json(config)))
        old, new = flatten(from_json(path)), flatten(now)
        changed = {
            key: f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        }
        other = [said for key, said in changed.items() if not key.startswith(FREE)]
        if other:
            raise UserError(f"{workdir} is the workdir of another run: {'; '.join(other[:4])}")
        if changed:
            log.info("%s goes on with other settings: %s", workdir, "; ".join(changed.values()))
    elif workdir.exists() and (not workdir.is_dir() or any(map(_is_kept, workdir.iterdir()))):
        raise UserError(f"{workdir} is not empty and no run's workdir: name a new folder")


def _is_kept(path: Path) -> bool:
    """Whether a file is more than the scratch of a write that was killed (files.written_whole)."""
    return not (path.name.startswith(".") and path.name.endswith(".part"))


def claim(
    config: ConfigDict, workdir: Path, source: Source, tokenizer: Tokenizer, plan: Plan | None
) -> None:
    """Makes `workdir` this run's: its config, inputs, tokenizer, manifest and interop.json.

    Raises:
      UserError: the run was begun with other pairs.
    """
    inputs: dict[str, Any] = {
        "data": {"fingerprint": source.fingerprint, "pairs": len(source)},
        "start": None if config.start is None else start_of(workdir_path(config.start)),
    }
    path = workdir / INPUTS
    if path.is_file() and json.loads(path.read_text())["data"] != inputs["data"]:
        raise UserError(
            f"{workdir} was begun with other pairs than config.data.train gives now: bring those "
            "files back, or name a new workdir"
        )
    # First: it is what says whose folder this is.
    write_whole(workdir / "config.json", to_json(config))
    if not (workdir / "checkpoints").is_dir():  # else the start has been left behind
        write_whole(path, json.dumps(inputs, indent=2) + "\n")
    if not (workdir / TOKENIZER).is_file():
        tokenizer.save(workdir / TOKENIZER)
    if plan is not None and not (workdir / MANIFEST).is_file():
        plan.save(workdir / MANIFEST)
    if config.start and not (workdir / interop.FILE).is_file():
        origin = origin_of(workdir_path(config.start))
        if origin is not None:
            origin.save(workdir)


def make_tokenizer(config: ConfigDict, workdir: Path, source: Source) -> Tokenizer:
    """Returns the run's tokenizer: its workdir's, its start's, or a new one."""
    if (workdir / TOKENIZER).is_file():
        return Tokenizer.load(workdir / TOKENIZER)
    if config.start:
        return load_tokenizer(workdir_path(config.start), config)
    text = config.text
    if text.tokenizer == "clip":
        merges = find_merges(text.merges)
        return Tokenizer.clip(merges, text.context_length, keep_end=text.keep_end)
    if text.tokenizer == "trained":
        captions = (source.caption(i) for i in range(len(source)))
        return Tokenizer.train(
            captions, text.vocab_size, text.context_length, keep_end=text.keep_end
        )
    raise UserError(f"config.text.tokenizer is {text.tokenizer!r}; known: clip, trained")


def poison_plan(config: ConfigDict, workdir: Path, source: Source) -> Plan | None:
    """Returns the run's poison plan, replayed from its manifest or made."""
    if config.attack is None:
        return None
    if (workdir / MANIFEST).is_file():
        return Plan.load(workdir / MANIFEST, source.fingerprint)
    return make_plan(config.attack.to_dict(), source, config.model.image_size)


def make_model(config: ConfigDict, vocab_size: int) -> CLIP:
    """Returns the model that a resolved config describes."""
    m = config.model
    if "float64" in (m.dtype, m.param_dtype) and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model: float64 needs JAX_ENABLE_X64=1 in the environment")
    return build(
        m.variant,
        vocab_size=vocab_size,
        context_length=config.text.context_length,
        image_size=m.image_size,
        activation=m.activation,
        dtype=m.dtype,
        param_dtype=m.param_dtype,
        bn_groups=m.bn_groups,
        bn_frozen=m.bn_frozen,
        attention=attention_of(m.attention, m.dtype),
        scan=m.scan,
        remat=m.remat,
    )


def attention_of(asked: str, dtype: str) -> str:
    """Returns which attention is used: what is asked for, where this machine has it.

    Raises:
      UserError: there is no such attention, or not in this precision.
    """
    if asked not in ATTENTION:
        raise UserError(f"config.model.attention is {asked!r}; known: {', '.join(ATTENTION)}")
    if asked == "cudnn" and dtype != "bfloat16":
        raise UserError(
            f"config.model.attention=cudnn computes in bfloat16, not {dtype}: set "
            "config.model.dtype=bfloat16, or config.model.attention=xla"
        )
    if asked == "cudnn" and jax.default_backend() != "gpu":
        log.warning("config.model.attention=cudnn needs a GPU: attention is computed by XLA")
        return "xla"
    return asked


def start_variables(config: ConfigDict, model: CLIP, mesh: Mesh) -> Mapping[str, Any]:
    """Returns the weights that a run begins with: fresh by its seed, or its start run's."""
    if not config.start:
        return init(model, jax.random.key(config.seed))
    return without_head(restore_variables(workdir_path(config.start), model, mesh)[1])


def without_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the two towers: another run's head tells other classes apart."""
    params = {name: part for name, part in variables["params"].items() if name != "head"}
    return {**variables, "params": params}


def restore_variables(
    path: Path, model: CLIP, mesh: Mesh, step: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a workdir's checkpoint, or of a PyTorch checkpoint.

    Args:
      step: of a workdir's checkpoint; None: the newest.
    """
    if is_foreign(path):
        return 0, place_state(mesh, foreign_variables(path, model))
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    wanted = {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}
    if (head := load_head(path)) is not None:
        numbers, dtype = model.variant.features, str(model.param_dtype)
        wanted["params"] = {**wanted["params"], "head": head.shapes(numbers, dtype)}
    return load_model(path, abstract(wanted, copied_over(mesh)), step)


def load_weights(path: Path, activation: str | None = None) -> tuple[CLIP, dict[str, Any]]:
    """Returns the model and its variables, of a run's newest checkpoint or a PyTorch checkpoint.

    Args:
      activation: quick_gelu | gelu, where a PyTorch checkpoint doesn't say.

    Raises:
      UserError: there is no such thing, or it can't be read.
    """
    asked = defaults()
    with asked.ignore_type():
        asked.model.activation = activation
    config = start_config(path, asked)
    if activation not in (None, config.model.activation):
        raise UserError(f"{path} was trained with {config.model.activation}, not {activation}")
    model = make_model(config, vocabulary(path, config))
    return model, without_head(restore_variables(path, model, make_mesh(1))[1])


@dataclass(frozen=True)
class Trained:
    """A run's checkpoint with all that goes with it."""

    config: ConfigDict
    tokenizer: Tokenizer
    model: CLIP
    variables: Mapping[str, Any]
    step: int
    head: Classifier | None


def load_run(
    workdir: Path, mesh: Mesh, config: ConfigDict | None = None, step: int | None = None
) -> Trained:
    """Loads a checkpoint of a run, or a PyTorch checkpoint.

    Args:
      config: from `start_config`, with changes.
      step: of a run's checkpoint; None: the newest.

    Raises:
      UserError: there is no such thing, it has no such checkpoint, or its tokenizer isn't known.
    """
    config = config or start_config(workdir)
    tokenizer = load_tokenizer(workdir, config)
    model = make_model(config, tokenizer.vocab_size)
    step, variables = restore_variables(workdir, model, mesh, step)
    head = load_head(workdir)
    classifier = None if head is None else head.classifier(variables["params"]["head"])
    return Trained(config, tokenizer, model, without_head(variables), step, classifier)
