"""Arrays by name in an .npz: written whole, and read with a bound; nothing in it is executed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import check_plain, local_copy, written_whole

MOST_BYTES = 1 << 30  # of the arrays, unpacked


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, compressed."""
    with written_whole(path) as scratch, scratch.open("wb") as stream:
        np.savez_compressed(stream, **dict[str, Any](arrays))


def read_arrays(path: Path, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a file of at most so many bytes; a UserError says what is wrong with it."""
    try:
        there = local_copy(path)
        check_plain(there)
        with zipfile.ZipFile(there) as members:
            if sum(member.file_size for member in members.infolist()) > most:
                raise UserError(f"{path} unpacks to more than {most >> 20} MiB: refused")
        with np.load(there, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile have errors of many kinds
        raise UserError(f"{path} is no file of arrays: {reason(error)}") from None
