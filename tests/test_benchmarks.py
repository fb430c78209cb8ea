"""benchmarks/train_step.py: ours gives its figures, and PyTorch's ways take the very same step."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = ("turns", "our_step", "train_step", "train_job", "torch_step", "torch_resnet")


@pytest.fixture(scope="module")
def load():
    """Gives a reader of a benchmark's module, which is of no package."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def turns(load) -> ModuleType:
    return load("turns")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("ViT-test", marks=pytest.mark.slow),
        pytest.param("RN-test", marks=pytest.mark.faults),
    ],
)
def ours(load, turns, request, tmp_path_factory):
    """(our runner, what it computed before its first step, its job, data at the whole context)."""
    weights = tmp_path_factory.mktemp("weights") / "weights.npz"
    depth = 1 if VARIANTS[request.param].patch else (1, 1, 1, 1)
    numbers = replace(VARIANTS[request.param], vision_layers=depth, text_layers=1)
    sizes = (4, "float32", 2, 12, str(weights))  # batch, precision, views, tokens
    job = turns.Job(request.param, numbers, *sizes, compile="none", warmup_steps=1)
    runner, data = load("our_step").Ours(job), turns.batches(job, 4, 2, numbers.context_length)
    return runner, runner.check(*data[0]), job, data


@pytest.fixture(scope="module")
def losses(ours) -> list[float]:
    """Ours of three steps."""
    runner = ours[0]
    return [runner.wait(runner.step()) for _ in range(3)]


@pytest.fixture(params=["best", "original"])
def theirs(load, ours, request):
    """A way of PyTorch with our weights."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return load("train_step").torch_way(ours[2], request.param, timm=False)


def test_both_take_the_same_step(load, ours, theirs, losses):
    """The first loss proves the forward, the later ones, at a rate of 5e-4, the updates."""
    _, checked, _, data = ours
    found = load("train_step").difference("theirs", checked, theirs.check(*data[0]))
    assert found["embedding_difference"] < 1e-4
    # A wrong forward has to be seen: the loss is not that of embeddings that are all alike.
    assert abs(found["checked_loss"] - 2 * np.log(4)) > 0.05
    said = theirs.first()
    assert said["compile"] == "none"
    np.testing.assert_allclose(said["first_loss"], losses[0], rtol=1e-5)
    later = [theirs.wait(theirs.step()) for _ in range(2)]
    np.testing.assert_allclose(later, losses[1:], rtol=1e-3)


def test_another_loss_is_refused(load, ours, theirs):
    _, checked, _, data = ours
    with pytest.raises(SystemExit, match="theirs is not the same step"):
        load("train_step").difference("theirs", checked, theirs.check(*data[1]))


def test_captions_are_the_same_at_every_length(turns, ours):
    _, _, job, whole = ours
    cut = turns.batches(job, 4, 2, job.tokens)
    for (images, tokens), (same, longer) in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(tokens, longer[..., : job.tokens])
        assert (longer == job.numbers.vocab_size - 1).sum() == longer[..., 0].size
        assert not longer[..., job.tokens :].any()


def test_a_line_has_its_figures(load, turns, ours, losses):
    runner, _, job, _ = ours
    play = load("train_step")
    found = {"ours": {"way": "ours", **runner.about(), "compile_seconds": 1.0, "peak": 1e12}}
    found["best"] = {"way": "best", "compile": "none", "compile_seconds": 1.0}
    done = turns.turn(runner, 0.01)
    assert done["seconds"] > 0 and done["process_bytes"] > 2**20
    rounds = {"ours": [{**done, "seconds": s} for s in (0.1, 0.2, 0.4)]}
    rounds["best"] = [{**done, "seconds": s} for s in (0.2, 0.2, 0.2)]
    own, best = (play.line(job, way, found, rounds, None) for way in ("ours", "best"))
    assert own["pairs_per_second"] == 4 / 0.2 and own["tokens"] == 12
    used = 20 * found["ours"]["flops"] / 1e12
    assert own["model_flops_utilisation"] == pytest.approx(used, abs=1e-4)
    assert (best["ours_is_faster"], best["least"], best["most"]) == (1.0, 0.5, 2.0)
    full = play.line(job, "best", found, rounds, "out of memory")
    assert "out of memory" in play.table([json.loads(json.dumps(x)) for x in (own, best, full)])


def test_a_way_without_room_is_a_line_and_not_the_end(turns):
    class Pipe:
        sent, asked = [], [("step", ()), None]

        def recv(self):
            return self.asked.pop(0)

        def send(self, answer):
            self.sent.append(answer)

    class Full:
        def step(self):
            raise UserError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

    turns._play(Pipe(), Full, ())
    assert Pipe.sent == [(False, "out of memory")]


def test_a_job_is_summed_up_over_its_time(load):
    """Half the time at 100 pairs/s and half at 300 is 200; what warms up does not count."""
    job = load("train_job")
    rows = [
        {"step": 10, "pairs_per_second": 1.0, "step_seconds": 9.0, "data_wait_share": 1.0},
        {"step": 15, "pairs_per_second": 100.0, "step_seconds": 0.6, "data_wait_share": 0.5},
        {"step": 20, "pairs_per_second": 300.0, "step_seconds": 0.2, "data_wait_share": 0.1},
        {"step": 25, "pairs_per_second": 300.0, "step_seconds": 0.2, "data_wait_share": 0.1},
        {"step": 30, "pairs_per_second": 300.0, "step_seconds": 0.2, "data_wait_share": 0.1},
    ]
    found = job.summary(rows)
    assert found["pairs_per_second"] == 200 and found["data_wait_share"] == pytest.approx(0.3)
    assert found["finetuning_minutes"] == pytest.approx(1e6 / 200 / 60, abs=0.1)
    assert found["steps"] == 20
