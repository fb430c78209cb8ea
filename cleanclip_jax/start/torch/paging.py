"""Memory that is done with, handed back to the system at once; does nothing but on Linux."""

import ctypes
import mmap
import sys
from contextlib import suppress

import numpy as np

_MADV_PAGEOUT = 21  # linux/mman.h; unlike MADV_DONTNEED it can lose nothing


def page_out(values: np.ndarray) -> None:
    """Drops a mapped file's pages below `values` from memory; reading them again fetches them.

    What has been read of a mapping counts as the process's memory until the mapping ends.
    """
    if sys.platform == "linux" and values.flags.c_contiguous:
        begin, page = values.ctypes.data, mmap.PAGESIZE
        first, end = -(-begin // page) * page, (begin + values.nbytes) // page * page
        if end > first:
            length = ctypes.c_size_t(end - first)
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), length, _MADV_PAGEOUT)


def give_back_memory() -> None:
    """Returns freed memory to the system: glibc keeps arrays of some megabytes for itself."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
