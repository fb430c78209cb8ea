"""A disk that is full, read-only or gone while a run saves: one line, and what was whole stays."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fault_runs import state
from helpers.small_run import small_config, train

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.digests import FILE
from cleanclip_jax.start.store import Store, newest_whole

# A megabyte that does not compress.
NUMBERS = np.random.default_rng(0).random((500, 500), np.float32)
MODEL = {"params": {"w": jnp.asarray(NUMBERS)}, "batch_stats": {}}
PROGRESS = {"step": jnp.asarray(3, jnp.int32), "opt_state": (jnp.ones(2),)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of sixteen megabytes of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "cleanclip-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here: needs root's rights")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, but: int) -> None:
    (disk / "other").write_bytes(b"x" * (shutil.disk_usage(disk).free - but))


@pytest.mark.parametrize(
    "but", [20_000, *(pytest.param(but, marks=pytest.mark.faults) for but in (0, 500_000))]
)
def test_a_full_disk(disk: Path, but: int, caplog: pytest.LogCaptureFixture):
    """At the folders, at the small files, at the arrays."""
    with Store(disk / "checkpoints", keep=1) as store:
        store.save(2, MODEL, PROGRESS)
        fill(disk, but)
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(
                UserError,
                match=r"checkpoints can't be written: No space left on device; the checkpoint of "
                r"step 4 was not kept, that of step 2 is whole: make room there",
            ) as error:
                store.save(4, MODEL, PROGRESS)
            assert "\n" not in str(error.value)
    assert time.monotonic() - began < 20  # nobody waits for who won't come
    assert not [r for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")]
    # What was written of it does not stay, to keep the disk full.
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["2"]
    (disk / "other").unlink()
    with Store(disk / "checkpoints", keep=1) as store:
        assert store.latest == 2
        assert np.array_equal(
            store.load(model=store.saved("model"))["model"]["params"]["w"], NUMBERS
        )
        store.save(4, MODEL, PROGRESS)
    assert newest_whole(disk / "checkpoints") == 4


def test_a_disk_that_turns_read_only(disk: Path):
    with Store(disk / "checkpoints") as store:
        store.save(2, MODEL, PROGRESS)
        (disk / "checkpoints/2" / FILE).write_text("damaged")
        store.save(4, MODEL, PROGRESS)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError, match=r"Read-only file system; .*make it writable"):
            store.save(6, MODEL, PROGRESS)
    # Who only reads is not kept from it, damage or not.
    with Store(disk / "checkpoints") as store:
        assert store.latest == 4
        assert np.array_equal(
            store.load(model=store.saved("model"))["model"]["params"]["w"], NUMBERS
        )
        with pytest.raises(UserError, match="is damaged"):
            store.check(2)


def test_damage_on_a_read_only_disk_is_passed_over(disk: Path, caplog: pytest.LogCaptureFixture):
    with Store(disk / "checkpoints") as store:
        store.save(2, MODEL, PROGRESS)
        store.save(4, MODEL, PROGRESS)
    (disk / "checkpoints/4" / FILE).write_text("damaged")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with Store(disk / "checkpoints") as store:
        assert store.latest == 2
        assert np.array_equal(
            store.load(model=store.saved("model"))["model"]["params"]["w"], NUMBERS
        )
    assert "step 2 is used instead" in caplog.text


@pytest.mark.parametrize("gone", ["checkpoints", "."])
def test_a_folder_that_goes(tmp_path: Path, gone: str):
    workdir = tmp_path / "run"
    with Store(workdir / "checkpoints") as store:
        store.save(2, MODEL, PROGRESS)
        shutil.rmtree(workdir / gone)
        with pytest.raises(
            UserError, match=r"No such file or directory; .* not kept, and none lies there: bring"
        ):
            store.save(4, MODEL, PROGRESS)
    # Not made anew: a lone checkpoint in a new folder would be no run.
    assert not (workdir / "checkpoints").exists()


@pytest.mark.faults
def test_a_training_run_on_a_full_disk(disk: Path, monkeypatch: pytest.MonkeyPatch):
    """The loop ends in one line; with room again the same command ends it as it should."""
    save, config = Store.save, small_config()

    def save_with_less_room(store: Store, step: int, *parts: Any, **more: Any) -> None:
        if step == 4:
            fill(disk, 100_000)
        save(store, step, *parts, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save_with_less_room)
        with pytest.raises(UserError, match=r"No space left.*that of step 2 is whole") as error:
            train(config, disk / "run")
    assert "\n" not in str(error.value)
    (disk / "other").unlink()
    train(config, disk / "run")
    assert newest_whole(disk / "run/checkpoints") == 4 and state(disk / "run")


LIMITED = """
import resource, sys
from pathlib import Path
from faults.test_disk import MODEL, PROGRESS
from cleanclip_jax.start.store import Store
from cleanclip_jax.errors import UserError
with Store(Path(sys.argv[1])) as store:
    store.save(2, MODEL, PROGRESS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        store.save(4, MODEL, PROGRESS)
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize(
    "most", [100_000, pytest.param(100, marks=pytest.mark.faults)], ids=["arrays", "all"]
)
def test_a_quota(tmp_path: Path, most: int):
    """As where nothing may be mounted; here a limit on the size of a file stands for the quota."""
    folder = tmp_path / "checkpoints"
    done = subprocess.run(
        # -B: Python would keep half of what it compiles.
        [sys.executable, "-B", "-c", LIMITED, str(folder), str(most)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("\n") == 1 and "File too large; the checkpoint of step 4" in done.stdout
    )
    assert "Traceback" not in done.stderr
    assert newest_whole(folder) == 2 and [path.name for path in folder.iterdir()] == ["2"]
