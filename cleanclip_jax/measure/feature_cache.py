"""Arrays of features in the cache: .npy files, memory-mapped, checked when opened.

Behind its rows a file holds a second array: a note in JSON, with the rows' checksum.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from cleanclip_jax.cache import Held, prune
from cleanclip_jax.errors import reason
from cleanclip_jax.files import cache_folder, written_whole

log = logging.getLogger(__name__)


def features_path(key: str) -> Path:
    """Where the features of that key are."""
    return cache_folder() / "embeddings" / f"{key[:40]}.npy"


def save_features(
    path: Path, rows: Float32[np.ndarray, "n d"], note: dict[str, Any], limit: int | float
) -> None:
    """Writes rows and a note, then removes the least lately used files beyond `limit` GB.

    What can't be written, or is larger than the limit, is logged in one line and not saved.
    """
    if (size := rows.nbytes / 1e9) > limit:
        text = "features of %.1f GB are not saved: config.evaluation.cache allows %g GB"
        log.warning(text, size, limit)
        return
    text = json.dumps({**note, "sha256": _digest(rows)})
    try:
        with written_whole(path) as scratch, scratch.open("wb") as stream:
            np.save(stream, rows)
            np.save(stream, np.frombuffer(text.encode(), np.uint8))
        newest = Held(path)
        prune(path.parent, limit * 1e9)
        del newest
    except OSError as error:
        log.warning("features are not saved in %s: %s", path.parent, reason(error))


def load_features(path: Path) -> tuple[Float32[np.ndarray, "n d"], dict[str, Any]] | None:
    """The rows of a file, memory-mapped, and its note; None where there is none.

    A file that was cut short or modified is logged in one line, and None too. One that another
    process removes stays readable here.
    """
    try:
        Held(path)  # marks its use
        rows: Any = np.load(path, mmap_mode="r")
        with path.open("rb") as stream:
            stream.seek(rows.offset + rows.nbytes)
            note = json.loads(np.load(stream).tobytes())
        if _digest(rows) != note["sha256"]:
            raise ValueError("its checksum is another")
        return rows, note
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy has errors of many kinds
        log.warning("%s is damaged (%s): its features are made again", path, reason(error))
        return None


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
