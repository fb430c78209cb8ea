"""Triggers of files, with small files for them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cleanclip_jax.attacks.trigger_files import digest

RNG = np.random.default_rng(5)
PATCH = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
PATTERN = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)


def save(picture: np.ndarray, path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(path)
    return str(path)


def trigger_config(name: str, folder: Path, clean: np.ndarray | None = None) -> dict[str, Any]:
    """A trigger's config, with the file that it needs in `folder`; `clean` is to be triggered."""
    files = {"patch": PATCH, "picture": PATTERN}
    if name in files:
        return {"name": name, "file": save(files[name], folder / f"{name}.png")}
    if name == "pictures":
        if clean is not None:
            save(255 - clean, folder / "made" / f"{digest(clean)}.png")
        return {"name": name, "folder": str(folder / "made")}
    return {"name": name}
