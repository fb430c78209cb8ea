"""What a job does before it touches a device."""

import argparse
import logging

import jax

from cleanclip_jax.compilation import keep_compiled
from cleanclip_jax.config import defaults
from cleanclip_jax.distributed import start


def begin(asked: argparse.Namespace, heartbeat: int | None = None) -> None:
    """Joins the run's other processes and has compiled programs kept.

    Args:
      asked: with the flags of `distributed.add_flags`.
      heartbeat: config.mesh.heartbeat; None: its default.

    Raises:
      UserError: the others could not be found.
    """
    start(asked, defaults().mesh.heartbeat if heartbeat is None else heartbeat)
    keep_compiled()
    if jax.process_index():
        # What holds for all is said once.
        logging.getLogger("cleanclip_jax").setLevel(logging.WARNING)
