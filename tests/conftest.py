"""What every test gets: shape types checked, eight fake devices, golden values, shared pictures."""

import atexit
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import install_import_hook

# Read once, when JAX starts; programs that tests start inherit both. A device of the machine's own
# is used by naming it: JAX_PLATFORMS=cuda make test.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Unoptimised code compiles three times faster, which is most of the time of these tests; set
# XLA_FLAGS=--xla_backend_optimization_level=3 to test what users run.
flags = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
# XLA's older fusions compile in two thirds of the time; later versions have the new ones alone.
# pytest's workers, which have no such argument, inherit what it means.
os.environ.setdefault("CLEANCLIP_TEST_FUSIONS", "new" if "slow" in sys.argv else "old")
if version("jaxlib").startswith("0.10.") and os.environ["CLEANCLIP_TEST_FUSIONS"] == "old":
    flags.append("--xla_cpu_use_fusion_emitters=false")
for flag in flags:
    given = os.environ.get("XLA_FLAGS", "")
    if flag.partition("=")[0] not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()


def own_folder(prefix: str) -> str:
    """A folder that goes when this process ends."""
    folder = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# What compiles for longer than a tenth of a second compiles once for all tests that need it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", own_folder("cleanclip-jit-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# Shapes are broadcast where the code says so, and nowhere else.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

# Nothing of a test is left to another run of it, nor in the user's cache.
os.environ["CLEANCLIP_CACHE"] = own_folder("cleanclip-cache-")

# What one of pytest's processes has made for all of them (helpers/small_run.py).
os.environ.setdefault("CLEANCLIP_TEST_RUNS", own_folder("cleanclip-runs-"))

# An int is fine where a float is asked for (PEP 484).
install_import_hook(
    "cleanclip_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

import helpers.variants  # noqa: E402, F401  (after the hook: adds "RN-test" and "ViT-test")

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"


@pytest.fixture(autouse=True)
def quiet() -> None:
    """The command line's own log level is not left to the tests after it."""
    logging.getLogger("cleanclip_jax").setLevel(logging.NOTSET)


@pytest.fixture
def strict_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's steps copy nothing to or from a device but what is placed there by name."""
    import jax

    from cleanclip_jax.run.clock import Trace

    dispatch = Trace.step

    @contextmanager
    def strict(trace: Trace, step: int) -> Iterator[None]:
        with dispatch(trace, step), jax.transfer_guard("disallow"):
            yield

    monkeypatch.setattr(Trace, "step", strict)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Gives a reader: `golden("geometry")` is tests/golden/geometry.npz by array name;
    a name with an ending, as `golden("tokenizer.json")`, is read as JSON."""

    def read(name: str) -> dict[str, Any]:
        if name.endswith(".json"):
            return json.loads((TESTS / "golden" / name).read_text())
        with np.load(TESTS / "golden" / f"{name}.npz") as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared pictures beside the repository: never committed, so maybe not there."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared pictures: {folder} is not there")
    return folder
