"""Draws the pictures of docs/attacks.md: `python docs/attacks/draw.py`, from the repository's root.

Each is scikit-learn's sample photograph with a trigger on, and beside it what the trigger changed,
stretched to the full range.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from cleanclip_jax.attacks.triggers import TRIGGERS, make_trigger
from cleanclip_jax.files import written_whole
from cleanclip_jax.report.plots import difference
from cleanclip_jax.views.geometry import resize_crop

SIZE = 112
# "none" and "pictures" have nothing to show.
SHOWN = {name: {"name": name} for name in TRIGGERS if name not in ("none", "pictures")} | {
    "corners": {"name": "yellow", "place": "corners"},
    "sig_add": {"name": "sig", "mode": "add"},
    "wanet_smooth": {"name": "wanet", "k": 4, "strength": 0.5},
}


def draw_file(folder: str) -> str:
    """A file for the triggers that take one: rings of colour."""
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    rings = 0.5 + 0.5 * np.cos(6 * np.hypot(x, y)[:, :, None] + np.array([0, 2, 4]))
    path = f"{folder}/rings.png"
    Image.fromarray((255 * rings).astype(np.uint8)).save(path)
    return path


def main() -> None:
    picture = resize_crop(load_sample_image("china.jpg")[:, 60:487], SIZE)
    file = {"file": draw_file(tempfile.mkdtemp())}
    for name, config in SHOWN.items():
        trigger = make_trigger(
            config | (file if "file" in TRIGGERS[config["name"]].options else {})
        )
        triggered = trigger.apply(picture, trigger.stamp(SIZE, 0))
        both = np.concatenate([triggered, difference(picture, triggered)], axis=1)
        with written_whole(Path("docs/attacks") / f"{name}.png") as scratch:
            Image.fromarray(both).save(scratch, "png", optimize=True)


if __name__ == "__main__":
    main()
