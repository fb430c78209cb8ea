"""Shards made by the workers of an Apache Beam runner, where one machine is too small."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import lru_cache, partial
from typing import Any

from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import Runner
from cleanclip_jax.data.shards.repack import Plan, repack_shard
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.record import Source


def on_runner(source: Mapping[str, Any], runner: str, options: Sequence[str]) -> Runner:
    """Makes shards as a pipeline. Every worker opens the source, and must find it, by its config.

    The share of bad rows is looked at when the pipeline has ended: its workers share no count.

    Args:
      source: the source's config.
      runner: a name that Beam knows, as 'DirectRunner' or 'DataflowRunner'.
      options: of the runner, as 'project=mine'.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
            PipelineOptions,
        )
    except ImportError:
        raise UserError(
            "--runner needs Apache Beam: pip install 'cleanclip-jax[beam]', in an environment for "
            "it alone"
        ) from None

    flags = [f"--runner={runner}", *(f"--{option}" for option in options)]
    with redirect_stderr(io.StringIO()) as messages:
        try:
            PipelineOptions(flags).get_all_options()
        except SystemExit:
            # Beam prints all of its usage, and leaves.
            last = messages.getvalue().strip().rpartition("error: ")[2]
            raise UserError(f"{runner}: Apache Beam refuses an option: {last}") from None

    def run(plan: Plan, output: Output, _allowed: int) -> None:
        make = partial(make_shard, json.dumps(source, default=str), plan, output)
        try:
            with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
                # Reshuffled: else a runner may fuse it all into one task of one worker.
                numbers = pipeline | beam.Create(range(plan.shards)) | beam.Reshuffle()
                _ = numbers | "repack" >> beam.Map(make)
        except Exception as error:  # each runner has other errors
            raise UserError(f"{runner}: the pipeline failed ({reason(error)[-500:]})") from error

    return run


def make_shard(config: str, plan: Plan, output: Output, number: int) -> int:
    """Makes one shard on a worker; returns its number."""
    source = _opened(config)
    if source.fingerprint != plan.source:
        raise UserError(f"a worker finds another dataset than the one that was planned: {config}")
    repack_shard(source, plan, number, output, lambda _: None)
    return number


@lru_cache(1)
def _opened(config: str) -> Source:
    return open_source(json.loads(config))
