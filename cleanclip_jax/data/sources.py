"""Where pairs come from: a source by the name of its kind."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from cleanclip_jax.data.digits import Digits
from cleanclip_jax.data.records import Record, Source
from cleanclip_jax.data.tables import open_table
from cleanclip_jax.errors import UserError, near

__all__ = ["KINDS", "Record", "Source", "open_source"]

KINDS: dict[str, Callable[..., Source]] = {
    "digits": Digits,
    "csv": partial(open_table, "csv"),
    "tsv": partial(open_table, "tsv"),
    "parquet": partial(open_table, "parquet"),
}


def open_source(config: Mapping) -> Source:
    """The source that a config describes: `kind`, and the keys of that kind.

    The keys are the parameters of the functions in KINDS: for 'csv', 'tsv' and 'parquet' see
    data.tables.open_table, for 'digits' data.digits.Digits.

    Raises:
      UserError: on an unknown kind or key, a missing file or column, or no rows left.
    """
    options = dict(config)
    kind = options.pop("kind", None)
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
    return KINDS[kind](**options)
