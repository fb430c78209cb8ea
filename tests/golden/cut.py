"""Cuts a small file of golden values out of a large one, for the tests.

    python tests/golden/cut.py LARGE.npz par.npz par/ --elements=512
    python tests/golden/cut.py LARGE.npz unlearn.npz unlearn/

LARGE.npz is defences_golden.npz, what the published defences' own code computes. Keys lose the
prefix. Of tensors whose names contain `/after/` or `/grad_step` at most so many elements stay,
evenly spread: `sample` says which.
"""

import argparse

import numpy as np


def sample(values: np.ndarray, elements: int) -> np.ndarray:
    """At most so many elements of a tensor, evenly spread over it."""
    flat = values.reshape(-1)
    return flat[:: -(-flat.size // elements)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("large")
    parser.add_argument("small")
    parser.add_argument("prefix")
    parser.add_argument("--elements", type=int, default=2**31)
    args = parser.parse_args()
    with np.load(args.large) as large:
        taken = {name: large[name] for name in large.files if name.startswith(args.prefix)}
    for name, values in taken.items():
        if "/after/" in name or "/grad_step" in name:
            taken[name] = sample(values, args.elements)
    np.savez_compressed(args.small, **{k.removeprefix(args.prefix): v for k, v in taken.items()})


if __name__ == "__main__":
    main()
