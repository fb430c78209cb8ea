"""Writes pools.npz: what RoCLIP's, SafeCLIP's and the original's removal code computes.

    python tests/golden/cut_pools.py LARGE.npz tests/golden/pools.npz

LARGE.npz is defences_golden.npz, outputs of the published defences' functions on small inputs.
"""

import sys

import numpy as np

if __name__ == "__main__":
    with np.load(sys.argv[1]) as large:
        names = [x for x in large.files if x.startswith(("roclip/", "safeclip/", "removal/"))]
        taken = {name: large[name] for name in names if "published_rates" not in name}
    np.savez_compressed(sys.argv[2], **taken)
