"""Records that cannot be read, reads that do not end, and workers that die."""

import logging
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import grain
import numpy as np
import pytest
from helpers.streams import Endless, stream_of

from cleanclip_jax.attacks.plan import make_plan
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.in_order import evaluation_batches
from cleanclip_jax.data.stream.pipeline import Batch, Batches, Reading
from cleanclip_jax.data.stream.workers import Lease
from cleanclip_jax.errors import StartAgain, UserError
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.geometry import GEOMETRY

SIDE = 16


def opened(path: Path) -> Source:
    return open_source({"kind": "csv", "path": str(path), "class_name": "animal"})


def stream(source: Source, **options: Any) -> Batches[Batch]:
    tokenizer = Tokenizer.train([source.caption(i) for i in range(len(source))], 400, 16)
    options = {"image_size": SIDE, "batch_size": 4, "seed": 0, "max_bad_share": 0.5} | options
    return stream_of(source, tokenizer, **options)


def test_the_next_readable_record_stands_in(write_csv: Callable, caplog: pytest.LogCaptureFixture):
    path = write_csv(12, missing=[3], broken=[4, 11], silent=[7])
    good, bad = opened(write_csv(12, "good.csv")), opened(path)
    with stream(good) as whole, stream(bad) as holed, caplog.at_level(logging.WARNING):
        for expected, batch in islice(zip(whole, holed, strict=True), 6):
            stands_in = {3: 5, 4: 5, 11: 0, 7: 8}
            for row, index in enumerate(expected["index"].tolist()):
                assert batch["index"][row] == stands_in.get(index, index)
                assert batch["bad"][row] == (index if index in stands_in else -1)
            whole_rows = batch["bad"] < 0
            assert (batch["images"][whole_rows] == expected["images"][whole_rows]).all()
        assert set(holed.unreadable) == {3, 4, 7, 11}
    # Each is logged once in the two epochs, with its place and the reason.
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    for reason in (
        r"row 4: image .*3.png: No such file",
        "row 5: unreadable image",
        "row 8: the caption is empty",
    ):
        assert sum(bool(re.search(reason, message)) for message in messages) > 0


def test_on_bad_is_called_once_for_each_with_its_place_and_the_reason(write_csv: Callable):
    source, noted = opened(write_csv(12, missing=[3], silent=[7])), []
    with stream(source, on_bad=lambda *row: noted.append(row)) as batches:
        list(islice(batches, 9))
        assert set(batches.unreadable) == {3, 7}
    assert sorted(index for index, _, _ in noted) == [3, 7]
    for index, where, reason in noted:
        assert where == f"pairs.csv row {index + 1}" == source.where(index)
        assert reason == {3: reason, 7: "the caption is empty."}[index]
        assert index == 7 or re.match(r"image .*3.png: No such file", reason)


def test_an_error_of_on_bad_ends_the_stream(write_csv: Callable):
    def full(*_: Any) -> None:
        raise UserError("the disk is full")

    with (
        stream(opened(write_csv(4, missing=[3])), on_bad=full) as batches,
        pytest.raises(UserError, match="the disk is full"),
    ):
        list(islice(batches, 4))


def test_a_stand_in_is_poisoned_if_it_is_itself(write_csv: Callable):
    path = write_csv(12)
    source = opened(path)
    for seed in range(99):
        attack = {"trigger": {"name": "badnet", "size": 3}, "target": "cat", "count": 5}
        plan = make_plan(attack | {"seed": seed}, source, SIDE)
        if [i in plan.index for i in (3, 4, 8, 9)] == [False, True, True, False]:
            break
    else:
        raise AssertionError("no seed poisons 4 and 8, and neither 3 nor 9")
    for lost in (3, 8):  # only now: planning passes unreadable pictures over
        (path.parent / f"{lost}.png").unlink()
    with stream(source) as clean, stream(source, plan=plan) as poisoned:
        for plain, batch in islice(zip(clean, poisoned, strict=True), 3):
            for row, index in enumerate(plain["index"].tolist()):
                same = (plain["images"][row] == batch["images"][row]).all()
                assert same == (index not in plan.index)


def test_too_many_end_the_run_with_their_count(write_csv: Callable):
    source = opened(write_csv(12, missing=[1, 5, 9]))
    with stream(source, max_bad_share=0.25) as fine:
        assert len(list(islice(fine, 6))) == 6
    with (
        stream(source, max_bad_share=0.24) as ended,
        pytest.raises(UserError, match=r"3 unreadable records of 12, .*; the last: pairs.csv row"),
    ):
        list(islice(ended, 6))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_stretch_ends_the_run_and_is_noted(write_csv: Callable, workers: int):
    source, noted = opened(write_csv(12, missing=range(12))), []
    options = {"max_bad_share": 0.2, "workers": workers, "on_bad": lambda *row: noted.append(row)}
    with (
        stream(source, **options) as ended,
        pytest.raises(
            UserError,
            match=r"3 unreadable records of 12, more than config.data.max_bad_share.*pairs.csv row",
        ) as error,
    ):
        next(ended)
    assert "\n" not in str(error.value) and len({index for index, _, _ in noted}) == 3


def test_evaluation_leaves_them_out_and_says_so(
    write_csv: Callable, caplog: pytest.LogCaptureFixture
):
    source = opened(write_csv(12, missing=[0, 1, 2, 3], broken=[6], silent=[8]))
    with evaluation_batches(source, Reading(3), image_size=SIDE) as pictures:
        batches = list(pictures)
    assert [batch["index"].tolist() for batch in batches] == [[], [4, 5], [7, 8], [9, 10, 11]]
    assert [batch["label"].tolist() for batch in batches] == [[], [0, 1], [1, 0], [1, 0, 1]]
    assert all(len(batch["images"]) == len(batch["index"]) for batch in batches)
    assert sorted(pictures.unreadable) == [0, 1, 2, 3, 6] and len(caplog.records) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "timeout", "maker"), [(0, 0.3, "this process"), (1, 4.0, "1 worker:")]
)
def test_a_read_that_does_not_end_ends_the_run(
    write_csv: Callable, workers: int, timeout: float, maker: str
):
    source = Endless(write_csv(4))
    began = time.monotonic()
    stalled = stream(source, workers=workers, timeout=timeout)
    with pytest.raises(UserError, match=f"no batch for {timeout:g} s from {maker}") as error:
        list(islice(stalled, 3))
    assert timeout <= time.monotonic() - began < timeout + 15
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()
    assert list(stalled) == []


def test_a_named_pipe_is_no_picture(write_csv: Callable):
    """Nobody writes to it: to open it would not end."""
    path = write_csv(4, missing=[2])
    os.mkfifo(path.parent / "2.png")
    with stream(opened(path), timeout=5) as batches:
        assert next(batches)["bad"].max() == 2
        assert "row 3: image" in batches.unreadable[2]


def test_a_worker_that_dies_ends_the_run(write_csv: Callable):
    with stream(opened(write_csv(12)), workers=1) as batches:
        next(batches)
        for worker in multiprocessing.active_children():
            worker.kill()
        with pytest.raises(UserError, match=r"worker ended by itself.*exit code -9"):
            list(islice(batches, 50))


def test_sigterm_before_a_worker_has_begun_starts_again(monkeypatch: pytest.MonkeyPatch):
    """Slurm's, while the first batch is waited for: no mistake, so not exit code 2."""
    ended = RuntimeError("Worker process was terminated unexpectedly with exit code -15.")
    made = MagicMock(**{"return_value.mp_prefetch.side_effect": ended})
    monkeypatch.setattr(grain.experimental, "WithOptionsIterDataset", made)
    with pytest.raises(StartAgain, match="the same command goes on") as error:
        list(Lease().batches_of(MagicMock(spec=grain.IterDataset), 1))
    assert error.value.code == 75


@pytest.mark.slow
def test_workers_ignore_sigterm(write_csv: Callable):
    """Slurm sends it to all processes of a job, and the one that saves still needs batches."""
    with stream(opened(write_csv(12)), workers=2) as batches:
        list(islice(batches, 2))  # one of each worker: both have begun
        for worker in multiprocessing.active_children():
            worker.terminate()
        assert len(list(islice(batches, 20))) == 20


@pytest.mark.slow
def test_a_worker_that_goes_on_in_time_is_left_alone(write_csv: Callable):
    with stream(opened(write_csv(12)), workers=1) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        for signal_number in (signal.SIGSTOP, signal.SIGCONT) * 3:
            os.kill(worker.pid, signal_number)
            time.sleep(0.6)
        assert len(list(islice(batches, 9))) == 9


@pytest.mark.slow
def test_a_worker_that_is_stopped_ends_the_run(
    write_csv: Callable, monkeypatch: pytest.MonkeyPatch
):
    """By the timeout; and at the end Grain, which waits 25 seconds for a worker, does not wait."""
    with stream(opened(write_csv(12)), workers=1) as batches:
        next(batches)
        monkeypatch.setattr(batches, "_timeout", 5.0)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(
            UserError, match=r"no batch for 5 s from 1 worker: .*worker was stopped"
        ):
            list(islice(batches, 50))
    assert time.monotonic() - began < 20 and not multiprocessing.active_children()


@pytest.mark.slow
def test_closing_ends_the_workers(write_csv: Callable):
    with stream(opened(write_csv(12)), workers=2) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    assert list(batches) == []


def test_the_tokenizer_may_not_fail_in_silence(
    write_csv: Callable, monkeypatch: pytest.MonkeyPatch
):
    """An error that is nobody's mistake reaches the caller as it is."""

    def broken(*_: Any) -> np.ndarray:
        raise ZeroDivisionError("as it is")

    monkeypatch.setitem(GEOMETRY, "crop", broken)
    with (
        stream(opened(write_csv(4))) as batches,
        pytest.raises(ZeroDivisionError, match="as it is"),
    ):
        next(batches)
