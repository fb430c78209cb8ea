"""Three small models: poisoned, cleaned and never poisoned; and a trial of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.three_models import DIGITS, three_models

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.persist.trial import Settings, Trial
from cleanclip_jax.start.start import open_start


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return three_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Any]:
    """Every twentieth pair of the digits, as a cleaning that left the others out has them."""
    path, source = tmp_path_factory.mktemp("data") / "keep.parquet", open_source(DIGITS)
    write_ids(path, source.ids()[::20], source.root().fingerprint)
    return {**DIGITS, "keep": str(path)}


@pytest.fixture(scope="module")
def settings(data) -> Settings:
    return Settings(
        protocols=("path", "retune", "rebound", "reactivation", "presence"),
        data=data,
        seeds=(0,),
        rates=(1e-3,),
        epochs=(1, 2),
        poisons=3,
        alphas=("0", "0.5", "1"),
        pictures=20,
        radius=0.05,
        step_size=0.05,
        rounds=1,
        overrides={"train.batch_size": "32", "data.workers": "0"},
    )


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Iterator[None]:
    """Features are computed once for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEANCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make_trial(models, settings, tmp_path) -> Callable[..., Trial]:
    """A trial of the models, written to a folder that is the test's."""

    def make(floor: bool = True, folder: Path = tmp_path / "persist", **changes: Any) -> Trial:
        named = {k: path for k, path in models.items() if floor or k != "floor"}
        starts = {name: open_start(path) for name, path in named.items()}
        trial = Trial(folder, starts, Settings(**{**vars(settings), **changes}))
        trial.claim()
        trial.write("cleanclip persist")
        return trial

    return make


@pytest.fixture
def say() -> Callable[[str], None]:
    return lambda what: None
