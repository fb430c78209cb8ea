import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cleanclip_jax.cache import Held, cached
from cleanclip_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def filled(size: int = 1000) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(b"x" * size)

    return write


def age(path: Path, seconds: int) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_copies_used_longest_ago_are_removed_past_the_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEANCLIP_CACHE_GB", "3e-6")
    copies = [cached(f"tables/{i}.arrow", filled()).path for i in range(3)]
    for i, copy in enumerate(copies):
        age(copy, 100 - i)
    cached("tables/0.arrow", filled())  # used again: the second is now the oldest
    cached("tables/3.arrow", filled())
    assert [copy.exists() for copy in copies] == [True, False, True]


def test_a_copy_in_use_by_another_process_is_not_removed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEANCLIP_CACHE_GB", "0")
    held = cached("tables/0.arrow", filled())
    copy = held.path
    program = (
        "import sys\nfrom pathlib import Path\nfrom cleanclip_jax.cache import Held\n"
        "held = Held(Path(sys.argv[1]))\nprint(flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        del held
        cached("tables/1.arrow", filled())
        assert copy.exists()
        other.communicate()
    cached("tables/2.arrow", filled())
    assert not copy.exists()
    with pytest.raises(FileNotFoundError):
        Held(copy)


def test_two_that_want_a_copy_write_it_once():
    written, copies = [], []
    begun, go = threading.Event(), threading.Event()

    def write(path: Path) -> None:
        written.append(path)
        begun.set()
        go.wait(10)
        path.write_bytes(b"x")

    threads = [
        threading.Thread(target=lambda: copies.append(cached("tables/0.arrow", write)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    begun.wait(10)
    go.set()
    for thread in threads:
        thread.join()
    assert len(written) == 1 and len({copy.path for copy in copies}) == 1


def test_a_copy_that_could_not_be_written_is_not_there(cache: Path):
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cached("tables/0.arrow", fail)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_a_bound_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEANCLIP_CACHE_GB", "lots")
    with pytest.raises(UserError, match="CLEANCLIP_CACHE_GB='lots': give a number"):
        cached("tables/0.arrow", filled())
