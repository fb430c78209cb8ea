"""A patch optimised on a surrogate: its files, what a step sees, and how it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.patches import DIGITS, SMALL, patch_config
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.attacks.triggers import TRIGGERS, make_trigger, to_uint8
from cleanclip_jax.errors import StartAgain, UserError
from cleanclip_jax.process import Preemption
from cleanclip_jax.run import patching
from cleanclip_jax.run.checked_patch import check_patch
from cleanclip_jax.run.patching import PatchData, optimise


def data_of(pictures: int, positives: int) -> PatchData:
    def rows(count: int) -> np.ndarray:
        return np.arange(count, dtype=np.float32)[:, None]

    images = np.arange(pictures, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (pictures, 2, 2, 3))
    return PatchData(images, np.arange(pictures) % 3, rows(3), 0, rows(positives))


def test_a_step_sees_what_its_number_and_the_seed_say():
    data, settings = data_of(10, 30), {"seed": 3, "batch_size": 4, "text_loss": "contrastive"}
    batches = [patching._batch(data, settings, number) for number in range(4)]
    again = patching._batch(data, settings, 3)
    assert all((again[name] == values).all() for name, values in batches[3].items())
    shown = [batch["images"][:, 0, 0, 0].tolist() for batch in batches]
    for epoch in (shown[:2], shown[2:]):  # each picture at most once, the rest dropped
        assert len({*epoch[0], *epoch[1]}) == 8
    assert shown[0] != shown[2]
    for batch, pictures in zip(batches, shown, strict=True):
        assert batch["texts"][:, 0].tolist() == [picture % 3 for picture in pictures]
        assert len(set(batch["positives"][:, 0].tolist())) == 4
        assert sorted(batch["negatives"].tolist()) == [0, 1, 2, 3]
    few = patching._batch(data_of(10, 2), settings, 0)["positives"]
    assert few.shape == (4, 1)


def test_pictures_are_selected_by_their_distance():
    """By the cosine to the mean of the target's, which is ours; or drawn by the seed."""
    indices, closeness = np.array([3, 5, 8, 9]), np.array([0.2, 0.9, -0.3, 0.2])

    def order(select: str, seed: int = 0) -> list[int]:
        settings, known = {"select": select, "seed": seed}, None if select == "any" else closeness
        return patching._ordered(indices, settings, known).tolist()

    assert order("closest") == [5, 3, 9, 8] and order("farthest") == [8, 9, 3, 5]
    assert len({tuple(order("any", seed)) for seed in range(5)}) > 1
    assert sorted(order("any")) == [3, 5, 8, 9] and order("any") == order("any")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote, on two devices."""
    if "patch" not in TRIGGERS:
        pytest.skip("the trigger `patch` is not there")
    output = tmp_path_factory.mktemp("patch") / "patch.png"
    assert cli.main(["patch", *SMALL, f"--output={output}"]) == 0
    return output


@pytest.mark.slow
def test_it_writes_the_patch_and_what_it_came_from(whole: Path):
    assert {path.name for path in whole.parent.iterdir()} == {
        *("patch.png", "patch.npy", "patch.json")
    }
    result, floats = (
        json.loads(whole.with_suffix(".json").read_text()),
        np.load(whole.with_suffix(".npy")),
    )
    assert floats.shape == (4, 4, 3) and floats.dtype == np.float32
    with Image.open(whole) as picture:
        assert picture.mode == "RGB" and picture.format == "PNG"
        np.testing.assert_array_equal(np.asarray(picture), to_uint8(floats))
    trigger = make_trigger({"name": "patch", "file": str(whole)})
    assert trigger.options["file_digest"] == result["digest"] and trigger.options["size"] == 4
    assert [row["step"] for row in result["curve"]] == [0, 1, 2, 3]
    assert result["pictures"] == 100 and result["captions"] == 1 and result["positives"] > 100
    assert result["floor"]["asr"]["of"] == 355 and 0 <= result["floor"]["asr"]["value"] <= 1


@pytest.mark.slow
def test_one_that_was_stopped_ends_as_one_that_was_not(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checked = check_patch(patch_config(), tmp_path / "patch.png")
    with monkeypatch.context() as patched:
        patched.setattr(Preemption, "reached", lambda _, step: step == 2)
        with pytest.raises(StartAgain, match="saved step 2 of 4"):
            optimise(checked)
    assert [path.name for path in tmp_path.iterdir()] == ["patch.part.npz"]
    result = optimise(checked)
    np.testing.assert_array_equal(
        np.load(tmp_path / "patch.npy"), np.load(whole.with_suffix(".npy"))
    )
    assert [row["step"] for row in result["curve"]] == [0, 1, 2, 3]
    # It is there now, and of this command alone.
    monkeypatch.setattr(patching, "encoder_from", None)
    assert optimise(checked) == json.loads(json.dumps(result))
    other = check_patch(patch_config({"patch.seed": "1"}), tmp_path / "patch.png")
    with pytest.raises(UserError, match=r"patch\.json is of another patch"):
        optimise(other)


def test_what_is_not_its_is_not_written_over(tmp_path: Path):
    checked = check_patch(patch_config({"patch.place": "fixed"}), tmp_path / "patch.png")
    (tmp_path / "patch.npy").write_bytes(b"another's")
    with pytest.raises(UserError, match=r"patch\.npy is there, and not of this command"):
        optimise(checked)
    (tmp_path / "patch.part.npz").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"patch\.part\.npz: .*remove it to begin anew"):
        optimise(checked)
    state = patching.PatchState(np.int32(2), np.zeros((4, 4, 3), np.float32), ())  # type: ignore
    patching._write_part(tmp_path / "patch.part.npz", {"another": 1}, state, [])
    with pytest.raises(UserError, match=r"patch\.part\.npz is of another patch"):
        optimise(checked)


def test_digits_name_their_target(tmp_path: Path):
    checked = check_patch(patch_config({"patch.place": "[1, 2]"}), tmp_path / "patch.png")
    assert checked.loss.place == (1, 2) and checked.captions == ["a handwritten seven."]
    assert len(checked.positives) + len(checked.others) == len(checked.source)
    assert (checked.source.labels()[checked.positives] == 7).all() and DIGITS["kind"] == "digits"
    assert checked.loss.margin == 1 and checked.loss.weight == 500
    cosine = check_patch(
        patch_config({"patch.place": "fixed", "patch.visual_loss": "cosine"}), tmp_path / "p.png"
    )
    assert cosine.loss.margin == 0.1 and cosine.loss.weight == 10 and cosine.loss.place == (12, 12)
