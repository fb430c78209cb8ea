"""One training a workdir at a time: who trains there, and how one that died is known."""

import fcntl
import logging
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket, read_plain
from cleanclip_jax.shapes import load_json
from cleanclip_jax.workdir import OWNER, Workdir

log = logging.getLogger(__name__)

BEAT = 15.0  # seconds between an owner's signs of life
SILENCE = 60.0  # seconds without one: the owner is dead


class Owner:
    """Owns a workdir, from `take` until it is closed: no second training begins there.

    On one machine the folder's lock tells, which the system opens whenever a process ends. Over a
    network and in a bucket the owner writes owner.json anew every `BEAT` seconds, and one that
    stays as it is for `SILENCE` seconds is a dead one's: by the clock of who waits for it, for the
    clocks of machines differ.
    """

    def __init__(self, workdir: Workdir):
        self._workdir, self._facts = workdir, {"id": uuid.uuid4().hex, "host": platform.node()}
        self._facts |= {"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._lock: int | None = None
        self._gone: dict[str, Any] = {}  # an owner that is none any more
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, name="owner", daemon=True)

    def __enter__(self) -> "Owner":
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        if self._thread.is_alive():
            self._thread.join()
            with suppress(OSError, UserError):
                if not self._other():
                    self._workdir.remove(OWNER)
        if self._lock is not None:
            os.close(self._lock)

    def look(self) -> None:
        """Refuses a workdir that another owns; writes nothing."""
        path = self._workdir.path
        if self._lock is None and in_bucket(path) is None and path.is_dir():
            self._lock = self._locked()
        there = self._read()
        if there == self._gone or (self._lock is not None and there["host"] == self._facts["host"]):
            return  # a lock that is free is a dead one's
        log.info("%s: %s; waiting %.0f s for a sign of life", path, _named(there), SILENCE)
        until = time.monotonic() + SILENCE
        while (now := self._read()) == there and time.monotonic() < until:
            time.sleep(SILENCE / 60)
        if now not in ({}, there):
            raise self._refusal(now)
        self._gone = now

    def take(self) -> None:
        """Makes the workdir this process's, and gives signs of life from now on."""
        if in_bucket(self._workdir.path) is None:
            self._workdir.path.mkdir(parents=True, exist_ok=True)
        self.look()
        self._workdir.write_json(OWNER, self._facts)
        self._thread.start()

    def check(self) -> None:
        """Refuses to go on where another has taken the workdir, which took this one for dead."""
        if self._thread.is_alive() and (other := self._other()):
            raise self._refusal(other)

    def _live(self) -> None:
        beats = 0
        while not self._leaving.wait(BEAT):
            with suppress(OSError, UserError):  # the next beat, or the next save, tells
                if not self._other():
                    self._workdir.write_json(OWNER, self._facts | {"beats": (beats := beats + 1)})

    def _locked(self) -> int | None:
        handle = os.open(self._workdir.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise self._refusal(self._read()) from None
            return None  # a file system without locks
        return handle

    def _read(self) -> dict[str, Any]:
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            facts = load_json(read_plain(self._workdir / OWNER))
            return {"host": None, **facts} if isinstance(facts, dict) else {}
        return {}

    def _other(self) -> dict[str, Any]:
        """Another owner, if there is one."""
        there = self._read()
        return {} if there.get("id") == self._facts["id"] else there

    def _refusal(self, there: dict[str, Any]) -> UserError:
        return UserError(
            f"{self._workdir}: {_named(there)}, and one run at a time writes there: let it end or "
            "stop it, or name another workdir"
        )


def _named(there: dict[str, Any]) -> str:
    if not there:
        return "another process trains there"
    since = there.get("since")
    return f"process {there.get('process')} on {there.get('host')} trains there since {since}"
