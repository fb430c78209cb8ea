"""Files and folders without permission, also where tests run as root, who may do anything."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 0x20080522  # of the kernel's capabilities, two words of 32 each
OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def locked(path: Path, mode: int = 0) -> Iterator[None]:
    """Takes rights from a file or folder, and from this thread those of root to pass that over."""
    before = path.stat().st_mode & 0o777
    path.chmod(mode)
    old = _capabilities()
    if os.geteuid() == 0:
        _set_effective(old, old[0] & ~OVERRIDES)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            _set_effective(old, old[0])
        path.chmod(before)


def _capabilities() -> list[int]:
    words = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(VERSION, 0), words):
        raise OSError("capabilities can't be read")
    return [*words]


def _set_effective(words: list[int], effective: int) -> None:
    new = (ctypes.c_uint32 * 6)(effective, *words[1:])
    if ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(VERSION, 0), new):
        raise OSError("capabilities can't be set")
