"""A run's config, whole, and the workdir that holds it: made, claimed, and known again.

What a config leaves open comes from its start, its workdir, or by default.
"""

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from cleanclip_jax.config import (
    RULES,
    check,
    defaults,
    flatten,
    from_json,
    parse_json,
    to_json,
)
from cleanclip_jax.config_keys import keys_of
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import take
from cleanclip_jax.models.clip import variant_of
from cleanclip_jax.record import Source, fingerprint_of
from cleanclip_jax.start.store import steps_of
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.workdir import (
    CHECKPOINTS,
    CONFIG,
    INPUTS,
    MANIFEST,
    ORIGIN,
    OWNER,
    SUSPECTS,
    TOKENIZER,
    Workdir,
    workdir_path,
)

if TYPE_CHECKING:
    from cleanclip_jax.attacks.plan import Plan
    from cleanclip_jax.start.start import Start
else:
    Plan = Start = Any

log = logging.getLogger(__name__)

# Keys of config.evaluation that a run takes over from its start where it names none.
INHERITED = ("data", "sets", "classes", "templates", "attack", "target", "retrieval")
# What may differ between the start of a run and its resumption: it changes no weight, but for the
# rounding of sums.
FREE = (
    *("data.workers", "data.resident", "data.resident_share", "data.timeout"),
    *("data.max_bad_share", "text.merges", "train.log_every", "train.checkpoint_every"),
    *("train.keep", "train.chunks", "train.text_lengths", "train.wandb", "objective.ring"),
    *("evaluation.", "mesh.", "model.attention", "model.scan", "model.remat"),
)
# A run that has begun has copies of these.
COPIED = ("attack.manifest", "data.suspects.manifest", "data.suspects.scores")


def has_begun(workdir: Workdir) -> bool:
    """Whether a run has saved a step there: from then on it needs its start no more."""
    if not workdir.has(CONFIG):
        return False
    with closing(steps_of(workdir / CHECKPOINTS)) as there:
        return bool(there.steps())


def resolve(
    config: ConfigDict,
    workdir: Workdir | None = None,
    start: Start | None = None,
    begun: bool | None = None,
) -> ConfigDict:
    """Returns the config with what it leaves open filled in.

    Args:
      workdir: the run's; one that has begun says itself what its start was.
      start: config.start, where it is open already.
      begun: `has_begun` of the workdir, where that is known.
    """
    check(config)
    config = config.copy_and_resolve_references()
    if begun is None:
        begun = workdir is not None and has_begun(workdir)
    with config.unlocked(), config.ignore_type():
        if config.start is None and (config.start_change.shrink, config.start_change.perturb) != (
            1,
            0,
        ):
            raise UserError("config.start_change is of a start: set config.start, or leave it out")
        if config.start is not None:
            if begun and workdir is not None:
                inherited = from_json(workdir / CONFIG)
            else:
                from cleanclip_jax.start.start import open_start

                path = workdir_path(config.start)
                inherited = (start or open_start(path, config, config.start_key)).config
            _inherit(config, inherited)
        elif config.start_key is not None:
            raise UserError("config.start_key is set, but not config.start, the file that it is of")
        if config.model.variant is None:
            raise UserError("config.model.variant is not set: name one, or a config.start")
        numbers = variant_of(config.model.variant)
        for section, key, default in (
            (config.model, "activation", "quick_gelu"),
            (config.model, "image_size", numbers.image_size),
            (config.text, "context_length", numbers.context_length),
            (config.text, "tokenizer", "clip"),
            (config.evaluation, "templates", "imagenet"),
        ):
            if section[key] is None:
                section[key] = default
        if config.attack is not None:
            from cleanclip_jax.attacks.plan import spelled_out
            from cleanclip_jax.table_keys import is_targeted

            attack = config.attack.to_dict()
            if begun and workdir is not None and attack.get("manifest") is not None:
                # The copy there: the file that it was begun with may be gone.
                copy = spelled_out({**attack, "manifest": str(workdir / MANIFEST)})
                config.attack = ConfigDict({**copy, "manifest": attack["manifest"]})
            else:
                config.attack = ConfigDict(spelled_out(attack))
            if config.attack.get("seed") is None:
                config.attack.seed = config.seed
            if is_targeted(config.attack):
                attack = {**config.attack.to_dict(), "data": config.data.train.to_dict()}
                config.evaluation.attack = ConfigDict(attack)
        if config.evaluation.attack is None:
            config.evaluation.attack = config.attack
        for table in RULES:
            if config[table] is not None:
                given = take(f"config.{table}", config[table].to_dict(), keys_of(table))
                config[table] = ConfigDict(given)
    return config


def _inherit(config: ConfigDict, start: ConfigDict) -> None:
    """Takes architecture, tokenizer and what is measured from a start's config."""
    plain, models = defaults(), [f"model.{key}" for key in ("variant", "activation", "image_size")]
    for name in (*models, *(f"text.{key}" for key in start.text)):
        section, _, key = name.partition(".")
        given, inherited = config[section].get(key), start[section][key]
        if name == "text.merges":
            # Where CLIP's merges file is says nothing of what is in it.
            inherited = given or inherited
        elif name == "text.keep_end":
            inherited = given and inherited  # how captions are cut is no part of a model
        elif given not in (plain[section].get(key), inherited):
            raise UserError(
                f"config.{name} is {given!r}, but the start run {config.start} has "
                f"{inherited!r}: leave it out"
            )
        config[section][key] = inherited
    # A run that is poisoned itself is measured with that attack.
    poisoned = ("attack", "target") if config.attack is not None else ()
    for key in INHERITED:
        if config.evaluation[key] is None and key not in poisoned:
            config.evaluation[key] = start.evaluation[key]


def facts_of(
    config: ConfigDict,
    source: Source,
    plan: Plan | None,
    start: Start | None,
    suspects: Bool[np.ndarray, " n"] | None = None,
    artefacts: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What all processes of a run have to have the same, as text by name.

    Paths may differ, as of data on each machine's disk: what lies there may not.
    """
    identity = {} if start is None else start.identity
    return {
        **{
            f"config.{key}": repr(value)
            for key, value in flatten(config).items()
            if key != "start" and not key.startswith(("data.train.", *COPIED, *FREE))
        },
        "the fingerprint of the data": source.fingerprint,
        "the suspects": "none" if suspects is None else _digest(suspects),
        "the poison plan": "none" if plan is None else plan.digest,
        "the start": str(identity.get("digest", "none")),
        **{f"the artefact of {name}": one.digest for name, one in (artefacts or {}).items()},
    }


def _digest(marked: Bool[np.ndarray, " n"]) -> str:
    return fingerprint_of(marked=np.flatnonzero(marked).tolist())


def inputs_of(source: Source) -> dict[str, Any]:
    """What inputs.json says of the data."""
    return {"fingerprint": source.fingerprint, "pairs": len(source)}


def _files_of(config: ConfigDict) -> dict[str, Any]:
    """What inputs.json says of the files of ids and scores that the data are filtered by."""
    data = config.data.train.to_dict()
    if data.get("kind") != "mixture" and not {"keep", "skip"} & data.keys():
        return {}
    from cleanclip_jax.data.subset import filter_facts

    files = filter_facts(data, "data.train")
    return {"files": files} if files else {}


def check_workdir(
    config: ConfigDict, workdir: Workdir, source: Source, begun: bool | None = None
) -> None:
    """Checks that a workdir is this run's or nobody's; writes nothing.

    Data and start may have moved: their fingerprints tell whether they are the same.
    """
    if not workdir.has(CONFIG):
        path = workdir.path
        if path.exists() and (not path.is_dir() or any(map(_is_whole, path.iterdir()))):
            raise UserError(f"{path} is not empty and no run's workdir: name a new folder")
        return
    # By way of JSON, which knows no tuples but those of keys that are tuples.
    new, old = flatten(parse_json(to_json(config))), flatten(from_json(workdir / CONFIG))
    differing = {
        key: f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    inputs = workdir.read_json(INPUTS) if workdir.has(INPUTS) else {}
    begun = has_begun(workdir) if begun is None else begun
    same_data = inputs.get("data") == inputs_of(source)

    def free(key: str) -> bool:
        if key == "start":
            from cleanclip_jax.start.start import is_same

            return is_same(old.get(key), new.get(key), config.start_key, inputs.get("start"))
        moved = key.startswith("data.train.") and begun and same_data
        return moved or key.startswith(FREE) or (begun and key in COPIED)

    others = [text for key, text in differing.items() if not free(key)]
    if others:
        raise UserError(f"{workdir} is the workdir of another run: {'; '.join(others[:4])}")
    if "data" in inputs and not same_data:
        raise UserError(
            f"{workdir} was begun with other pairs than config.data.train gives now: bring those "
            "files back, or name a new workdir"
        )
    if differing:
        log.info("%s goes on with other settings: %s", workdir, "; ".join(differing.values()))


def _is_whole(path: Path) -> bool:
    """Whether a file is more than what a kill leaves: a torn write's scratch, a sign of life."""
    return path.name != OWNER and not (path.name.startswith(".") and path.name.endswith(".part"))


def claim(
    config: ConfigDict,
    workdir: Workdir,
    source: Source,
    tokenizer: Tokenizer,
    plan: Plan | None,
    start: Start | None,
    suspects: Bool[np.ndarray, " n"] | None = None,
    begun: bool = False,
    artefacts: Mapping[str, Any] | None = None,
) -> None:
    """Makes a workdir this run's: its config, inputs, tokenizer, manifest, suspects, interop.json.

    Args:
      start: None also where the run has begun.
    """
    # First: it is what says whose folder this is.
    workdir.write(CONFIG, to_json(config))
    if not begun:
        identity = None if start is None else start.identity
        made = {name: {"path": x.path, "digest": x.digest} for name, x in (artefacts or {}).items()}
        inputs = {"data": inputs_of(source), "start": identity, **_files_of(config)}
        workdir.write_json(INPUTS, inputs | ({"artefacts": made} if made else {}))
    if not workdir.has(TOKENIZER):
        tokenizer.save(workdir / TOKENIZER)
    if plan is not None and not workdir.has(MANIFEST):
        plan.save(workdir / MANIFEST)
    if suspects is not None and not workdir.has(SUSPECTS):
        from cleanclip_jax.data.subset import write_ids

        write_ids(workdir / SUSPECTS, source.ids()[suspects], source.root().fingerprint)
    if start is not None and not workdir.has(ORIGIN):
        origin = start.origin()
        if origin is not None:
            origin.save(workdir.path)
