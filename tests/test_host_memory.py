"""Memory that is freed stays with the process: to get it anew costs a fault a page."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from cleanclip_jax.host_memory import keep_memory
if {keep}:
    keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(200 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_is_freed_is_kept():
    found = [
        int(subprocess.check_output([sys.executable, "-c", PROGRAM.format(keep=keep)]))
        for keep in (True, False)
    ]
    assert found[0] < 100 < found[1]
