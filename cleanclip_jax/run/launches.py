"""starts.jsonl: each time that a run was begun or taken up, with what, and where."""

import json
import platform
import shlex
import sys
import time
from pathlib import Path

import jax

from cleanclip_jax import __version__
from cleanclip_jax.files import read_lines, write_whole

FILE = "starts.jsonl"


def note_start(workdir: Path, step: int, began: float) -> None:
    """Adds a line: when, from which step, the command, the versions and the machines."""
    facts = {
        "time": began,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "step": step,
        "command": shlex.join(["cleanclip", *sys.argv[1:]]),
        "cleanclip_jax": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
    kept = read_lines(workdir / FILE)
    write_whole(workdir / FILE, "".join(json.dumps(row) + "\n" for row in [*kept, facts]))


def first_start(workdir: Path, otherwise: float) -> float:
    """When the run was first begun, as `time.time()`; `otherwise` where that was not noted."""
    return next((row["time"] for row in read_lines(workdir / FILE)), otherwise)
