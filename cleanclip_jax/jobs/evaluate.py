"""`cleanclip evaluate`: measures a run's newest checkpoint and writes evaluation.json.

What is measured, and on what, stands under config.evaluation (docs/metrics.md). Beside the
figures lie projection.npz and projection.png, where config.evaluation.projection asks for them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.jobs.devices import begin, heartbeat_of
from cleanclip_jax.measure.encoder import Subject, subject
from cleanclip_jax.measure.measure import evaluate, project_first
from cleanclip_jax.process import add_flags, is_first
from cleanclip_jax.report.figure_table import table
from cleanclip_jax.report.pictures import draw
from cleanclip_jax.run.build import check, load_run
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import start_config
from cleanclip_jax.start.torch.checkpoint import is_foreign
from cleanclip_jax.workdir import workdir_path

# The keys of a run that measuring it may change.
MEASURED = ("evaluation.", "mesh.", "data.timeout", "data.max_bad_share")
# And those that a PyTorch checkpoint leaves open.
OPEN = ("model.activation", "text.merges")


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip evaluate", description=__doc__)
    parser.add_argument(
        "--workdir",
        required=True,
        type=workdir_path,
        help="the run's folder, or a PyTorch checkpoint",
    )
    parser.add_argument("--output", type=workdir_path, help="default: WORKDIR/evaluation.json")
    parser.add_argument(
        "--floor", help="a model that was never poisoned, or start: what the run began with"
    )
    add_flags(parser)
    asked, overrides = parse(parser, argv)
    begin(asked, heartbeat_of(overrides))
    foreign = is_foreign(asked.workdir)
    allowed = (*MEASURED, *OPEN) if foreign else MEASURED
    others = [key for key in overrides if not key.startswith(allowed)]
    if others:
        raise UserError(
            f"--config.{others[0]} belongs to the run that is measured and can't be changed here"
        )
    if asked.floor:
        overrides["evaluation.floor"] = asked.floor
    said = apply(defaults(), {key: overrides[key] for key in OPEN if key in overrides})
    config = apply(start_config(asked.workdir, said), overrides)
    check(config)
    if foreign and asked.output is None:
        raise UserError(
            f"{asked.workdir} is no workdir: name the file to write with --output=FILE.json"
        )
    path = asked.output or asked.workdir / "evaluation.json"
    found = measure(asked.workdir, config, path)
    if is_first():
        print(table(found))
        print(f"written: {path}")
    return 0


def measure(workdir: Path, config: ConfigDict, path: Path) -> dict[str, Any]:
    """Measures the newest checkpoint in `workdir`; writes and returns what was found."""
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    run = load_run(workdir, mesh, config)
    measured = subject(run.model, run.variables, run.tokenizer, mesh)
    floor, below = floor_of(config, mesh)
    found = {
        "workdir": str(workdir),
        "step": run.step,
        "seed": config.seed,
        "floor": floor,
        **evaluate(config, measured, head=run.head, floor=below),
    }
    projection = None
    if config.evaluation.projection:
        projection = project_first(config, measured)
    # One process writes what all have measured.
    if is_first():
        write_whole(path, json.dumps(found, indent=2) + "\n")
        if projection is not None:
            projection.save(path.with_name("projection.npz"))
            write_whole(path.with_name("projection.png"), draw({"": projection}))
    return found


def floor_of(config: ConfigDict, mesh: Mesh) -> tuple[dict[str, Any], Subject] | tuple[None, None]:
    """The never poisoned model of `config.evaluation.floor`, and which it is.

    Raises:
      UserError: the run's start is asked for, and it has none.
    """
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
    place = workdir_path(folder)
    run = load_run(place, mesh, start_config(place, config))
    facts = {"workdir": str(folder), "step": run.step}
    return facts, subject(run.model, run.variables, run.tokenizer, mesh)
