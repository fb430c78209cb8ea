"""`cleanclip detect`: looks for poisoned pairs, triggered pictures and backdoored models.

cleanclip detect pairs      scores a dataset's pairs, and says which to drop
cleanclip detect pictures   scores pictures by how much a model minds the text (BDetCLIP)
cleanclip detect model      says how small a patch makes a model take pictures for alike (DECREE)
"""

import importlib
from collections.abc import Sequence

from cleanclip_jax.errors import unknown

# Each a job of its own, imported when it is run.
KINDS = {
    "pairs": "cleanclip_jax.jobs.detect_pairs",
    "pictures": "cleanclip_jax.jobs.detect_pictures",
    "model": "cleanclip_jax.jobs.detect_model",
}


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    kind = argv[0] if argv else "--help"
    if kind in ("-h", "--help"):
        print(f"usage: cleanclip detect {{{','.join(KINDS)}}} ...\n\n{__doc__}")
        return 0 if argv else 2
    if kind not in KINDS:
        raise unknown("cleanclip detect", kind, KINDS)
    return importlib.import_module(KINDS[kind]).main(argv[1:])
