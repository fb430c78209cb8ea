"""A run's config, whole: what it leaves open comes from its start, its workdir, or by default."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from cleanclip_jax.config import check, defaults, from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import variant_of
from cleanclip_jax.start.store import steps_of
from cleanclip_jax.workdir import CHECKPOINTS, CONFIG, MANIFEST, Workdir, workdir_path

if TYPE_CHECKING:
    from cleanclip_jax.start.start import Start
else:
    Start = Any

# Keys of config.evaluation that a run takes over from its start where it names none.
INHERITED = ("data", "sets", "classes", "templates", "attack", "target", "retrieval")


def has_begun(workdir: Workdir) -> bool:
    """Whether a run has saved a step there: from then on it needs its start no more."""
    if not workdir.has(CONFIG):
        return False
    with closing(steps_of(workdir / CHECKPOINTS)) as there:
        return bool(there.steps())


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
                inherited = from_json(workdir / CONFIG)
            else:
                from cleanclip_jax.start.start import open_start

                inherited = (start or open_start(workdir_path(config.start), config)).config
            _inherit(config, inherited)
        if config.model.variant is None:
            raise UserError("config.model.variant is not set: name one, or a config.start")
        if config.model.activation is None:
            config.model.activation = "quick_gelu"
        numbers = variant_of(config.model.variant)
        if config.model.image_size is None:
            config.model.image_size = numbers.image_size
        if config.text.context_length is None:
            config.text.context_length = numbers.context_length
        if config.text.tokenizer is None:
            config.text.tokenizer = "clip"
        if config.evaluation.templates is None:
            config.evaluation.templates = "imagenet"
        if config.attack is not None:
            from cleanclip_jax.attacks.plan import spelled_out

            attack = config.attack.to_dict()
            if begun and workdir is not None and attack.get("manifest") is not None:
                # The copy there: the file that it was begun with may be gone.
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
        inherited = start.model[key]
        if config.model[key] not in (None, inherited):
            raise UserError(
                f"config.model.{key} is {config.model[key]!r}, but the start run "
                f"{config.start} has {inherited!r}: leave it out"
            )
        config.model[key] = inherited
    # Where CLIP's merges file is says nothing of what is in it, and how captions are cut is no
    # part of a model.
    text = start.text.copy_and_resolve_references()
    text.merges = config.text.merges or text.merges
    text.keep_end = text.keep_end and config.text.keep_end
    for key, default in defaults().text.items():
        if config.text[key] not in (default, text[key]):
            raise UserError(
                f"config.text.{key} is {config.text[key]!r}, but the start run "
                f"{config.start} has {text[key]!r}: leave it out"
            )
    config.text = text
    # A run that is poisoned itself is measured with that attack.
    poisoned = ("attack", "target") if config.attack is not None else ()
    for key in INHERITED:
        if config.evaluation[key] is None and key not in poisoned:
            config.evaluation[key] = start.evaluation[key]
