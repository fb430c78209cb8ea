"""A run's checkpoints measured: evaluation.json, and course.json of those on the way."""

import json
import logging
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import in_bucket, read_bytes, write_whole, writing
from cleanclip_jax.measure.encoder import encoder_of
from cleanclip_jax.measure.measure import Opened, evaluate, open_measured
from cleanclip_jax.measure.projection import project_first
from cleanclip_jax.measure.ranks import head_classifier
from cleanclip_jax.process import is_first
from cleanclip_jax.report.pictures import PROJECTION, draw
from cleanclip_jax.report.tables import Row, values_of
from cleanclip_jax.shapes import load_json
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import RunStart, Start, load_start, open_start
from cleanclip_jax.start.store import open_store
from cleanclip_jax.workdir import EVALUATION, Workdir, workdir_path

COURSE = "course.json"
log = logging.getLogger(__name__)


def check_measured(config: ConfigDict, path: Path) -> tuple[Opened, Start | None]:
    """Opens what is measured and its floor; refuses what can't be, or not be written to `path`."""
    try:
        _check_file(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be written: {reason(error)}") from None
    if config.evaluation.branches and not config.evaluation.floor:
        raise UserError(
            "config.evaluation.branches swaps towers with the floor's: set config.evaluation.floor"
        )
    floor = config.start if config.evaluation.floor == "start" else config.evaluation.floor
    if config.evaluation.floor and not floor:
        raise UserError(
            "config.evaluation.floor is start, but this run began with fresh weights: name a "
            "run that was never poisoned"
        )
    key = config.start_key if config.evaluation.floor == "start" else None
    start = open_start(workdir_path(floor), config, key) if floor else None
    if isinstance(start, RunStart):
        _ = start.step  # an error where it has no checkpoint
    return open_measured(config.evaluation), start


def _check_file(path: Path) -> None:
    """Refuses to replace what is no evaluation, and folders that take no file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the file to write, as {path / EVALUATION}")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is a link or a device: name a file of its own")
    if path.name != EVALUATION and path.exists() and _earlier(path) is None:
        raise UserError(f"{path} is there and holds no figures of evaluate: name another file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if in_bucket(path) is None:
        TemporaryFile(dir=above).close()  # what a server allows is seen by writing alone


def _earlier(path: Path) -> dict[str, Any] | None:
    """The settings that figures which lie there were measured with; None without figures."""
    try:
        content = load_json(read_bytes(path))
    except (UserError, OSError, ValueError):
        return None
    settings = content.get("evaluation") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else None


def differing(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of two `config.evaluation` that decide figures and have another value, as now."""
    now, before = (
        flatten_dict(json.loads(json.dumps(settings)), sep=".") for settings in (now, before)
    )
    keys = {}
    for key in {**before, **now}:
        if key not in ("cache", "batch_size", "workers") and now.get(key) != before.get(key):
            # A table's keys are gone where it is None.
            tables = accumulate(key.split("."), "{}.{}".format)
            key = next((table for table in tables if table in now), key)
            keys[key] = now.get(key)
    return keys


def measure_run(start: Start, config: ConfigDict, path: Path | None = None) -> dict[str, Any]:
    """Measures a workdir's newest checkpoint, or a PyTorch one; writes and returns the evaluation.

    Args:
      path: of the file to write; by default the workdir's evaluation.json.
    """
    path = path or Workdir(start.path) / EVALUATION
    with writing(start.path), writing(path.parent):
        opened, floor = check_measured(config, path)
        earlier = _earlier(path)
        if earlier is not None and (keys := differing(config.evaluation.to_dict(), earlier)):
            what = ", ".join(f"evaluation.{key}" for key in keys)
            log.warning(
                "the figures in %s, measured with other %s, are replaced; --output=FILE keeps them",
                *(path, what),
            )
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        run = load_start(start, mesh, config)
        encoder = encoder_of(run.model, run.variables, run.tokenizer, mesh)
        below = load_start(floor, mesh) if floor else None
        evaluation = {
            "workdir": str(start.path),
            "step": run.step,
            "seed": config.seed,
            "floor": {"workdir": str(floor.path), "step": below.step} if floor and below else None,
            **evaluate(
                config,
                encoder,
                head=head_classifier(run.head),
                floor=below and encoder_of(below.model, below.variables, below.tokenizer, mesh),
                opened=opened,
            ),
        }
        # One process writes what all have measured.
        if is_first():
            write_whole(path, json.dumps(evaluation, indent=2) + "\n")
        if config.evaluation.projection:
            projection = project_first(config, encoder)
            if is_first():
                projection.save(path.with_name(PROJECTION))
                write_whole(path.with_name("projection.png"), draw({"": projection}))
    return evaluation


def measure_course(start: Start, config: ConfigDict, newest: Mapping[str, Any]) -> list[Row]:
    """CA, ASR and what goes with them at each checkpoint that a run has kept, ascending.

    What was measured is remembered in course.json, a step at a time.

    Args:
      newest: the evaluation of the newest checkpoint.
    """
    folder, settings = Workdir(start.path), newest["evaluation"]
    shape = {"evaluation": {}, "steps": [{"step": int}]}
    known = folder.read_json(COURSE, shape, "remove it") if folder.has(COURSE) else {}
    same = known.get("evaluation") == settings
    rows = {row["step"]: row for row in known["steps"]} if same else {}
    rows[newest["step"]] = {"step": newest["step"], **values_of(newest["figures"])}
    with open_store(start.path) as (_, store):
        steps = store.steps
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    # Floor, retrieval and repair are the newest checkpoint's: here it is the way that counts.
    config = config.copy_and_resolve_references()
    config.evaluation.retrieval = None
    config.evaluation.repair = None
    for step in steps:
        if step not in rows:
            run = load_start(start, mesh, config, step)
            encoder = encoder_of(run.model, run.variables, run.tokenizer, mesh)
            figures = evaluate(config, encoder, head=head_classifier(run.head))["figures"]
            rows[step] = {"step": step, **values_of(figures)}
        if is_first():
            content = {"evaluation": settings, "steps": [rows[each] for each in sorted(rows)]}
            folder.write_json(COURSE, content)
    return [rows[step] for step in sorted(rows)]
