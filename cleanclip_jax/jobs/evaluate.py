"""`cleanclip evaluate`: measures a run's newest checkpoint and writes evaluation.json.

What is measured, and on what, stands under config.evaluation (docs/metrics.md). Beside the
figures lie projection.npz and projection.png, where config.evaluation.projection asks for them.
"""

from collections.abc import Sequence

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import check, defaults, from_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs.of_model import FREE, OPEN, base_of
from cleanclip_jax.process import add_flags, begin, is_first
from cleanclip_jax.report.evaluation import measure_run
from cleanclip_jax.report.tables import as_text
from cleanclip_jax.start.start import open_start
from cleanclip_jax.start.torch import is_torch_checkpoint
from cleanclip_jax.workdir import CONFIG, EVALUATION, Workdir, workdir_path


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
    args, overrides = parse(parser, argv)
    workdir = args.workdir
    run = from_json(workdir / CONFIG) if Workdir(workdir).has(CONFIG) else defaults()
    joined = {key: text for key, text in overrides.items() if key == "mesh.heartbeat"}
    begin(args, apply(run, joined).mesh.heartbeat)
    of_torch = is_torch_checkpoint(workdir)
    allowed = (*FREE, *OPEN) if of_torch else FREE
    others = [key for key in overrides if not key.startswith(allowed)]
    if others:
        raise UserError(
            f"--config.{others[0]} belongs to the run that is measured and can't be changed here"
        )
    if args.floor:
        overrides["evaluation.floor"] = args.floor
    base = base_of(overrides)
    start = open_start(workdir, base, base.start_key)
    config = apply(start.config, overrides)
    check(config)
    if of_torch and args.output is None:
        raise UserError(f"{workdir} is no workdir: name the file to write with --output=FILE.json")
    path = args.output or workdir / EVALUATION
    evaluation = measure_run(start, config, path)
    if is_first():
        print(as_text(evaluation))
        print(f"written: {path}")
    return 0
