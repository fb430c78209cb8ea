"""Poisoned pairs and triggered test pictures as PNG files and a CSV, for other tools."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream.example import read_pair
from cleanclip_jax.data.stream.pictures import evaluation_batches
from cleanclip_jax.data.stream.pipeline import Reading
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole, written_whole
from cleanclip_jax.record import Source
from cleanclip_jax.views.decode import BadRecord
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
    what = {"pairs": "all" if clean else "poisoned", **dict(plan.header)}
    indices = range(len(source)) if clean else plan.index.tolist()
    export = _Export(folder, what, int(max_bad_share * len(indices)))

    def rows() -> Iterator[tuple]:
        for some in _chunks(indices, BATCH):
            for index, pair in zip(some, pool.map(picture, some), strict=True):
                where = source.where(index)
                if isinstance(pair, BadRecord):
                    export.note(index, where, str(pair))
                    continue
                caption, old, poisoned = pair
                yield export.name(index), caption, int(poisoned), old, index, where

    def picture(index: int) -> tuple[str, str, bool] | BadRecord:
        try:
            image, caption = read_pair(source, index)
        except BadRecord as error:
            return error
        size, poison = plan.header["image_size"], plan.poison_at(index)
        if poison is None:
            export.picture(index, lambda: GEOMETRY["crop"](image, size))
            return caption, caption, False
        poison.check(source[index].image, source.where(index))
        export.picture(
            index, lambda: plan.trigger.apply(GEOMETRY[plan.geometry](image, size), poison.stamp)
        )
        return poison.caption, caption, True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return export.write("pairs.csv", PAIRS, rows())


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
    labelled = np.flatnonzero(source.labels() >= 0)
    if not len(labelled):
        raise UserError("config.evaluation.data: no picture has a class; name the column of them.")
    what = {"test": source.fingerprint, "trigger": trigger.config}
    what |= {"geometry": geometry, "image_size": image_size}
    export = _Export(folder, what, int(max_bad_share * len(labelled)))
    names = source.class_names

    def rows() -> Iterator[tuple]:
        batches = evaluation_batches(
            source,
            Reading(BATCH),
            image_size=image_size,
            trigger=trigger,
            indices=labelled,
            geometry=geometry,
        )
        with batches, ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in batches:
                index = batch["index"].tolist()
                list(pool.map(lambda i, x: export.picture(i, lambda: x), index, batch["images"]))
                for i, label in zip(index, batch["label"].tolist(), strict=True):
                    yield export.name(i), label, names[label] if names else "", i, source.where(i)
            for i, reason in sorted(batches.unreadable.items()):
                export.note(i, source.where(i), reason)

    return export.write("labels.csv", TEST, rows())


class _Export:
    """A folder of pictures and a CSV; the same export goes on where it stopped."""

    def __init__(self, folder: Path, what: Mapping[str, Any], allowed: int):
        self._folder, self._allowed = folder, allowed
        self._bad: list[dict[str, Any]] = []
        mark = folder / MARK
        text = json.dumps(what, indent=2, sort_keys=True) + "\n"
        ours = mark.is_file() and mark.read_bytes() == text.encode()
        if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty, and no export of this: name a new folder.")
        write_whole(mark, text)

    @staticmethod
    def name(index: int) -> str:
        return f"images/{index:08d}.png"

    def picture(self, index: int, make: Callable[[], np.ndarray]) -> None:
        path = self._folder / self.name(index)
        if path.is_file():
            return
        stream = io.BytesIO()
        # The least effort: lossless all the same, four times as fast, a tenth larger.
        Image.fromarray(make()).save(stream, "png", compress_level=1)
        write_whole(path, stream.getvalue())

    def note(self, index: int, where: str, reason: str) -> None:
        self._bad.append({"index": index, "where": where, "reason": reason})
        if len(self._bad) > self._allowed:
            self._report()
            raise UserError(
                f"{len(self._bad)} unreadable pictures, more than config.data.max_bad_share "
                f"allows; the last: {reason}"
            )

    def write(self, name: str, columns: Sequence[str], rows: Iterable[tuple]) -> Exported:
        count = 0
        with (
            written_whole(self._folder / name) as scratch,
            scratch.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(columns)
            for row in rows:
                writer.writerow(row)
                count += 1
        if self._bad:
            self._report()
        return Exported(count, len(self._bad))

    def _report(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self._bad)
        write_whole(self._folder / "bad_rows.jsonl", lines)


def _chunks(items: Iterable[int], size: int) -> Iterator[list[int]]:
    items = iter(items)
    while some := list(islice(items, size)):
        yield some
