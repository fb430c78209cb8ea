import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.table.cache import Held, kept_copy
from cleanclip_jax.errors import UserError


def filled(size: int = 1000) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(b"x" * size)

    return write


def age(path: Path, seconds: int) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_copies_used_longest_ago_are_removed_past_the_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEANCLIP_CACHE_GB", "3e-6")
    copies = [kept_copy(f"{i}.arrow", filled())[0] for i in range(3)]
    for i, copy in enumerate(copies):
        age(copy, 100 - i)
    kept_copy("0.arrow", filled())  # used again: the second is now the oldest
    kept_copy("3.arrow", filled())
    assert [copy.exists() for copy in copies] == [True, False, True]


def test_a_copy_in_use_by_another_process_is_not_removed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEANCLIP_CACHE_GB", "0")
    copy, held = kept_copy("0.arrow", filled())
    program = (
        "import sys\nfrom pathlib import Path\nfrom cleanclip_jax.data.table.cache import Held\n"
        "held = Held(Path(sys.argv[1]))\nprint(flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        del held
        kept_copy("1.arrow", filled())
        assert copy.exists()
        other.communicate()
    kept_copy("2.arrow", filled())
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
        threading.Thread(target=lambda: copies.append(kept_copy("0.arrow", write)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    begun.wait(10)
    go.set()
    for thread in threads:
        thread.join()
    assert len(written) == 1 and len({copy for copy, _ in copies}) == 1


def test_a_copy_that_could_not_be_written_is_not_there(cache: Path):
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        kept_copy("0.arrow", fail)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_a_full_disk_is_one_line_and_leaves_nothing(write_csv: Callable, cache: Path):
    """As far as a process can fill one: no file may grow past a limit."""
    program = (
        "import resource, signal, sys\n"
        "from cleanclip_jax.data.sources import open_source\n"
        "from cleanclip_jax.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    open_source({'kind': 'csv', 'path': sys.argv[1]})\n"
        "except UserError as error:\n"
        "    sys.exit(str(error))\n"
    )
    path = write_csv(40)
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.count("\n") == 1 and "set CLEANCLIP_CACHE" in done.stderr, done.stderr
    assert not list((cache / "tables").iterdir())
    assert len(open_source({"kind": "csv", "path": str(path)})) == 40


def test_a_bound_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLEANCLIP_CACHE_GB", "lots")
    with pytest.raises(UserError, match="CLEANCLIP_CACHE_GB='lots': give a number"):
        kept_copy("0.arrow", filled())
