"""Where pairs come from: a source by the name of its kind."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cleanclip_jax.data.digits import Digits
from cleanclip_jax.data.mixture import mix
from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.data.subset import select
from cleanclip_jax.data.table.folders import open_folder
from cleanclip_jax.data.table.table import open_labels, open_table
from cleanclip_jax.data.table.tfds import open_tfds
from cleanclip_jax.data.table.webdataset import open_webdataset
from cleanclip_jax.errors import UserError, near
from cleanclip_jax.record import Record, Source

__all__ = ["KINDS", "Record", "Source", "open_source"]


def open_mixture(sources: Mapping[str, Mapping[str, Any]]) -> Source:
    """Several sources as one (data.mixture.Mixture).

    Args:
      sources: name → the source's own config and its `weight`, how many times each of its pairs
        comes in an epoch (1 if not said; a fraction chooses that share of them, once for all).
    """
    opened = {}
    for name, config in sources.items():
        own = {key: value for key, value in config.items() if key != "weight"}
        try:
            opened[name] = open_source(own), config.get("weight", 1)
        except UserError as error:
            raise UserError(f"data: mixture: {name}: {error}") from error
    return mix(opened)


KINDS: dict[str, Callable[..., Source]] = {
    "csv": partial(open_table, "csv"),
    "tsv": partial(open_table, "tsv"),
    "parquet": partial(open_table, "parquet"),
    "webdataset": open_webdataset,
    "arrayrecord": open_arrayrecord,
    "tfds": open_tfds,
    "folder": open_folder,
    "labels": open_labels,
    "digits": Digits,
    "mixture": open_mixture,
}


def open_source(config: Mapping) -> Source:
    """The source that a config describes: `kind`, the keys of that kind, and `keep` and `skip`.

    The keys are the parameters of the functions in KINDS; docs/data.md lists them.

    Raises:
      UserError: on an unknown kind or key, a missing file or column, or no rows left.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    keep, skip = options.pop("keep", None), options.pop("skip", None)
    if kind not in KINDS:
        raise UserError(
            f"data: unknown kind {kind!r}, known are {', '.join(KINDS)}." + near(str(kind), KINDS)
        )
    known = inspect.signature(KINDS[kind]).parameters
    for key in options:
        if key not in known:
            raise UserError(
                f"data: a source of kind {kind!r} has no key {key!r}, it has {', '.join(known)}."
                + near(key, known)
            )
    for key, parameter in known.items():
        if parameter.default is parameter.empty and options.get(key) is None:
            raise UserError(
                f"data: a source of kind {kind!r} needs the key {key!r}: set it with "
                f"--config.data.train.{key}=... or --config.evaluation.data.{key}=..."
            )
    return select(KINDS[kind](**options), keep, skip)
