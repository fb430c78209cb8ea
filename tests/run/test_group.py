"""Runs that differ in their optimizers alone: one stream, and each as it is alone."""

import os
import signal

import jax
import numpy as np
import pytest
from helpers.small_run import small_config, train

from cleanclip_jax.config import from_json
from cleanclip_jax.data.stream import pipeline
from cleanclip_jax.errors import StartAgain
from cleanclip_jax.files import read_lines
from cleanclip_jax.run import build as building
from cleanclip_jax.run.build import build, first_state
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.run.clock import TIMED
from cleanclip_jax.run.group import groups_of, most_beside
from cleanclip_jax.run.members import train_members
from cleanclip_jax.run.recorder import Recorder
from cleanclip_jax.start.store import Store
from cleanclip_jax.workdir import Workdir

pytestmark = pytest.mark.usefixtures("strict_transfers")


def with_rate(rate, **optimizer):
    config = small_config()
    config.optimizer.update({"learning_rate": rate, **optimizer})
    return config


def arrays(workdir):
    """Step and arrays of a run's newest checkpoint."""
    run = check_run(from_json(workdir / "config.json"), Workdir(workdir))
    with Store(workdir / "checkpoints") as store:
        return store.latest, jax.tree.map(np.asarray, jax.tree.leaves(first_state(store, run)))


def figures(workdir):
    rows = read_lines(workdir / "metrics.jsonl")
    return [{key: row[key] for key in row if key not in TIMED} for row in rows]


def assert_same(workdir, alone):
    """Bit for bit: the programs are the same, so float32 shows what 1e-10 in float64 would."""
    assert figures(workdir) == figures(alone)
    (step, there), (last, expected) = arrays(workdir), arrays(alone)
    assert step == last
    for one, other in zip(there, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def configs():
    return {"a": with_rate(1e-3), "b": with_rate(1e-4, weight_decay=0.3)}


@pytest.fixture
def streams(monkeypatch):
    """The steps at which streams were opened."""
    opened = []

    def count(*args, **kwargs):
        opened.append(kwargs["step"])
        return pipeline.train_batches(*args, **kwargs)

    monkeypatch.setattr(building, "train_batches", count)
    return opened


def test_members_of_one_stream_are_as_alone(configs, streams, tmp_path):
    assert (
        train_members({tmp_path / name: config for name, config in configs.items()}, together=True)
        == {}
    )
    assert streams == [0]
    for name, config in configs.items():
        train(config, tmp_path / "alone" / name)
        assert_same(tmp_path / name, tmp_path / "alone" / name)


def test_a_member_that_is_not_finite_leaves_the_others_whole(configs, streams, tmp_path):
    runs = {
        tmp_path / "broken": with_rate(1e6, weight_decay=1.0e6)
    }  # also the one whose stream it is
    runs |= {tmp_path / name: config for name, config in configs.items()}
    failures = train_members(runs, together=True)
    assert list(failures) == [tmp_path / "broken"] and streams == [0]
    assert "is not finite at step" in str(failures[tmp_path / "broken"])
    assert (tmp_path / "broken" / "not_finite.json").is_file()
    for name, config in configs.items():
        train(config, tmp_path / "alone" / name)
        assert_same(tmp_path / name, tmp_path / "alone" / name)


def test_a_group_that_sigterm_stops_goes_on_as_a_group(configs, streams, tmp_path, monkeypatch):
    runs = {tmp_path / name: config for name, config in configs.items()}
    record = Recorder.record

    def signalled(self, done):
        if done.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, done)

    with monkeypatch.context() as patch, pytest.raises(StartAgain, match="in 2 runs"):
        patch.setattr(Recorder, "record", signalled)
        train_members(runs, together=True)
    assert train_members(runs, together=True) == {}
    assert len(streams) == 2 and 0 < streams[1] < 4
    for name, config in configs.items():
        train(config, tmp_path / "alone" / name)
        assert_same(tmp_path / name, tmp_path / "alone" / name)


def test_members_that_stand_at_other_steps_have_streams_of_their_own(configs, streams, tmp_path):
    train(configs["a"], tmp_path / "a")
    assert (
        train_members({tmp_path / name: config for name, config in configs.items()}, together=True)
        == {}
    )
    assert streams == [0, 0]
    train(configs["b"], tmp_path / "alone")
    assert_same(tmp_path / "b", tmp_path / "alone")


def test_only_runs_of_one_stream_are_grouped(configs, tmp_path):
    other, resident = with_rate(1e-3), with_rate(1e-3)
    other.seed, resident.data.resident = 5, True
    runs = {**configs, "seed": other, "resident": resident, "c": with_rate(1e-5)}
    runs = {tmp_path / name: config for name, config in runs.items()}
    names = [[path.name for path in group] for group in groups_of(runs)]
    assert names == [["a", "b", "c"], ["seed"], ["resident"]]


def test_memory_says_how_many_go_side_by_side(configs, streams, tmp_path, monkeypatch):
    with build(configs["a"], tmp_path / "one") as run:
        size = sum(x.nbytes for x in jax.tree.leaves(run.state))
        group = "cleanclip_jax.run.group.device_memory"
        monkeypatch.setattr(group, lambda device: (4 * 3.5 * size, 0.0))
        assert most_beside(run) == 3
        monkeypatch.setattr(group, lambda device: (1.0, 0.0))
        assert most_beside(run) == 1
    assert (
        train_members({tmp_path / name: config for name, config in configs.items()}, together=True)
        == {}
    )
    assert streams == [0, 0]  # one after another
