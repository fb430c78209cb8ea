"""Scores against the published code's, in all of its cases (Detect-CLIP, one block at a time)."""

import numpy as np
import pytest

from cleanclip_jax.detect.published import Block


def features(golden, case):
    arrays = golden(f"detectors_{case}")
    return [arrays[f"inputs/{case}/{side}"].astype(np.float32) for side in ("image", "text")]


def scores_of(block: Block, lid: int = 64) -> dict[str, np.ndarray]:
    return {
        "kdist": block.kdist(16),
        "slof": block.slof(16),
        "dao": block.dao(16),
        "lid": block.lid(lid),
    }


def check(got, want, tolerance=1e-5):
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    scale = np.nanmax(np.abs(want))
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("references", ["image", "pairs"])
def test_a_block(golden, case, references):
    images, texts = features(golden, case)
    got = scores_of(Block(images, texts if references == "pairs" else None))
    for name, scores in got.items():
        want = golden(f"detectors_{case}")[f"{name}/{case}-{references}/score"]
        check(scores, want, 1e-4 if name == "lid" else 1e-5)


def test_moments_captions_and_two_processes(golden):
    (images, texts), arrays = features(golden, "a"), golden("detectors_a")
    pairs = Block(images, texts)
    check(Block(images).lid(64, "mom"), arrays["lid/a-image-mom/score"], 1e-4)
    check(pairs.dao(16, "mom"), arrays["dao/a-pairs-mom/score"])
    check(Block(images, texts, texts_scored=True).dao(16), arrays["dao/a-text/score"])
    for name, scores in scores_of(pairs).items():  # the references of both are gathered
        check(scores, arrays[f"{name}/two_ranks/score"], 1e-4 if name == "lid" else 1e-5)


def test_equal_pictures(golden):
    arrays = golden("detectors_a")
    block = Block(arrays["inputs/ties/image"])
    check(block.kdist(16), arrays["kdist/ties/score"])
    check(block.lid(16), arrays["lid/ties/score"], 2e-4)


def test_a_whole_set_in_blocks_of_which_the_last_is_smaller(golden):
    (images, texts), arrays = features(golden, "b"), golden("detectors_b")
    order = arrays["inputs/whole/order"]
    for start in range(0, 512, 200):
        rows = order[start : start + 200]
        for name, scores in scores_of(Block(images[rows], texts[rows]), 48).items():
            check(scores, arrays[f"{name}/whole/score"][rows], 1e-4 if name == "lid" else 1e-5)
