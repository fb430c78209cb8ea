"""`cleanclip report`: runs on one page: tables, curves, pictures; several side by side.

A WORKDIR is a measured run, or a sweep's folder. The page is one file that needs nothing else;
its figures lie beside it as PNGs. What a run began with is shown beside it where it is measured.
"""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.process import keep_compiled
from cleanclip_jax.report.document import PAGE, write_report
from cleanclip_jax.report.runs import gather
from cleanclip_jax.workdir import workdir_path


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip report", description=__doc__)
    parser.add_argument(
        "workdirs", nargs="+", type=workdir_path, metavar="WORKDIR", help="runs, or sweeps"
    )
    parser.add_argument(
        "--output",
        type=workdir_path,
        help="the page's folder; default: WORKDIR/report, of several ./report",
    )
    parser.add_argument("--title", help="of the page")
    parser.add_argument(
        "--pictures", type=int, default=6, help="of those that the trigger changes most (6)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only what lies in the workdirs: no model is loaded, nothing projected",
    )
    args, overrides = parse(parser, argv)
    if overrides:
        raise UserError(f"--config.{next(iter(overrides))}: a report trains and measures nothing")
    if args.pictures < 1:
        raise UserError(f"--pictures={args.pictures}: it takes a whole number, 1 or more")
    for folder in args.workdirs:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name runs' workdirs or sweeps' folders")
    alone = args.workdirs[0] / "report" if len(args.workdirs) == 1 else Path("report")
    output = args.output or alone
    taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if taken and not (output / PAGE).is_file():
        raise UserError(f"{output} is not empty and holds no report: name a new folder")
    keep_compiled()
    command = shlex.join(["cleanclip", "report", *argv])
    pictures = 0 if args.quick else args.pictures
    with ExitStack() as stack:
        for folder in (*args.workdirs, output):  # a bucket's connection may be lost at each
            stack.enter_context(writing(folder))
        write_report(output, gather(args.workdirs), command, pictures, title=args.title)
    print(f"written: {output / PAGE}")
    return 0
