"""One shard of prepared pairs: a range of a source's rows, each proved readable."""

import io
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from PIL import Image

from cleanclip_jax.cache import sha256
from cleanclip_jax.data.shards.layout import (
    ENDING,
    INDEX_SCHEMA,
    WORK,
    Output,
    Shard,
    index_writer,
    pack,
    shard_writer,
)
from cleanclip_jax.record import Source
from cleanclip_jax.shapes import load_json
from cleanclip_jax.views.decode import BadRecord, decode

# Of JPEGs the colours' subsampling, as img2dataset and most cameras write; of WebP the slowest.
ENCODING: dict[str, dict[str, Any]] = {"jpeg": {"subsampling": "4:2:0"}, "webp": {"method": 6}}
JPEG_SIDE = 65_500  # the longest that the encoder takes


@dataclass(frozen=True)
class Plan:
    """What decides every byte of a prepared dataset.

    Attributes:
      source: fingerprint of the source.
      rows: of the source.
      shards: how many files they are spread over, in order.
      captions: whether the source has captions; a row without one is then bad.
      short_side: pixels that larger pictures are resized to; None: all keep their bytes.
      quality: of the JPEGs that resized pictures become.
    """

    source: str
    rows: int
    shards: int
    captions: bool
    short_side: int | None
    quality: int | None

    def span(self, number: int) -> range:
        """The rows of shard `number`."""
        return range(number * self.rows // self.shards, (number + 1) * self.rows // self.shards)

    def shard(self, number: int) -> str:
        """The name of shard `number`."""
        return f"pairs-{number:05d}-of-{self.shards:05d}{ENDING}"


def part_name(number: int) -> str:
    """The part of the index that belongs to a shard; where it is, the shard is finished."""
    return f"{WORK}/{number:05d}.arrow"


def bad_name(number: int) -> str:
    """The bad rows of a finished shard."""
    return f"{WORK}/{number:05d}.bad.jsonl"


def repack_shard(
    source: Source, plan: Plan, number: int, output: Output, count: Callable[[bool], None]
) -> None:
    """Makes a shard, unless it is finished already.

    Its bytes are a function of the source and the plan. Bad rows are left out and reported.
    `count` is called for each row, with whether it is bad.
    """
    if _is_finished(source, plan, number, output):
        bad = len(output.read(bad_name(number)).splitlines())
        for place, _ in enumerate(plan.span(number)):
            count(place < bad)
        return
    with output.scratch() as folder:
        shard, part, report = folder / "shard", folder / "index", folder / "bad.jsonl"
        rows: list[dict[str, Any]] = []
        with ExitStack() as stack:
            write = stack.enter_context(shard_writer(shard))
            bad_rows = stack.enter_context(report.open("w", buffering=1))
            for index in plan.span(number):
                try:
                    row = repack_row(source, plan, index)
                except BadRecord as error:
                    where = source.where(index)
                    reason = str(error).removeprefix(f"{where}: ")
                    line = {"index": index, "where": where, "reason": reason}
                    bad_rows.write(json.dumps(line, ensure_ascii=False) + "\n")
                    count(True)
                    continue
                write(pack(**row))
                rows.append({name: row[name] for name in INDEX_SCHEMA.names})
                count(False)
        described = Shard(plan.shard(number), len(rows), shard.stat().st_size, sha256(shard))
        with index_writer(part, {"shard": json.dumps(asdict(described))}) as writer:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=INDEX_SCHEMA))
        output.put(shard, described.name)
        output.put(report, bad_name(number))
        output.put(part, part_name(number))


def read_part(output: Output, number: int) -> tuple[pa.Table, Shard]:
    """A finished shard's part of the index, and its description."""
    table = pa.ipc.open_file(output.read(part_name(number))).read_all()
    return table, Shard(**load_json(table.schema.metadata[b"shard"]))


def repack_row(source: Source, plan: Plan, index: int, kind: str = "jpeg") -> dict[str, Any]:
    """What a shard holds of a row: the arguments of layout.pack; raises BadRecord.

    Args:
      kind: jpeg | webp, of pictures that are resized.
    """
    record = source[index]
    if plan.captions and not record.caption.strip():
        raise BadRecord(f"{record.where}: the caption is empty.")
    return {
        "image": repack_picture(record.image, record.where, plan.short_side, plan.quality, kind),
        "caption": record.caption,
        "label": record.label,
        "where": record.where,
        "row": index,
    }


def repack_picture(
    image: bytes | UInt8[np.ndarray, "h w 3"],
    where: str,
    short_side: int | None,
    quality: int | None,
    kind: str = "jpeg",
) -> bytes:
    """An encoded picture that is known to be readable; raises BadRecord.

    One whose short side is longer than `short_side` is resized to it (Pillow bicubic,
    antialiased, the long side rounded down, as views.geometry does) and becomes a JPEG, or a WebP,
    which takes half the bytes where pictures are small. Others
    keep their bytes; one that had none, being decoded already, becomes a PNG.
    """
    pixels = decode(image, where)
    height, width = pixels.shape[:2]
    short = min(height, width)
    stream = io.BytesIO()
    if short_side is not None and short > short_side:
        size = (short_side * width // short, short_side * height // short)
        if max(size) <= JPEG_SIDE:
            picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            picture.save(stream, kind, quality=quality, **ENCODING[kind])
            return stream.getvalue()
    if isinstance(image, bytes):
        return image
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def _is_finished(source: Source, plan: Plan, number: int, output: Output) -> bool:
    if output.size(part_name(number)) is None:
        return False
    # Notes that a failing disk has changed are made anew, with their shard.
    with suppress(ValueError, KeyError, TypeError, OSError, pa.ArrowException):
        _, shard = read_part(output, number)
        bad = [load_json(line)["index"] for line in output.read(bad_name(number)).splitlines()]
        if output.size(shard.name) == shard.bytes and all(
            index in plan.span(number) for index in bad
        ):
            # A row may have been mended since: its disk was away, its file was copied anew.
            return all(map(partial(_is_bad, source, plan), bad))
    return False


def _is_bad(source: Source, plan: Plan, index: int) -> bool:
    try:
        repack_row(source, plan, index)
    except BadRecord:
        return True
    return False
