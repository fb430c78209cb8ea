"""Pictures in device memory: the same run, whether they lie there or come from the host."""

import json
import logging
import os

import jax
import numpy as np
import pytest
from helpers.small_pictures import Pictures
from helpers.small_run import small_config, train

from cleanclip_jax.data.stream.pipeline import Reading
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.run import resident
from cleanclip_jax.run.clock import TIMED
from cleanclip_jax.run.recorder import Recorder
from cleanclip_jax.run.resident import load_pictures
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.store import open_store

pytestmark = pytest.mark.usefixtures("strict_transfers")


def config(**data):
    """Poisoned, with views: triggers and AutoAugment are made in the step, of rows it gathers."""
    made = small_config()
    made.objective.in_modal = 1.0
    made.views.on = "device"
    made.attack.count = 400
    made.mesh.data = 2
    made.data.update(data)
    return made


def outcome(workdir):
    rows = read_lines(workdir / "metrics.jsonl")
    with open_store(workdir) as (_, store):
        saved = store.load(**{part: store.saved(part) for part in ("model", "progress")})
    figures = [{key: row[key] for key in row if key not in TIMED} for row in rows]
    return figures, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(saved)]


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("streamed") / "run"
    train(config(), workdir)
    return outcome(workdir)


@pytest.mark.slow
@pytest.mark.skipif(
    "fusion_emitters=false" in os.environ["XLA_FLAGS"],
    reason="XLA's older fusions round the two programs otherwise: make test-slow",
)
def test_resident_pictures_are_those_of_the_host_bit_for_bit(streamed, tmp_path, monkeypatch):
    monkeypatch.setattr("cleanclip_jax.data.stream.example.Example._views", None)  # not called
    train(config(resident=True), tmp_path / "run")
    assert outcome(tmp_path / "run") == streamed


@pytest.mark.slow
def test_where_memory_is_short_the_host_decodes_and_that_is_said(streamed, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(config(resident=True, resident_share=1e-9), tmp_path / "run")
    assert "1397 pictures take" in caplog.text and "the host decodes" in caplog.text
    assert outcome(tmp_path / "run") == streamed


def test_where_memory_runs_out_after_all_too(streamed, tmp_path, caplog, monkeypatch):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(resident.jnp, "zeros", full)
    source = Pictures([0] * 4)
    monkeypatch.setattr(resident, "every_picture", None)  # not called
    with caplog.at_level(logging.WARNING):
        assert load_pictures(make_mesh(1), source, Reading(4), image_size=16, share=0.5) is None
    assert "the host decodes" in caplog.text


@pytest.mark.parametrize("devices", [1, 8])
def test_each_device_has_its_part_and_the_unreadable_are_known(devices, monkeypatch):
    source = Pictures([0] * 21, bad=[3, 4, 20])
    monkeypatch.setattr(resident, "BATCH", 4)

    reading = Reading(1, max_bad_share=0.2)
    found = load_pictures(make_mesh(devices), source, reading, image_size=16, share=0.5)
    assert found is not None
    table, unreadable = found
    assert unreadable == {3, 4, 20}
    assert len(table) % devices == 0 and len(table.sharding.device_set) == devices
    for index, row in enumerate(np.asarray(table)):
        whole = index < len(source) and index not in unreadable
        wanted = source[index].image if whole else np.zeros((16, 16, 3), np.uint8)
        np.testing.assert_array_equal(row, wanted, err_msg=str(index))


def test_too_many_unreadable_pictures_end_the_run():
    source = Pictures([0] * 21, bad=[3, 4, 20])
    reading = Reading(4, max_bad_share=0.1)
    with pytest.raises(
        UserError, match=r"3 unreadable records of 21, more than config.data.max_bad_share"
    ):
        load_pictures(make_mesh(1), source, reading, image_size=16, share=0.5)


def test_resident_pictures_need_views_on_the_device(tmp_path):
    settings = config(resident=True)
    settings.views.on = "host"
    with pytest.raises(UserError, match=r"data\.resident needs config\.views\.on=device"):
        train(settings, tmp_path / "run")


@pytest.mark.slow
def test_nothing_compiles_once_each_length_was_met(tmp_path, monkeypatch):
    compiled, steps = [], []

    def heard(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    record = Recorder.record

    def counted(self, done):
        record(self, done)
        steps.append((done.flops, len(compiled)))

    monkeypatch.setattr(Recorder, "record", counted)
    monkeypatch.setattr("cleanclip_jax.run.build.peak_of", lambda kind: 1e12)  # counts FLOPs
    settings = config()
    settings.attack, settings.views.image = None, "none"  # as compiling takes its time
    settings.mesh.data = 1
    # Of sixteen captions, now and then one is too long for the shorter length.
    settings.data.train.templates = ["a handwritten {}."] * 40 + [
        "a {} that somebody wrote by hand."
    ]
    settings.train.text_lengths = (8,)
    settings.train.steps = 12
    settings.train.checkpoint_every = 3
    train(settings, tmp_path / "run")
    last_new = max(i for i, (flops, _) in enumerate(steps) if flops not in dict(steps[:i]))
    # The step after it is dispatched before it is recorded.
    warm = max(last_new, 3)
    assert 0 < last_new < 8, json.dumps(steps)
    assert steps[-1][1] == steps[warm][1], json.dumps(steps)
