"""`cleanclip detect pairs`: scores the pairs of a dataset by a model that saw them.

OUTPUT/scores/NAME.parquet has each detector's score of each pair, higher for suspicious; top.csv
the highest ones to look at, groups.csv what they have in common; drop.csv the ids that
--config.data.train.skip=OUTPUT/drop.csv leaves out; detect.json how it was done and, where the
poisons are known, how well. The same command goes on after whatever stopped it (docs/detect.md).
"""

from collections.abc import Sequence
from typing import Any

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.detect.detectors import DETECTORS, choose
from cleanclip_jax.detect.findings import summary
from cleanclip_jax.detect.opened import open_scan
from cleanclip_jax.detect.scan_settings import NEIGHBOURS, Settings
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.jobs.of_model import open_model
from cleanclip_jax.keys import literal
from cleanclip_jax.process import add_flags, begin, is_first
from cleanclip_jax.report.detected import FOLDER
from cleanclip_jax.report.pair_scan import LISTED, scan_pairs
from cleanclip_jax.workdir import workdir_path


def read_source(flag: str, text: str | None) -> dict[str, Any] | None:
    """A source as a flag has it; None without one."""
    value = None if text is None else literal(text)
    if text is not None and not isinstance(value, dict):
        raise UserError(f"--{flag}={text}: write {{'kind': 'csv', 'path': 'pairs.csv'}}")
    return value


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    listed = "\n".join(f"  {name:<15} {row.meaning}" for name, row in DETECTORS.items())
    parser = Parser("cleanclip detect pairs", description=__doc__, epilog=f"detectors:\n{listed}")
    parser.add_argument(
        "--workdir", required=True, type=workdir_path, help="a run, or a PyTorch checkpoint"
    )
    parser.add_argument("--source", help="other pairs than the run's: {'kind': 'csv', 'path': ...}")
    parser.add_argument("--truth", help="a file of ids that are known to be poisoned")
    parser.add_argument("--floor", help="a model that was never poisoned, or start")
    parser.add_argument("--detectors", help="of those below, as slof,dao; default: the usual ones")
    parser.add_argument("--k", type=int, default=16, help="neighbours (16)")
    parser.add_argument("--sample", type=int, help="reference pairs of a draw (2,048, or a fifth)")
    parser.add_argument("--draws", type=int, default=4, help="of reference pairs, averaged (4)")
    parser.add_argument("--seed", type=int, default=0, help="draws them (0)")
    parser.add_argument("--rate", type=float, help="the share of poisons that is assumed (0.001)")
    parser.add_argument(
        "--neighbours", default="right", help=f"{' | '.join(NEIGHBOURS)}: the published code's"
    )
    parser.add_argument("--block", type=int, default=2048, help="of the published code (2048)")
    parser.add_argument("--features", action="store_true", help="not scaled to unit length")
    parser.add_argument("--by", help="the detector that drop.csv and groups go by (the first)")
    parser.add_argument("--drop", type=float, default=0.01, help="share of pairs to drop (0.01)")
    parser.add_argument("--top", type=int, default=LISTED, help="pairs in top.csv (%(default)s)")
    parser.add_argument("--output", type=workdir_path, help="a folder; default: WORKDIR/detect")
    add_flags(parser)
    args, overrides = parse(parser, argv)
    begin(args, 60)
    for name, value in (("drop", args.drop), ("rate", args.rate)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{name}={value}: give a share between 0 and 1")
    if args.top < 1:
        raise UserError(f"--top={args.top}: give 1 or more")
    source = read_source("source", args.source)
    given = args.detectors.split(",") if args.detectors else None
    names = choose(given, args.neighbours, floor=args.floor is not None)
    if args.by is not None and args.by not in names:
        raise UserError(f"--by={args.by}: it is none of --detectors={','.join(names)}")
    flags = {
        key: getattr(args, key) for key in ("k", "sample", "draws", "seed", "neighbours", "block")
    }
    settings = Settings(names, normalise=not args.features, **flags)
    start, config = open_model(args.workdir, overrides)
    opened = open_scan(start, config, settings, source, args.truth, args.floor, args.rate)
    if args.output is None and start.path.is_file():
        raise UserError(f"{args.workdir} is no workdir: name a folder with --output=FOLDER")
    folder = args.output or args.workdir / FOLDER
    with writing(folder):
        scan_pairs(folder, opened, settings, args.by or names[0], args.drop, args.top)
    if is_first():
        print(summary(folder))
    return 0
