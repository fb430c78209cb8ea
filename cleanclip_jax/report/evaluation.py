"""A run's checkpoints measured: evaluation.json, and course.json of those on the way."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.measure.encoder import Encoder, encoder_of
from cleanclip_jax.measure.measure import evaluate
from cleanclip_jax.measure.projection import project_first
from cleanclip_jax.measure.zeroshot import head_classifier
from cleanclip_jax.process import is_first
from cleanclip_jax.report.pictures import PROJECTION, draw
from cleanclip_jax.report.tables import Row, values_of
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import Start, load_start, open_start
from cleanclip_jax.start.store import open_store
from cleanclip_jax.workdir import EVALUATION, Workdir, workdir_path

COURSE = "course.json"


def measure_run(start: Start, config: ConfigDict, path: Path | None = None) -> dict[str, Any]:
    """Measures a workdir's newest checkpoint, or a PyTorch one; writes and returns the evaluation.

    Args:
      path: of the file to write; by default the workdir's evaluation.json.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    run = load_start(start, mesh, config)
    encoder = encoder_of(run.model, run.variables, run.tokenizer, mesh)
    floor, floor_encoder = floor_of(config, mesh)
    evaluation = {
        "workdir": str(start.path),
        "step": run.step,
        "seed": config.seed,
        "floor": floor,
        **evaluate(config, encoder, head=head_classifier(run.head), floor=floor_encoder),
    }
    projection = project_first(config, encoder) if config.evaluation.projection else None
    # One process writes what all have measured.
    if is_first():
        path = path or Workdir(start.path) / EVALUATION
        write_whole(path, json.dumps(evaluation, indent=2) + "\n")
        if projection is not None:
            projection.save(path.with_name(PROJECTION))
            write_whole(path.with_name("projection.png"), draw({"": projection}))
    return evaluation


def floor_of(config: ConfigDict, mesh: Mesh) -> tuple[dict[str, Any], Encoder] | tuple[None, None]:
    """The never poisoned model of `config.evaluation.floor`, and which it is."""
    folder = config.evaluation.floor
    if not folder:
        return None, None
    if folder == "start":
        folder = config.start
        if not folder:
            raise UserError(
                "config.evaluation.floor is start, but this run began with fresh weights: name a "
                "run that was never poisoned"
            )
    run = load_start(open_start(workdir_path(folder), config), mesh)
    facts = {"workdir": str(folder), "step": run.step}
    return facts, encoder_of(run.model, run.variables, run.tokenizer, mesh)


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
    # The floor and the retrieval are the newest checkpoint's: here it is the way that counts.
    config = config.copy_and_resolve_references()
    config.evaluation.retrieval = None
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
