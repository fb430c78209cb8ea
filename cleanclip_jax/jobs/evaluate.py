"""`cleanclip evaluate`: measures a run's newest checkpoint and writes evaluation.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.config import from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.evaluation.evaluate import evaluate
from cleanclip_jax.files import write_whole
from cleanclip_jax.jobs.arguments import Parser, apply, parse
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.training.run import check, load_run

# The keys of a run that measuring it may change.
MEASURED = ("evaluation.", "mesh.", "data.timeout", "data.max_bad_share")


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")
    parser.add_argument("--output", type=Path, help="default: WORKDIR/evaluation.json")
    asked, overrides = parse(parser, argv)
    foreign = [key for key in overrides if not key.startswith(MEASURED)]
    if foreign:
        raise UserError(
            f"--config.{foreign[0]} belongs to the run that is measured and can't be changed here"
        )
    config = apply(from_json(asked.workdir / "config.json"), overrides)
    check(config)
    path = asked.output or asked.workdir / "evaluation.json"
    print(table(measure(asked.workdir, config, path)))
    print(f"written: {path}")
    return 0


def measure(workdir: Path, config: ConfigDict, path: Path) -> dict[str, Any]:
    """Measures the newest checkpoint in `workdir`; writes and returns what was found."""
    mesh = make_mesh(config.mesh.data)
    run = load_run(workdir, mesh, config)
    found = evaluate(config, run.model, run.variables, run.tokenizer, mesh)
    found = {"workdir": str(workdir), "step": run.step, "seed": config.seed, **found}
    write_whole(path, json.dumps(found, indent=2) + "\n")
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures as lines of text, each with its count and denominator."""
    target = found["target"]
    lines = [
        f"{found['workdir']} at step {found['step']}: {found['classes']} classes, "
        f"{len(found['templates'])} templates"
        + (f", target {target['name']!r} ({target['index']})" if target else "")
    ]
    for name, figure in found["figures"].items():
        value = "     —" if figure["value"] is None else f"{100 * figure['value']:6.2f}"
        counts = f"{figure['count']:>6} of {figure['of']:<6}"
        lines.append(f"  {name:<18}{value} %  {counts}  {figure['definition']}")
    pictures = found["pictures"]
    for kind in ("without_class", "unreadable"):
        if pictures[kind]:
            lines.append(f"  left out: {pictures[kind]} pictures {kind.replace('_', ' ')}")
    return "\n".join(lines)
