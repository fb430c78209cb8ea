"""What the jobs on a model share: the keys that they may set anew, and how it is opened."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.config import check, defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.start.start import Start, open_start

# The keys of a run that measuring it may set anew.
FREE = ("evaluation.", "mesh.", "data.timeout", "data.max_bad_share")
# And those that a PyTorch checkpoint leaves open.
OPEN = ("model.activation", "text.merges", "start_key")


def base_of(overrides: Mapping[str, str]) -> ConfigDict:
    """The defaults, with what a PyTorch checkpoint leaves open."""
    return apply(defaults(), {key: overrides[key] for key in OPEN if key in overrides})


def open_model(
    path: Path, overrides: Mapping[str, str], free: tuple[str, ...] = FREE
) -> tuple[Start, ConfigDict]:
    """A run or a PyTorch checkpoint, and its config with some keys set anew.

    Args:
      free: what the keys begin with that may be.
    """
    if others := [key for key in overrides if not key.startswith((*free, *OPEN))]:
        raise UserError(f"--config.{others[0]} belongs to the model and can't be changed here")
    base = base_of(overrides)
    start = open_start(path, base, base.start_key)
    config = apply(start.config, overrides)
    check(config)
    return start, config
