"""Damaged checkpoints: found, named, passed over, and moved aside by the run that goes on."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import copied_over, make_mesh
from cleanclip_jax.start import digests
from cleanclip_jax.start.digests import FILE, damage, write_digests
from cleanclip_jax.start.store import Store, abstract, load_model, newest_whole

# Not compressible: the arrays' file is the largest.
NUMBERS = np.random.default_rng(0).random((40, 50), np.float32)


def model(step: int) -> dict:
    return {"params": {"w": jnp.asarray(NUMBERS * step)}, "batch_stats": {}}


PROGRESS = {"step": jnp.asarray(3, jnp.int32), "opt_state": (jnp.ones(2), jnp.zeros((), jnp.int32))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("written")
    with Store(workdir / "checkpoints") as store:
        for step in (2, 4):
            store.save(step, model(step), PROGRESS)
    return workdir


@pytest.fixture
def workdir(written: Path, tmp_path: Path) -> Path:
    """A workdir with the checkpoints 2 and 4, the test's own copy."""
    return Path(shutil.copytree(written, tmp_path / "run"))


def loaded(workdir: Path, step: int | None = None) -> tuple[int, np.ndarray]:
    shapes = abstract(jax.eval_shape(lambda: model(1)), copied_over(make_mesh(1)))
    found, variables = load_model(workdir, shapes, step)
    return found, np.asarray(variables["params"]["w"])


def largest(step: Path) -> Path:
    return max((path for path in step.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


# What is done to a step's folder, and what the line then says of it.
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a data file cut": (lambda step: cut(largest(step)), r"has \d+ bytes, not \d+"),
    "a data file flipped": (lambda step: flip(largest(step)), "has another content than was"),
    "a data file gone": (lambda step: largest(step).unlink(), "is missing"),
    "a data file empty": (lambda step: largest(step).write_bytes(b""), "has 0 bytes, not"),
    "progress gone": (lambda step: shutil.rmtree(step / "progress"), "progress/.* is missing"),
    "metadata empty": (lambda step: (step / "_CHECKPOINT_METADATA").write_text(""), "has 0 bytes"),
    "an array's metadata flipped": (lambda step: flip(step / "model/_METADATA"), "another content"),
    "OCDBT's manifest cut": (lambda step: cut(step / "model/manifest.ocdbt"), "bytes, not"),
    "digests cut": (lambda step: cut(step / FILE), f"{FILE} is not as it was written"),
    "digests empty": (lambda step: (step / FILE).write_text(""), f"{FILE} is not as it was"),
    "digests of another": (lambda step: flip(step / FILE), "another content|not as it|is missing"),
    "all gone": (lambda step: [shutil.rmtree(step), step.mkdir()], "_METADATA is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_one_before_is_used_and_a_line_says_why(
    workdir: Path, caplog: pytest.LogCaptureFixture, name: str
):
    do, said = DAMAGES[name]
    do(workdir / "checkpoints/4")
    before = sorted(workdir.rglob("*"))
    step, w = loaded(workdir)
    assert step == 2 and w.tobytes() == (NUMBERS * 2).tobytes()
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("cleanclip_jax")]
    assert line.startswith(f"{workdir / 'checkpoints/4'} is damaged (")
    assert line.endswith("): step 2 is used instead") and "\n" not in line
    assert re.search(said, line)
    # A reader moves and writes nothing: the folder may not be its own.
    assert sorted(workdir.rglob("*")) == before
    with pytest.raises(UserError, match=r"4 is damaged \(.*\): name another step"):
        loaded(workdir, 4)


def test_what_is_whole_is_taken_without_a_word(workdir: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "cleanclip_jax"):
        step, w = loaded(workdir)
    assert step == 4 == newest_whole(workdir / "checkpoints") and not caplog.records
    assert w.tobytes() == (NUMBERS * 4).tobytes()
    assert damage(workdir / "checkpoints/2") is None


def test_whoever_saves_moves_them_aside_and_saves_that_step_anew(workdir: Path):
    folder = workdir / "checkpoints"
    for turn in range(2):
        flip(largest(folder / "4"))
        with Store(folder) as store:
            assert (store.latest, store.steps, store.listed) == (2, [2], [2, 4])
            store.save(4, model(5 + turn), PROGRESS)
            assert store.steps == [2, 4]
        assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]
    assert loaded(workdir)[1].tobytes() == (NUMBERS * 6).tobytes()
    # The second is not written over the first.
    assert sorted(path.name for path in (workdir / "damaged").iterdir()) == ["4", "4.1"]
    assert largest(workdir / "damaged/4").read_bytes() != largest(folder / "4").read_bytes()


def test_all_damaged_is_one_line_that_names_them(workdir: Path):
    cut(largest(workdir / "checkpoints/2"))
    (workdir / "checkpoints/4/model/_METADATA").unlink()
    with pytest.raises(UserError, match=r"no checkpoint is whole \(4: model/_METADATA.*; 2: ") as e:
        loaded(workdir)
    assert "\n" not in str(e.value)


def test_a_step_without_digests_is_whole_if_it_can_be_read(workdir: Path):
    """It was written before there were any, or the program was killed just before."""
    step = workdir / "checkpoints/4"
    (step / FILE).unlink()
    assert damage(step) is None and loaded(workdir)[0] == 4
    # What a power cut leaves: names without their content.
    files = [path for path in step.rglob("*") if path.is_file()]
    needed = [path for path in files if path.name not in ("commit_success.txt", "_sharding")]
    torn = []
    for path in needed:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        if damage(step) is not None:
            torn.append(path.relative_to(step))
        path.write_bytes(content)
    names = {str(path) for path in torn}
    # Small arrays lie in the tree's own files, large ones in those of the process.
    for part, data in (("model", "ocdbt.process_0/d/"), ("progress", "d/")):
        assert {f"{part}/_METADATA", f"{part}/manifest.ocdbt"} <= names
        assert any(name.startswith(f"{part}/{data}") for name in names)
    assert damage(step) is None


def test_a_long_file_has_a_digest_for_each_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digests, "PIECE", 1000)
    (tmp_path / "data").write_bytes(bytes(range(250)) * 10)
    write_digests(tmp_path)
    assert len(json.loads((tmp_path / FILE).read_text())["files"]["data"]["sha256"]) == 3
    assert damage(tmp_path) is None
    content = bytearray((tmp_path / "data").read_bytes())
    content[2400] ^= 1
    (tmp_path / "data").write_bytes(content)
    assert damage(tmp_path) == "data has another content than was written"


def test_what_a_killed_save_has_left_is_removed_at_the_next(workdir: Path):
    folder = workdir / "checkpoints"
    shutil.copytree(folder / "4", folder / "5.orbax-checkpoint-tmp")
    assert loaded(workdir)[0] == 4 and (folder / "5.orbax-checkpoint-tmp").is_dir()
    with Store(folder) as store:
        store.save(6, model(6), PROGRESS)
    assert sorted(path.name for path in folder.iterdir()) == ["4", "6"]


def test_a_step_that_the_run_deletes_meanwhile_is_no_damage(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def gone(step: Path) -> str | None:
        if step.name == "4":
            shutil.rmtree(step)
        return damage(step)

    monkeypatch.setattr("cleanclip_jax.start.steps.damage", gone)
    assert newest_whole(workdir / "checkpoints") == 2 and not caplog.records
