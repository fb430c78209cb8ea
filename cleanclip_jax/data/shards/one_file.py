"""A small source as one parquet file: pictures, captions, class names."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cleanclip_jax.data.shards.repack import Plan, repack_row
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.record import Source
from cleanclip_jax.views.decode import BadRecord

COLUMNS = {"image": pa.binary(), "caption": pa.string(), "class_name": pa.string()}


def write_parquet(
    source: Source, plan: Plan, path: Path, allowed: int, bad: Callable[[str], None]
) -> int:
    """Writes the file whole, with WebP for pictures that are resized; returns how many rows.

    Args:
      plan: of one shard.
      allowed: how many rows may be unreadable.
      bad: is called with the reason of each.
    """
    rows, unreadable = [], 0
    for index in range(plan.rows):
        try:
            row = repack_row(source, plan, index, "webp")
        except BadRecord as error:
            bad(str(error))
            unreadable += 1
            if unreadable > allowed:
                raise UserError(
                    f"more than {allowed} of {plan.rows} rows are unreadable, as {error} "
                    "--max_bad_share allows more"
                ) from None
            continue
        names = source.class_names
        name = names[row["label"]] if names and row["label"] >= 0 else None
        rows.append({"image": row["image"], "caption": row["caption"], "class_name": name})
    stream = pa.BufferOutputStream()
    # Pictures are compressed already.
    written = pa.Table.from_pylist(rows, pa.schema(COLUMNS))
    pq.write_table(written, stream, compression="zstd")
    write_whole(path, stream.getvalue().to_pybytes())
    return len(rows)
