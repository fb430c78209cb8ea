"""The files that folders, patterns and braces stand for."""

import errno
import glob
import math
import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from cleanclip_jax.data.paths import far_files, is_remote, join, local, parent, short_names
from cleanclip_jax.errors import UserError, refusing

RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MOST_FILES = 1_000_000  # that a path may stand for
MOST_FOLDERS = 100  # within each other


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Yields (path from the folder, size) of all files below it, folder by folder, by name."""
    return far_files().files_below(folder) if is_remote(folder) else _walk(folder, "", ())


def _walk(folder: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, int]]:
    about = os.stat(folder)
    here = about.st_dev, about.st_ino
    if here in above or len(above) == MOST_FOLDERS:
        why = "a link to a folder above it" if here in above else "too deep in folders"
        raise OSError(errno.ELOOP, why, folder)
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, f"{below}{entry.name}/", (*above, here))
        else:
            # A link that leads nowhere is a picture that cannot be read.
            yield below + entry.name, entry.stat(follow_symlinks=entry.is_file()).st_size


def expand(given: str | Path | Sequence[str | Path], ending: str) -> list[str]:
    """The files that a path, a list of them, a pattern or a folder stands for, in a fixed order.

    Args:
      given: files, folders (all files below with the ending), patterns (*, ?, [..]), and any of
        them with braces ("{00000..00331}.tar", "{train,val}.parquet"), or a list of these.
        Files that are named may not be there; a pattern or folder must have one.
      ending: of the files that are meant in a folder, with its dot.
    """
    files = []
    for entry in [given] if isinstance(given, str | Path) else given:
        for name in _braces(local(entry)):
            with refusing(name, "check the data's path", OSError):
                files += _expand(name, ending)
    if not files:
        raise UserError(f"{given}: this names no {ending} file; check the data's path.")
    return files


def _expand(path: str, ending: str) -> list[str]:
    far = is_remote(path)
    # In a web address a ? begins the query.
    pattern = re.search(r"\*" if path.startswith("http") else r"[*?[]", path)
    if pattern and (far or not os.path.exists(path)):
        if not far and "**" in path:  # which follows links, in a circle too
            folder = parent(path[: pattern.start()])
            _ = all(True for _ in files_below(folder or "."))
        matched = far_files().matching(path) if far else glob.glob(path, recursive=True)
    elif not path.partition("?")[0].endswith(ending) and (
        far_files().is_folder(path) if far else os.path.isdir(path)
    ):
        if far:
            matched = far_files().matching(join(path, f"**/*{ending}"))
        else:
            names = (name for name, _ in files_below(path) if name.endswith(ending))
            matched = [join(path, name) for name in names if not re.search(r"(^|/)\.", name)]
        # Tools keep notes under names that begin so.
        matched = [file for file in matched if not short_names([file])[0].startswith("_")]
    else:
        return [path]
    if not matched:
        raise UserError(f"{path}: no {ending} file there; check the data's path.")
    return sorted(matched)


def _braces(path: str) -> list[str]:
    """{a,b} and {00..12} spelled out."""
    # In turn what stands outside braces and what stands within.
    parts = [[part] for part in re.split(r"\{([^{}]*)\}", path)]
    for i in range(1, len(parts), 2):
        if ends := RANGE.fullmatch(parts[i][0]):
            first, last = ends.groups()
            numbers = range(int(first), int(last) + 1)[: MOST_FILES + 1]
            parts[i] = [f"{n:0{len(first)}d}" for n in numbers]
        else:
            parts[i] = parts[i][0].split(",")
    if math.prod(map(len, parts)) > MOST_FILES:
        raise UserError(
            f"{path}: this names more than {MOST_FILES:,} files; check the data's path."
        )
    return ["".join(words) for words in product(*parts)]
