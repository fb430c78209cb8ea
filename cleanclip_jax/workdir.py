"""A workdir is a run: the names of all that lies in it, written whole or appended by the line."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cleanclip_jax.files import (
    append_line,
    check_plain,
    in_bucket,
    local_folder,
    read_json,
    read_lines,
    rewrite_lines,
    user_path,
    write_whole,
)
from cleanclip_jax.shapes import ANY

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INPUTS = "inputs.json"  # what the run began with: fingerprints of the data, the start's step
MANIFEST = "poison.parquet"
ORIGIN = "interop.json"  # the PyTorch checkpoint behind the run
HEAD = "head.json"  # the classes of a linear head
STARTS, METRICS, BAD_ROWS = "starts.jsonl", "metrics.jsonl", "bad_rows.jsonl"
NOT_FINITE = "not_finite.json"
OWNER = "owner.json"  # who trains there now
EVALUATION = "evaluation.json"
CHECKPOINTS, TENSORBOARD, PROFILE = "checkpoints", "tensorboard", "profile"
SUSPECTS = "suspects.parquet"  # ids of the pairs that the run does not trust
MIX = "mix.json"  # the two models whose weights are mixed there
SPLITS = "splits"  # which pairs a stage of the run takes: EPOCH.npz
ANCHOR = "anchor"  # the frozen start, where a term compares with it

# What readers rely on of each file, in the words of `files.parse_json`.
INTERVAL = ([float, float], None)
_FIGURE = {"value": float | None, "interval": INTERVAL, "of": int, "count?": int}
_FIGURE |= {"unit": {"share", "rank", "number"}, "definition": str}
_SET = {"classes": int, "classifier": str, "note": str, "fingerprint": str}
_SET |= {"target": ({"index": int, "name": str}, None)}
_SET |= {"pictures": {"labelled": int, "without_class": int, "unreadable": int}}
_LEFT_OUT = ("unreadable?", "without_caption?", "empty_captions?")
_RETRIEVAL = {"target": str | None, "fingerprint": str, "pictures": int, "captions": int}
_RETRIEVAL |= dict.fromkeys(_LEFT_OUT, int)
_START = {"path": str, "step?": int, "digest?": str | None}
_DRAWN = {"fingerprint": str, "pictures": int, "seed": int}
_BRANCHES = {"signal": float, "holder": str | None}
_BRANCHES |= dict.fromkeys(("vrs", "trs", "css"), float | None)
SHAPES = {
    MIX: {"from": _START, "to": _START, "statistics": (_DRAWN, None), "alpha?": float},
    INPUTS: {
        **{"data?": {"fingerprint": str, "pairs": int}, "start?": (_START, None)},
        **{key: {str: {"path": str, "digest": str}} for key in ("files?", "artefacts?")},
    },
    HEAD: {"classes": [str], "normalised": bool},
    STARTS: {"time": float, "command": str, "device": str, "devices": int},
    METRICS: {"step": int, str: (float, {"nan", "inf", "-inf"})},
    BAD_ROWS: {"index": int, "where": str, "reason": str},
    EVALUATION: {
        **{"workdir": str, "step": int, "geometry": str, "evaluation": dict},
        **{"trigger": dict | None, "parts?": [dict], "retrieval": (_RETRIEVAL, None)},
        **{"sets": {str: _SET}, "figures": {str: _FIGURE}},
        "branches?": ({str: {str: (_BRANCHES, None)}}, None),
    },
}


def workdir_path(text: str | PathLike[str]) -> Path:
    """A path on a disk, or at an address: gs://bucket/run, s3://bucket/run, what fsspec knows."""
    return user_path(text) if (bucket := in_bucket(text)) is None else bucket


@dataclass(frozen=True)
class Workdir:
    """The folder of a run, on a disk or in a bucket."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __str__(self) -> str:
        return str(self.path)

    def has(self, name: str) -> bool:
        """Whether a file of that name lies there; a pipe in its place is refused."""
        path = self.path / name
        if in_bucket(path) is None and path.exists():
            check_plain(path)
        return path.is_file()

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file whole or not at all."""
        write_whole(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Writes an object as indented JSON."""
        self.write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str, shape: Any = None, todo: str = "") -> Any:
        """Reads a JSON file of a shape, by default that of `SHAPES`, or says what is wrong.

        Args:
          todo: what a user does about it; ends the message.
        """
        return read_json(self.path / name, shape or SHAPES.get(name, ANY), todo)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The rows of a .jsonl file, without lines that are none; [] without a file."""
        return read_lines(self.path / name, _row_shape(name))

    def write_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Writes a .jsonl file anew; its lines that are no rows go to a file beside it."""
        rewrite_lines(self.path / name, rows, _row_shape(name))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds a row to a .jsonl file; a bucket has it soon, and once `flush` was called."""
        append_line(self.path / name, json.dumps(dict(row)) + "\n")

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def folder(self, name: str) -> Path:
        """Where a library that knows disks alone writes the files of folder `name`."""
        return local_folder(self.path / name)

    def flush(self) -> None:
        """Brings all that was appended, and the files of `folder`, into the bucket."""
        if (bucket := in_bucket(self.path)) is not None:
            bucket.flush()


def _row_shape(name: str) -> Any:
    of_all = re.sub(r"\.\d+\.jsonl$", ".jsonl", name)  # a further process's: bad_rows.1.jsonl
    return SHAPES.get(of_all, ANY)
