"""A run of the golden workdirs to write into, and a cache of a file's tests alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

POISONED = Path(__file__).parents[1] / "golden/workdirs/poisoned"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(POISONED, tmp_path_factory.mktemp("run") / "poisoned")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features are computed once for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEANCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
