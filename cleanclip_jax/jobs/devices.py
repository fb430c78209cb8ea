"""What a job does before it touches a device."""

import argparse
import logging
from collections.abc import Mapping

import jax

from cleanclip_jax.args import apply
from cleanclip_jax.compile_cache import keep_compiled
from cleanclip_jax.config import defaults
from cleanclip_jax.host_memory import keep_memory
from cleanclip_jax.process import start


def heartbeat_of(overrides: Mapping[str, str]) -> int:
    """The config.mesh.heartbeat of a job that joins the others before it has a config."""
    key = "mesh.heartbeat"
    own = {key: overrides[key]} if key in overrides else {}
    return apply(defaults(), own).mesh.heartbeat


def begin(asked: argparse.Namespace, heartbeat: int) -> None:
    """Joins the run's other processes, and has compiled programs and freed memory kept.

    Args:
      asked: with the flags of `distributed.add_flags`.
      heartbeat: config.mesh.heartbeat.

    Raises:
      UserError: the others could not be found.
    """
    keep_memory()
    start(asked, heartbeat)
    keep_compiled()
    if jax.process_index():
        # What holds for all is said once.
        logging.getLogger("cleanclip_jax").setLevel(logging.WARNING)
