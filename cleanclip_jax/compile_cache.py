"""Compiled programs kept between starts: a run that was preempted does not compile again."""

import hashlib
import logging
import os
from pathlib import Path

import jax

from cleanclip_jax.files import cache_folder

log = logging.getLogger(__name__)

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
BOUND = 10 << 30  # bytes, the least recently used go first


def keep_compiled() -> None:
    """Has JAX keep what it compiles in the cache folder, or where JAX_COMPILATION_CACHE_DIR says.

    The variable set to nothing keeps none.
    """
    if VARIABLE in os.environ:
        return
    # A home shared by machines: XLA's code for one processor may not run on another.
    folder = cache_folder() / "xla" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled programs are not kept: %s: %s", folder, error.strerror)
        return
    jax.config.update("jax_compilation_cache_max_size", BOUND)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    kinds = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()[:12]
