"""A run's config, whole: what it leaves open comes from its start, its workdir, or by default."""

from pathlib import Path

from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import spelled_out
from cleanclip_jax.config import defaults, flatten, from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import find_variant
from cleanclip_jax.start.start import Start, open_start
from cleanclip_jax.workdir import CHECKPOINTS, CONFIG, MANIFEST, Workdir

DTYPES = ("float32", "bfloat16", "float64")
# Keys of config.evaluation that a run takes over from its start where it names none of its own.
INHERITED = ("data", "sets", "classes", "templates", "attack", "target", "retrieval")


def has_begun(workdir: Workdir) -> bool:
    """Whether a run has saved a step there: from then on it needs its start no more."""
    folder = workdir / CHECKPOINTS
    return (
        workdir.has(CONFIG)
        and folder.is_dir()
        and any(p.name.isdecimal() for p in folder.iterdir())
    )


def resolve(
    config: ConfigDict, workdir: Workdir | None = None, start: Start | None = None
) -> ConfigDict:
    """Returns the config with what it leaves open filled in.

    Args:
      workdir: the run's; one that has begun says itself what its start was.
      start: config.start, where it is open already.
    """
    check(config)
    config = config.copy_and_resolve_references()
    begun = workdir is not None and has_begun(workdir)
    with config.unlocked(), config.ignore_type():
        if config.start is not None:
            if begun:
                assert workdir is not None
                theirs = from_json(workdir / CONFIG)
            else:
                theirs = (start or open_start(Path(config.start), config)).config
            _inherit(config, theirs)
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
            attack = config.attack.to_dict()
            if begun and workdir is not None and attack.get("manifest") is not None:
                # Its own copy: the file that it was begun with may be gone.
                copy = spelled_out({**attack, "manifest": str(workdir / MANIFEST)})
                config.attack = ConfigDict({**copy, "manifest": attack["manifest"]})
            else:
                config.attack = ConfigDict(spelled_out(attack))
            if config.attack.get("seed") is None:
                config.attack.seed = config.seed
        if config.evaluation.attack is None:
            config.evaluation.attack = config.attack
    return config


def _inherit(config: ConfigDict, start: ConfigDict) -> None:
    """Takes architecture, tokenizer and what is measured from a start's config."""
    for key in ("variant", "activation", "image_size"):
        theirs = start.model[key]
        if config.model[key] not in (None, theirs):
            raise UserError(
                f"config.model.{key} is {config.model[key]!r}, but the start run "
                f"{config.start} has {theirs!r}: leave it out"
            )
        config.model[key] = theirs
    # Where CLIP's merges file is says nothing of what is in it.
    text = start.text.copy_and_resolve_references()
    text.merges = config.text.merges or text.merges
    for key, default in defaults().text.items():
        if config.text[key] not in (default, text[key]):
            raise UserError(
                f"config.text.{key} is {config.text[key]!r}, but the start run "
                f"{config.start} has {text[key]!r}: leave it out"
            )
    config.text = text
    # A run that is poisoned itself is measured with its own attack.
    own = ("attack", "target") if config.attack is not None else ()
    for key in INHERITED:
        if config.evaluation[key] is None and key not in own:
            config.evaluation[key] = start.evaluation[key]


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
