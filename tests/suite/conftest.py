"""A suite of made figures: nothing is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cleanclip_jax.suite.cells import digest_of
from cleanclip_jax.suite.ledger import Store
from cleanclip_jax.suite.suites import Cell, Suite, open_suite

SUITE = """
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({
        "title": "made",
        "sets": {"demo": {"config": "configs/demo.py"}},
        "models": {"mini": ()},
        "attacks": {
            "badnet": {"keys": ("attack.trigger.size=4",)},
            "wanet": {"keys": ("attack.trigger={'name': 'wanet'}",)},
        },
        "defences": {
            "mmcl": {"config": "configs/{set}.py:mmcl", "rates": (1e-3, 3e-3)},
            "roclip": {"keys": ("objective.matched=1.0",), "rates": (1e-3,)},
        },
        "detectors": {"slof": {"kind": "pairs", "options": {"k": 8}}, "decree": {"kind": "model"}},
        "rebound": {"config": "configs/{set}.py:mmcl", "keys": ("train.steps=3",)},
        "seeds": (0, 1),
        "first": ["attack=wanet,seed=0"],
    })
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    (tmp_path / "suite.py").write_text(SUITE)
    return tmp_path / "suite.py"


@pytest.fixture
def suite(suite_file: Path) -> Suite:
    return open_suite(str(suite_file), {})


@pytest.fixture
def store(suite: Suite, tmp_path: Path) -> Store:
    return Store(suite, tmp_path / "work")


@pytest.fixture
def put(store: Store) -> Callable[..., None]:
    """Gives a cell figures in hundredths, with intervals of 1 point to either side."""

    def put(cell: Cell, **shares: float) -> None:
        figures = {
            name: {"value": x / 100, "interval": [x / 100 - 0.01, x / 100 + 0.01], "of": 100}
            for name, x in shares.items()
        }
        cost = {"steps": 10, "pairs": 640, "seconds": 2.0, "flops": 3e12}
        facts = {"machine": "2 CPU cores", "version": "x", "when": "2026-12-01", "command": "c"}
        store.put(cell, {"figures": figures, "cost": cost, **facts})
        assert store.row(cell) is store.rows[digest_of(cell)]

    return put


@pytest.fixture
def cell(suite: Suite) -> Callable[..., Cell]:
    """The one cell that lies at some places."""

    def cell(kind: str, **at: str) -> Cell:
        wanted = {"kind": kind, **at}.items()
        (one,) = (each for each in suite.cells if wanted <= each.places.items())
        return one

    return cell
