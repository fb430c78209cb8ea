"""Cuts badclip.npz, the golden values of BadCLIP's patch, out of a large file of attacks'.

    python tests/golden/cut_badclip.py attacks_golden.npz

The positives' pictures stay out: the model's embeddings of pictures are other files' matter.
"""

import sys
from pathlib import Path

import numpy as np

MODEL = "badclip|vit|size=32|patch=6|place=middle|row=col=13|"


def main() -> None:
    with np.load(sys.argv[1]) as large:
        taken = {name: large[name] for name in large.files if name.startswith("badclip|")}
    small = {
        name.removeprefix(MODEL).removeprefix("badclip|"): values
        for name, values in taken.items()
        if not name.endswith("positive_pictures")
    }
    np.savez_compressed(Path(__file__).with_name("badclip.npz"), **small)


if __name__ == "__main__":
    main()
