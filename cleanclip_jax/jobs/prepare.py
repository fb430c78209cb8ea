"""`cleanclip prepare`: any source to ArrayRecord shards that training reads fast.

Every picture is decoded once, so what is in the shards is known to be readable; the rows that are
not are listed in bad_rows.jsonl. The same command goes on after whatever stopped it. A small source
may become one parquet file in place of shards.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import load
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.one_file import write_parquet
from cleanclip_jax.data.shards.packing import BAD_ROWS, make_plan, prepare
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.keys import literal
from cleanclip_jax.workdir import workdir_path

log = logging.getLogger(__name__)
BEAM_FLAG = "--beam."


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip prepare", description=__doc__)
    parser.add_argument("--source", help="{'kind': 'csv', 'path': 'pairs.csv'}: see docs/data.md")
    parser.add_argument("--config", help="in its place: the config whose data.train is the source")
    parser.add_argument(
        "--output",
        required=True,
        help="a new folder, here or at gs://, s3:// ...; or FILE.parquet, of a small source",
    )
    parser.add_argument(
        "--short_side", type=int, help="pixels that larger pictures are resized to (JPEG)"
    )
    parser.add_argument("--quality", type=int, help="of those JPEGs, 1 to 100; default: 95")
    parser.add_argument(
        "--shards", type=int, help="files; default: one for 4,096 rows, 512 at most"
    )
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    parser.add_argument(
        "--max_bad_share", type=float, default=0.01, help="of unreadable rows; default: 0.01"
    )
    parser.add_argument(
        "--runner", help="of Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner"
    )
    parser.epilog = "--beam.KEY=VALUE is an option of the runner: --beam.project=mine"
    beam_options = [word.removeprefix(BEAM_FLAG) for word in argv if word.startswith(BEAM_FLAG)]
    args, overrides = parse(parser, [word for word in argv if not word.startswith(BEAM_FLAG)])
    if beam_options and args.runner is None:
        raise UserError(f"{BEAM_FLAG}{beam_options[0]}: an option of a runner: give --runner too")
    if not 0 <= args.max_bad_share <= 1:
        raise UserError(f"--max_bad_share={args.max_bad_share}: give a share, 0 to 1")
    if args.workers is not None and (args.workers < 1 or args.runner):
        raise UserError("--workers: give 1 or more, and no --runner, which brings workers")
    config = read_source(args.source, args.config, overrides)
    source = open_source(config)
    if args.output.endswith(".parquet"):
        if args.shards or args.workers or args.runner:
            raise UserError(f"--output={args.output} is one file: it takes no shards or workers")
        plan = make_plan(source, 1, args.short_side, args.quality)
        path, allowed = workdir_path(args.output), int(args.max_bad_share * plan.rows)
        if path.exists():
            raise UserError(f"{path} exists: name a new file")
        with writing(path.parent):
            rows = write_parquet(source, plan, path, allowed, log.warning)
        print(f"prepared: {rows:,} of {plan.rows:,} pairs, {path.stat().st_size / 1e6:,.1f} MB")
        return 0
    plan = make_plan(source, args.shards, args.short_side, args.quality)
    output = Output(args.output)
    if args.runner:
        from cleanclip_jax.data.shards.beam import on_runner

        run = on_runner(config, args.runner, beam_options)
    else:
        from cleanclip_jax.data.shards.runners import in_processes

        run = in_processes(source, args.workers or cores())
    start = time.perf_counter()
    made = prepare(plan, source.class_names, output, args.max_bad_share, run)
    print(summary(made, args.output, time.perf_counter() - start))
    return 0


def cores() -> int:
    """How many cores this process may use; where the system doesn't tell (macOS), all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_source(
    source: str | None, config: str | None, overrides: Mapping[str, str]
) -> dict[str, Any]:
    """The source's config, from --source or from --config and its overrides."""
    if (source is None) == (config is None):
        raise UserError("give --source or --config: the pairs to prepare")
    if config is not None:
        return apply(load(config), dict(overrides)).data.train.to_dict()
    if overrides:
        raise UserError(f"--config.{next(iter(overrides))} needs --config: --source has all keys")
    value = literal(source or "")
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"--source={source}: write {{'kind': 'csv', 'path': 'pairs.csv'}}")
    return value


def summary(made: Mapping[str, Any], output: str, seconds: float) -> str:
    """What was made, in a few lines."""
    rows, bad, shards = made["plan"]["rows"], made["bad_rows"], made["shards"]
    size = sum(shard["bytes"] for shard in shards)
    config = {"kind": "arrayrecord", "path": output}
    return "\n".join(
        [
            f"prepared: {made['records']:,} pairs in {len(shards)} shards, {size / 1e6:,.1f} MB, "
            f"{seconds:,.0f} s",
            f"left out: {bad:,} of {rows:,} rows" + (f", see {output}/{BAD_ROWS}" if bad else ""),
            f'train on them: --config.data.train="{config}"',
        ]
    )
