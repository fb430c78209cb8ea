"""Where the files in a tar begin: their headers alone are read, their content is passed over."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

BLOCK = 512
GZIP = b"\x1f\x8b"
REGULAR = b"0\x007"  # types of ordinary files, as told by old, new and odd writers


class Member(NamedTuple):
    """A file in a tar, `size` bytes from byte `start`."""

    name: str
    start: int
    size: int


def members(stream: Any) -> Iterator[Member]:
    """Yields the files of an uncompressed tar (ustar, GNU or pax) in order.

    Between two of them the stream may be moved.

    Raises:
      ValueError: it is no tar, or was cut short; a whole one ends with blocks of zeros.
    """
    end = stream.seek(0, os.SEEK_END)
    place, extra = 0, {}
    while True:
        stream.seek(place)
        header = stream.read(BLOCK)
        if len(header) < BLOCK and header[:2] != GZIP:
            raise ValueError(f"cut short at byte {end}: the tar's end mark is missing")
        if not any(header):
            return
        if _checksum(header) != _number(header[148:156]):
            what = "a compressed file: unpack it" if header[:2] == GZIP else "no tar header"
            raise ValueError(f"{what} at byte {place}")
        kind, start = header[156:157], place + BLOCK
        size = int(extra.get("size", _number(header[124:136])))
        place = start + -(-size // BLOCK) * BLOCK
        if kind in (b"x", b"L"):
            data = stream.read(size)
            extra |= _pax(data) if kind == b"x" else {"path": _text(data)}
        elif kind in (b"g", b"K"):
            continue  # of the whole archive, or of a link
        else:
            if kind in REGULAR:
                yield Member(extra.get("path") or _name(header), start, size)
            extra = {}


def _checksum(header: bytes) -> int:
    # Its own place counts as spaces.
    return sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _number(field: bytes) -> int:
    """Octal text, or in base 256 where that is too small (GNU); -1 for neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")


def _pax(data: bytes) -> dict[str, str]:
    """Records 'length key=value', each with a line end."""
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        record = data[len(length) + 1 : int(length) - 1]
        key, _, value = record.partition(b"=")
        found[key.decode(errors="replace")] = value.decode(errors="replace")
        data = data[int(length) :]
    return found
