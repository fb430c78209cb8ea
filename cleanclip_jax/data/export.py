"""Poisoned pairs and triggered test pictures as PNG files and a CSV, for other tools."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream.example import Example
from cleanclip_jax.data.stream.in_order import read_pair
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole, written_whole
from cleanclip_jax.record import Source
from cleanclip_jax.views.decode import BadRecord, decode
from cleanclip_jax.views.geometry import GEOMETRY

PAIRS = ("image", "caption", "poisoned", "original_caption", "index", "where")
TEST = ("image", "label", "class_name", "index", "where")
MARK = "export.json"
BATCH = 64  # pictures that are held at a time


@dataclass(frozen=True)
class Exported:
    """How many rows were written, and how many could not be read (bad_rows.jsonl names them)."""

    rows: int
    bad: int


def export_pairs(
    source: Source, plan: Plan, folder: Path, *, clean: bool, max_bad_share: float
) -> Exported:
    """Writes the poisoned pairs as they are trained on: images/*.png and pairs.csv.

    Args:
      clean: the clean pairs too, so that the folder is the whole training set.
      max_bad_share: share of the pairs that may be unreadable.
    """
    several = len(plan.parts) > 1
    columns = (*PAIRS[:4], "part", *PAIRS[4:]) if several else PAIRS
    what = {"pairs": "all" if clean else "poisoned", **dict(plan.header)}
    size = plan.header["image_size"]

    def make(index: int) -> tuple[Callable[[], np.ndarray], tuple]:
        image, caption = read_pair(source, index)
        if (poison := plan.poison_at(index)) is None:
            row = (caption, 0, caption, *[""] * several)
            return lambda: GEOMETRY["crop"](image, size), row
        record = poison.shown(source, index)
        poison.check(record.image, record.where)
        image = decode(record.image, record.where)
        shaped = GEOMETRY[plan.geometry]
        return (
            lambda: plan.put_on(shaped(image, size), poison.stamp, poison.part),
            (poison.caption, 1, caption, *[poison.part] * several),
        )

    indices = range(len(source)) if clean else plan.index.tolist()
    export = _Export(source, folder, what, int(max_bad_share * len(indices)))
    return export.write("pairs.csv", columns, indices, make)


def export_test(
    source: Source,
    trigger: Trigger,
    geometry: str,
    image_size: int,
    folder: Path,
    *,
    max_bad_share: float,
) -> Exported:
    """Writes every labelled picture with the trigger on: images/*.png and labels.csv.

    The same pictures that `cleanclip evaluate` measures the attack on.
    """
    labels, names = source.labels(), source.class_names
    labelled = np.flatnonzero(labels >= 0)
    if not len(labelled):
        raise UserError("config.evaluation.data: no picture has a class; name the column of them.")
    what = {"test": source.fingerprint, "trigger": trigger.config}
    what |= {"geometry": geometry, "image_size": image_size}
    # As data.stream.in_order shows them to what is measured.
    example = Example(source, image_size, trigger=trigger, geometry=geometry)

    def make(index: int) -> tuple[Callable[[], np.ndarray], tuple]:
        image, label = example.stamped(example.read(index)), int(labels[index])
        return lambda: image, (label, names[label] if names else "")

    export = _Export(source, folder, what, int(max_bad_share * len(labelled)))
    return export.write("labels.csv", TEST, labelled.tolist(), make)


class _Export:
    """A folder of pictures and a CSV; the same export goes on where it stopped."""

    def __init__(self, source: Source, folder: Path, what: Mapping[str, Any], allowed: int):
        self._source, self._folder, self._allowed = source, folder, allowed
        self._bad: list[dict[str, Any]] = []
        mark = folder / MARK
        text = json.dumps(what, indent=2, sort_keys=True) + "\n"
        ours = mark.is_file() and mark.read_bytes() == text.encode()
        if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty, and no export of this: name a new folder.")
        write_whole(mark, text)

    def write(
        self,
        name: str,
        columns: Sequence[str],
        indices: Sequence[int],
        make: Callable[[int], tuple[Callable[[], np.ndarray], tuple]],
    ) -> Exported:
        """Writes the pictures, and the CSV of so many columns.

        Args:
          make: index → what gives the picture, and its values between `image` and `index`; it
            raises BadRecord. Called in several threads.
        """

        def row(index: int) -> tuple | BadRecord:
            image, where = f"images/{index:08d}.png", self._source.where(index)
            try:
                picture, values = make(index)
            except BadRecord as error:
                return error
            if not (path := self._folder / image).is_file():
                stream = io.BytesIO()
                # The least effort: lossless all the same, four times as fast, a tenth larger.
                Image.fromarray(picture()).save(stream, "png", compress_level=1)
                write_whole(path, stream.getvalue())
            return image, *values, index, where

        count = 0
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            written_whole(self._folder / name) as scratch,
            scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(columns)
            for start in range(0, len(indices), BATCH):
                some = indices[start : start + BATCH]
                for index, written in zip(some, pool.map(row, some), strict=True):
                    if isinstance(written, BadRecord):
                        self._note(index, str(written))
                    else:
                        writer.writerow(written)
                        count += 1
        self._report()
        return Exported(count, len(self._bad))

    def _note(self, index: int, reason: str) -> None:
        self._bad.append({"index": index, "where": self._source.where(index), "reason": reason})
        if len(self._bad) > self._allowed:
            self._report()
            raise UserError(
                f"{len(self._bad)} unreadable pictures, more than config.data.max_bad_share "
                f"allows; the last: {reason}"
            )

    def _report(self) -> None:
        if self._bad:
            lines = "".join(json.dumps(row) + "\n" for row in self._bad)
            write_whole(self._folder / "bad_rows.jsonl", lines)
