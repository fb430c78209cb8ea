"""How a run claims a workdir, and knows it again."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from cleanclip_jax.config import flatten, from_json, to_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source
from cleanclip_jax.run.settings import has_begun
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.workdir import CONFIG, INPUTS, MANIFEST, ORIGIN, TOKENIZER, Workdir, workdir_path

if TYPE_CHECKING:
    from cleanclip_jax.attacks.plan import Plan
    from cleanclip_jax.start.start import Start
else:
    Plan = Start = Any

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
# A run that has begun replays its copy of the manifest.
COPIED = ("attack.manifest",)


def facts_of(
    config: ConfigDict, source: Source, plan: Plan | None, start: Start | None
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
        "the poison plan": "none" if plan is None else plan.digest,
        "the start": str(identity.get("digest", "none")),
    }


def inputs_of(source: Source) -> dict[str, Any]:
    """What inputs.json says of the data."""
    return {"fingerprint": source.fingerprint, "pairs": len(source)}


def check_workdir(config: ConfigDict, workdir: Workdir, source: Source) -> None:
    """Checks that a workdir is this run's or nobody's; writes nothing.

    Data and start may have moved: their fingerprints tell whether they are the same.
    """
    if not workdir.has(CONFIG):
        path = workdir.path
        if path.exists() and (not path.is_dir() or any(map(_is_whole, path.iterdir()))):
            raise UserError(f"{path} is not empty and no run's workdir: name a new folder")
        return
    # By way of JSON, which knows no tuples.
    new = flatten(ConfigDict(json.loads(to_json(config))))
    old = flatten(from_json(workdir / CONFIG))
    differing = {
        key: f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    inputs = workdir.read_json(INPUTS) if workdir.has(INPUTS) else {}
    begun = has_begun(workdir)
    same_data = inputs.get("data") == inputs_of(source)

    def free(key: str) -> bool:
        if key == "start":
            return _same_start(old.get(key), new.get(key), inputs.get("start"))
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


def _same_start(old: str | None, new: str | None, recorded: dict[str, Any] | None) -> bool:
    """Whether two paths name the same start: the same place, or what has the recorded digest."""
    if old is None or new is None:
        return False
    if os.path.realpath(old) == os.path.realpath(new):
        return True
    from cleanclip_jax.start.start import open_start

    digest = (recorded or {}).get("digest")
    return digest is not None and open_start(workdir_path(new)).identity.get("digest") == digest


def _is_whole(path: Path) -> bool:
    """Whether a file is more than the scratch of a write that was killed (files.written_whole)."""
    return not (path.name.startswith(".") and path.name.endswith(".part"))


def claim(
    config: ConfigDict,
    workdir: Workdir,
    source: Source,
    tokenizer: Tokenizer,
    plan: Plan | None,
    start: Start | None,
) -> None:
    """Makes a workdir this run's: its config, inputs, tokenizer, manifest and interop.json.

    Args:
      start: None also where the run has begun.
    """
    # First: it is what says whose folder this is.
    workdir.write(CONFIG, to_json(config))
    if not has_begun(workdir):
        identity = None if start is None else start.identity
        workdir.write_json(INPUTS, {"data": inputs_of(source), "start": identity})
    if not workdir.has(TOKENIZER):
        tokenizer.save(workdir / TOKENIZER)
    if plan is not None and not workdir.has(MANIFEST):
        plan.save(workdir / MANIFEST)
    if start is not None and not workdir.has(ORIGIN):
        origin = start.origin()
        if origin is not None:
            origin.save(workdir.path)
