import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cleanclip_jax.data.stream.feeder import READY, Stream
from cleanclip_jax.errors import UserError


@pytest.fixture
def feeders() -> Callable[[], int]:
    """Counts the threads begun since: a read that never ends leaves its own behind."""
    before = set(threading.enumerate())
    return lambda: sum(thread.name == "batches" for thread in {*threading.enumerate()} - before)


def test_items_come_in_order_and_end(feeders: Callable[[], int]):
    with Stream(lambda: iter(range(9))) as stream:
        assert list(stream) == list(range(9))
        assert list(stream) == []
    assert not feeders()


def test_it_reads_ahead_so_far_and_no_further():
    made = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with Stream(items) as stream:
        for taken in (1, 2, 3):
            next(stream)
            time.sleep(0.1)
            # Those ready, and one in hand.
            assert len(made) == taken + READY + 1


def test_wait_seconds_is_what_next_waited():
    def items() -> Iterator[int]:
        yield 0
        time.sleep(0.3)
        yield 1

    with Stream(items) as stream:
        next(stream)
        assert stream.wait_seconds < 0.2
        next(stream)
        assert 0.2 < stream.wait_seconds < 1


def test_an_error_follows_the_items_before_it(feeders: Callable[[], int]):
    def items() -> Iterator[int]:
        yield 0
        raise UserError("what, where, what to do")

    stream = Stream(items)
    assert next(stream) == 0
    with pytest.raises(UserError, match=r"^what, where, what to do$"):
        next(stream)
    assert list(stream) == [] and not feeders()


def test_a_stall_is_one_line():
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        never.wait()

    stream = Stream(items, timeout=0.2, maker="3 workers")
    next(stream)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^no batch for 0.2 s from 3 workers: "):
        next(stream)
    assert time.monotonic() - began < 1
    never.set()


def test_a_stall_that_can_be_ended_is(feeders: Callable[[], int]):
    never = threading.Event()

    def items() -> Iterator[int]:
        never.wait()
        yield 0

    with pytest.raises(UserError, match="no batch"):
        next(Stream(items, timeout=0.1, on_stall=never.set))
    assert not feeders()


class Zeros:
    """Iterates for ever, until it is closed."""

    closed = False

    def __iter__(self) -> "Zeros":
        return self

    def __next__(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("way", ["with", "close", "forget"])
def test_however_it_is_left_thread_and_iterator_end(way: str, feeders: Callable[[], int]):
    zeros = Zeros()
    stream = Stream(lambda: zeros)
    next(stream)
    if way == "with":
        with stream:
            pass
    elif way == "close":
        stream.close()
        stream.close()
    else:
        del stream
        gc.collect()
    assert zeros.closed and not feeders()
