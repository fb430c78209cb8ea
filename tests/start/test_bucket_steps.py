"""Checkpoints in a bucket, here fsspec's own in memory."""

import logging
from collections.abc import Iterator

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.bucket import BucketPath
from cleanclip_jax.errors import UserError
from cleanclip_jax.run.settings import has_begun
from cleanclip_jax.start.bucket_steps import UNFINISHED, BucketSteps
from cleanclip_jax.start.store import Store, load_model, newest_whole
from cleanclip_jax.workdir import CONFIG, Workdir

PROGRESS = {"step": jnp.asarray(3, jnp.int32), "opt_state": (jnp.ones(2),)}


def model(value: float) -> dict:
    return {"params": {"w": jnp.full((3, 2), value)}, "batch_stats": {}}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Three steps, of which two stay."""
    folder, memory = BucketPath("memory://bucket/run/checkpoints"), fsspec.filesystem("memory")
    with Store(folder, keep=2) as store:
        for step in (2, 4, 6):
            store.save(step, model(step), PROGRESS)
        assert store.steps == [4, 6]
    return {name: memory.cat_file(name) for name in memory.find("/bucket")}


@pytest.fixture
def folder(files: dict[str, bytes]) -> Iterator[BucketPath]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    memory.pipe(files)
    yield BucketPath("memory://bucket/run/checkpoints")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def value_at(folder: BucketPath, step: int | None = None) -> tuple[int, float]:
    step, found = load_model(folder.parent, jax.tree.map(np.asarray, model(0)), step)
    return step, float(found["params"]["w"][0, 0])


def damage(folder: BucketPath, step: int) -> None:
    name = next(n for n in folder.files() if n.startswith(f"{step}/model/ocdbt.process_0/d/"))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))


def test_the_newest_stay_and_are_read(folder: BucketPath):
    assert {name.split("/")[0] for name in folder.files()} == {"4", "6"}
    assert newest_whole(folder) == 6 and value_at(folder) == (6, 6.0)
    assert value_at(folder, 4) == (4, 4.0)
    with pytest.raises(UserError, match="keeps no checkpoint of step 2; it has 4, 6"):
        value_at(folder, 2)
    with Store(folder, keep=2) as store:
        store.save(6, model(0), PROGRESS)  # it is there
        store.save(8, model(8), PROGRESS)
    assert BucketSteps(folder).steps() == [6, 8] and value_at(folder) == (8, 8.0)


def test_what_a_kill_cut_off_is_passed_over_and_goes(folder: BucketPath):
    (folder / "8" / UNFINISHED).write_bytes(b"")
    (folder / "8/model/d/part").write_bytes(b"x")
    assert value_at(folder) == (6, 6.0)
    assert (folder / "8").is_dir()  # who reads removes nothing
    with Store(folder, keep=2) as store:
        assert store.latest == 6
        store.save(8, model(8), PROGRESS)
    assert value_at(folder) == (8, 8.0) and not (folder / "8/model/d/part").is_file()


def test_a_run_cut_off_in_its_first_save_has_not_begun(folder: BucketPath):
    """It needs its start again: a step that is there in part holds no weights."""
    run = Workdir(folder.parent)
    run.write(CONFIG, "{}")
    assert has_begun(run)
    for step in (4, 6):
        (folder / str(step) / UNFINISHED).write_bytes(b"")
    assert not has_begun(run)


def test_a_damaged_step_is_passed_over_and_moved(
    folder: BucketPath, caplog: pytest.LogCaptureFixture
):
    damage(folder, 6)
    assert newest_whole(folder) == 4 and value_at(folder) == (4, 4.0)
    assert f"{folder}/6 is damaged" in caplog.text and "step 4 is used instead" in caplog.text
    with pytest.raises(UserError, match=r"memory://.*/6 is damaged \(.*\): name another step"):
        value_at(folder, 6)
    with caplog.at_level(logging.WARNING), Store(folder, keep=2) as store:
        assert store.latest == 4
        store.save(6, model(7), PROGRESS)
    assert value_at(folder) == (6, 7.0)
    assert (folder.parent / "damaged/6/digests.json").is_file()


def test_when_all_are_damaged_nobody_begins_anew(folder: BucketPath):
    for step in (4, 6):
        damage(folder, step)
    with pytest.raises(UserError, match=f"{folder}: no checkpoint is whole"):
        Store(folder)
