"""A workdir is a run: what lies in it, how a new one begins and an old one is taken up."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.checkpoints.store import abstract, load_model
from cleanclip_jax.config import defaults, flatten, from_json, to_json
from cleanclip_jax.data.sources import Source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.models.clip import CLIP, build, init
from cleanclip_jax.models.variants import find_variant
from cleanclip_jax.sharding import copied_over
from cleanclip_jax.text.tokenizer import Tokenizer, find_merges

# What may differ between the start of a run and its resumption: it changes no weight.
FREE = (
    "data.workers",
    "data.timeout",
    "data.max_bad_share",
    "train.log_every",
    "text.merges",
    "train.checkpoint_every",
    "train.keep",
    "evaluation.",
    "mesh.",
    "model.scan",
    "model.remat",
)
DTYPES = ("float32", "bfloat16", "float64")
# What lies in a workdir beside config.json.
MANIFEST, TOKENIZER = "poison.parquet", "tokenizer.json"


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns the config with what it leaves open filled in, from its start run or by default.

    Raises:
      UserError: no start and no variant, or a start of another architecture.
    """
    check(config)
    config = config.copy_and_resolve_references()
    start = from_json(Path(config.start) / "config.json") if config.start else None
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
            for key, default in defaults().text.items():
                if config.text[key] not in (default, start.text[key]):
                    raise UserError(
                        f"config.text.{key} is {config.text[key]!r}, but the start run "
                        f"{config.start} has {start.text[key]!r}: leave it out"
                    )
            config.text = start.text
            # A run that is poisoned itself is measured with its own attack.
            own = ("attack", "target") if config.attack is not None else ()
            for key in ("data", "templates", "attack", "target"):
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
        if config.attack is not None and config.attack.get("seed") is None:
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
    for key in ("attack", "evaluation.attack", "evaluation.data"):
        node = config[key]
        if node is not None and not isinstance(node, ConfigDict):
            raise UserError(
                f"config.{key} is {node!r}; it takes a dictionary, as in configs/demo.py"
            )
    for key in ("attack", "evaluation.attack"):
        if config[key] is not None and not isinstance(config[key].get("trigger"), ConfigDict):
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
        changed = sorted(
            f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
            for key in old.keys() | new.keys()
            if old.get(key) != new.get(key) and not key.startswith(FREE)
        )
        if changed:
            raise UserError(f"{workdir} is the workdir of another run: {'; '.join(changed[:4])}")
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is not empty and no run's workdir: name a new folder")


def claim(config: ConfigDict, workdir: Path, tokenizer: Tokenizer, plan: Plan | None) -> None:
    """Makes `workdir` this run's: its config, its tokenizer and its poison manifest."""
    write_whole(workdir / "config.json", to_json(config))
    if not (workdir / TOKENIZER).is_file():
        tokenizer.save(workdir / TOKENIZER)
    if plan is not None and not (workdir / MANIFEST).is_file():
        plan.save(workdir / MANIFEST)


def make_tokenizer(config: ConfigDict, workdir: Path, source: Source) -> Tokenizer:
    """Returns the run's tokenizer: its workdir's, its start's, or a new one."""
    for folder in (workdir, config.start):
        if folder and (Path(folder) / TOKENIZER).is_file():
            return Tokenizer.load(Path(folder) / TOKENIZER)
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
    return make_plan(
        config.attack.to_dict(),
        len(source),
        source.caption,
        config.model.image_size,
        source.fingerprint,
    )


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
        scan=m.scan,
        remat=m.remat,
    )


def start_variables(config: ConfigDict, model: CLIP, mesh: Mesh) -> Mapping[str, Any]:
    """Returns the weights that a run begins with: fresh by its seed, or its start run's."""
    if not config.start:
        return init(model, jax.random.key(config.seed))
    return restore_variables(Path(config.start), model, mesh)[1]


def restore_variables(workdir: Path, model: CLIP, mesh: Mesh) -> tuple[int, dict[str, Any]]:
    """Returns (step, variables) of a workdir's newest checkpoint."""
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    wanted = {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}
    return load_model(workdir, abstract(wanted, copied_over(mesh)))


@dataclass(frozen=True)
class Trained:
    """A run's newest checkpoint with all that goes with it."""

    config: ConfigDict
    tokenizer: Tokenizer
    model: CLIP
    variables: Mapping[str, Any]
    step: int


def load_run(workdir: Path, mesh: Mesh, config: ConfigDict | None = None) -> Trained:
    """Loads the newest checkpoint of a run.

    Args:
      config: the run's config with changes, in place of the one in its config.json.

    Raises:
      UserError: the folder is no workdir, or has no checkpoint.
    """
    config = config or from_json(workdir / "config.json")
    tokenizer = Tokenizer.load(workdir / TOKENIZER)
    model = make_model(config, tokenizer.vocab_size)
    step, variables = restore_variables(workdir, model, mesh)
    return Trained(config, tokenizer, model, variables, step)
