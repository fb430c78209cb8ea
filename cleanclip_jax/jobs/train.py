"""`cleanclip train`: one run of one config, begun or taken up where it stopped."""

from collections.abc import Sequence

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import load
from cleanclip_jax.process import add_flags, begin, is_first
from cleanclip_jax.run.build import build
from cleanclip_jax.run.loop import train
from cleanclip_jax.workdir import workdir_path


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip train", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/FILE.py[:arg]")
    parser.add_argument("--workdir", required=True, type=workdir_path, help="the run's folder")
    parser.add_argument(
        "--profile",
        nargs="?",
        type=int,
        const=5,
        default=0,
        metavar="STEPS",
        help="trace so many steps (5), once warm, into WORKDIR/profile",
    )
    add_flags(parser)
    parser.list_keys()
    args, overrides = parse(parser, argv)
    config = apply(load(args.config), overrides)
    begin(args, config.mesh.heartbeat)
    with build(config, args.workdir, args.profile) as run:
        train(run)
    if is_first():
        print(f"trained: {args.workdir}; measure it: cleanclip evaluate --workdir={args.workdir}")
    return 0
