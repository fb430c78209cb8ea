"""The loop: what a run writes, that it resumes exactly, and that it keeps its last good state."""

import json
import logging
import os
import signal

import jax
import numpy as np
import pytest
from helpers.small_run import small_config, train
from helpers.small_run import trained as trained_in
from helpers.streams import stream_of
from jax.tree_util import keystr

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import from_json
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import StartAgain, UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.run import build, checked, clock
from cleanclip_jax.run.build import first_state
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.run.clock import TIMED
from cleanclip_jax.run.recorder import Recorder
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import load_start, open_start
from cleanclip_jax.start.store import Store
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.workdir import Workdir

pytestmark = pytest.mark.usefixtures("strict_transfers")


class Killed(Exception):
    """Stands for a kill: nothing of the program runs after it."""


@pytest.fixture
def config():
    return small_config()


@pytest.fixture
def trained(tmp_path):
    """The workdir of a finished run."""
    return trained_in(tmp_path / "run")


def tensors(workdir):
    """Step and state of a run's newest checkpoint, every array as bytes by its path."""
    config = from_json(workdir / "config.json")
    run = check_run(config, Workdir(workdir))
    with Store(workdir / "checkpoints") as store:
        state = first_state(store, run)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        return store.latest, {keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def figures(workdir):
    rows = read_lines(workdir / "metrics.jsonl")
    return [{key: row[key] for key in row if key not in TIMED} for row in rows]


@pytest.mark.parametrize(
    "kill_at", [3, *(pytest.param(at, marks=pytest.mark.faults) for at in (1, 2))]
)
def test_interrupted_and_resumed_is_uninterrupted(config, trained, tmp_path, monkeypatch, kill_at):
    """Bit for bit, whether a checkpoint was just written, or work since it is lost."""
    record = Recorder.record

    def killed(self, done):
        if done.step == kill_at:
            raise Killed
        record(self, done)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Recorder, "record", killed)
        train(config, tmp_path / "again")
    train(config, tmp_path / "again")
    assert tensors(trained) == tensors(tmp_path / "again")
    assert figures(trained) == figures(tmp_path / "again")
    assert [row["step"] for row in figures(trained)] == [1, 2, 3, 4]


def test_a_workdir_holds_the_whole_run(trained):
    assert {"config.json", "tokenizer.json", "poison.parquet", "metrics.jsonl", "checkpoints"} <= {
        path.name for path in trained.iterdir()
    }
    plan = Plan.load(trained / "poison.parquet")
    assert len(plan) == 42 and plan.target == "seven"
    written = json.loads((trained / "config.json").read_text())
    assert written["attack"]["seed"] == written["seed"] == 0
    assert written["evaluation"]["attack"]["target"] == "seven"
    run = load_start(open_start(trained), make_mesh(1))
    assert run.step == 4 and run.model.variant.vocab_size == run.tokenizer.vocab_size
    assert list(trained.glob("tensorboard/events*"))


def test_a_finished_run_is_left_as_it_is(config, trained):
    before = tensors(trained), figures(trained)
    train(config, trained)
    assert (tensors(trained), figures(trained)) == before


@pytest.mark.slow
def test_a_start_gives_weights_and_fresh_moments(trained, tmp_path):
    """Fresh optimizer: the schedule begins anew too."""
    finetune = small_config("cleanclip")
    finetune.start = str(trained)
    finetune.train.steps = 1
    finetune.optimizer.learning_rate = 1e-30
    finetune.optimizer.warmup_steps = 0
    train(finetune, tmp_path / "clean")
    run, start = (
        load_start(open_start(path), make_mesh(1)) for path in (tmp_path / "clean", trained)
    )
    for a, b in zip(*map(jax.tree.leaves, (run.variables, start.variables)), strict=True):
        np.testing.assert_array_equal(a, b)
    step, found = tensors(tmp_path / "clean")
    assert step == 1 and not (tmp_path / "clean" / "poison.parquet").exists()
    counts = [value for path, value in found.items() if path.endswith("count")]
    assert counts and all(int(np.frombuffer(count, np.int32)[0]) == 1 for count in counts)
    assert run.config.evaluation.attack.target == "seven" and run.config.attack is None
    assert {"cross_modal", "in_modal"} <= read_lines(tmp_path / "clean/metrics.jsonl")[0].keys()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(config, tmp_path, monkeypatch):
    make = checked.make_step

    def poisoned_step(*args, **options):
        step = make(*args, **options)

        def broken(state, fixed, batch):
            bad = int(state.step) == 2
            state, metrics = step(state, fixed, batch)
            return state, {**metrics, "loss": np.nan if bad else metrics["loss"]}

        return broken

    monkeypatch.setattr(checked, "make_step", poisoned_step)
    with pytest.raises(UserError, match=r"not finite at step 3.*last good checkpoint") as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert tensors(tmp_path / "run")[0] == 2
    assert read_lines(tmp_path / "run/metrics.jsonl")[-1]["loss"] == "nan"
    facts = json.loads((tmp_path / "run/not_finite.json").read_text())
    plan = Plan.load(tmp_path / "run/poison.parquet")
    stream = stream_of(
        open_source(config.data.train.to_dict()),
        Tokenizer.load(tmp_path / "run/tokenizer.json"),
        plan=plan,
        image_size=16,
        batch_size=16,
        seed=0,
        step=2,
    )
    with stream:
        assert facts["index"] == next(stream)["index"].tolist()
    assert facts["step"] == 3 and facts["loss"] == "nan"


def test_sigterm_saves_the_step_under_way_and_the_same_command_goes_on(
    config, trained, tmp_path, monkeypatch
):
    place = build.place_batch

    steps = []

    def told(mesh, batch):
        steps.append(batch)
        if len(steps) == 3:  # no checkpoint is due at the third
            os.kill(os.getpid(), signal.SIGTERM)
        return place(mesh, batch)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(StartAgain, match="saved step 3 of 4"):
        patch.setattr(build, "place_batch", told)
        train(config, tmp_path / "again")
    assert signal.getsignal(signal.SIGTERM) == before and tensors(tmp_path / "again")[0] == 3
    train(config, tmp_path / "again")
    assert tensors(tmp_path / "again") == tensors(trained)
    assert figures(tmp_path / "again") == figures(trained)
    assert [start["step"] for start in read_lines(tmp_path / "again/starts.jsonl")] == [0, 3]


@pytest.mark.slow
def test_a_profile_is_traced_after_the_warm_up(config, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "WARM_UP", 1)
    train(config, tmp_path / "run", profile=2)
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))


def test_a_torn_last_line_of_metrics_is_left_out(trained):
    with (trained / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "los')
    assert [row["step"] for row in read_lines(trained / "metrics.jsonl")] == [1, 2, 3, 4]


def test_another_runs_workdir_is_refused(config, trained, tmp_path):
    config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"another run: optimizer.learning_rate \(0.002 there"):
        train(config, trained)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not empty and no run's workdir"):
        train(config, tmp_path / "papers")
    assert [path.name for path in (tmp_path / "papers").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_what_changes_no_weight_may_change_on_resumption(config, trained, caplog):
    config.train.log_every, config.data.workers = 7, 1
    with caplog.at_level(logging.INFO):
        train(config, trained)
    assert "settings: data.workers (0 there, 1 now); train.log_every (1 there, 7" in caplog.text
    assert "text_lengths" not in caplog.text  # a tuple here, a list in JSON
    assert json.loads((trained / "config.json").read_text())["train"]["log_every"] == 7


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.variant", None, "config.model.variant is not set"),
        ("train.batch_size", 4096, "larger than the data: 1397 pairs"),
        ("objective.cross_modal", 0.0, "every weight"),
        ("start", "/nowhere/run", "no workdir of a run"),
        ("train.steps", 1e3, "whole number"),
        ("train.log_every", 0, "1 or more"),
        ("seed", -1, "0 or more"),
        ("model.dtype", "bf16", "bfloat16"),
        ("model.dtype", "float64", "JAX_ENABLE_X64"),
        ("model.bn_groups", 3, "does not divide into"),
        ("attack", "badnet", "takes a dictionary"),
        ("attack.target", "eleven", "eleven"),
        ("text.tokenizer", "clap", "Did you mean 'clip'"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing_to_clean_up(config, tmp_path, key, value, message):
    node, _, last = key.rpartition(".")
    target = config[node] if node else config
    with target.ignore_type():
        target[last] = value
    with pytest.raises(UserError, match=message) as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
