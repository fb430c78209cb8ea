"""A measured run of an older program, as a report reads it, with other values where they count."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from cleanclip_jax.report.runs import Entry, Run, read_run
from cleanclip_jax.workdir import Workdir

GOLDEN = Path(__file__).parents[1] / "golden/workdirs/measured"


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """Makes an entry of one run, from {place in evaluation.json: value}, in another workdir."""
    golden = read_run(GOLDEN)

    def make(name: str = "run", workdir: Path = GOLDEN, **values) -> Entry:
        evaluation = copy.deepcopy(dict(golden.evaluation))
        config = golden.config.copy_and_resolve_references()
        for key, value in values.items():
            if key == "classifier":
                evaluation["sets"]["data"][key] = value
            elif key == "config":
                config.update_from_flattened_dict(value)
            else:
                evaluation[key] = value
        return Entry(name, [Run(Workdir(workdir), config, evaluation)], name)

    return make
