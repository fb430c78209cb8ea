"""Where pairs come from: a source by the name of its kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import number, of_signature, take
from cleanclip_jax.record import Record, Source
from cleanclip_jax.registry import Registry

__all__ = ["KINDS", "Record", "Source", "open_source", "source"]

_TABLE = "cleanclip_jax.data.table"
# The keys of a kind are its function's parameters; docs/data.md lists them.
KINDS: Registry[Callable[..., Source]] = Registry(
    "config.data: kind",
    {
        **{kind: f"{_TABLE}.table:open_{kind}" for kind in ("csv", "tsv", "parquet")},
        "webdataset": f"{_TABLE}.webdataset:open_webdataset",
        "arrayrecord": "cleanclip_jax.data.shards.arrayrecord:open_arrayrecord",
        "tfds": f"{_TABLE}.tfds:open_tfds",
        "folder": f"{_TABLE}.folders:open_folder",
        "labels": f"{_TABLE}.labels:open_labels",
        "digits": "cleanclip_jax.data.digits:Digits",
        "mixture": f"{__name__}:open_mixture",
    },
)


def source(kind: str) -> Callable[[Callable[..., Source]], Callable[..., Source]]:
    """Decorates what opens a source of one's own kind: its parameters are the source's keys.

    It returns a `Source`, which pickles; the annotations of the parameters are checked.
    """
    return KINDS.register(kind)


def open_mixture(sources: Mapping[str, Mapping[str, Any]]) -> Source:
    """Several sources as one (data.mixture.Mixture).

    Args:
      sources: name → the source's own config and its `weight`, how many times each of its pairs
        comes in an epoch (1 if not said; a fraction chooses that share of them, once for all).
    """
    from cleanclip_jax.data.mixture import mix

    opened = {}
    for name, config in sources.items():
        options = {key: value for key, value in config.items() if key != "weight"}
        try:
            weight = number(1.0).read("weight", config.get("weight", 1))
            opened[name] = open_source(options), weight
        except UserError as error:
            raise UserError(f"data: mixture: {name}: {error}") from error
    return mix(opened)


def open_source(config: Mapping) -> Source:
    """The source that a config describes: `kind`, the keys of that kind, and `keep` and `skip`."""
    options = dict(config)
    filters = {key: options.pop(key) for key in ("keep", "skip") if key in options}
    filters = take("config.data", filters, of_signature(_filtered, first=1))
    kind = options.pop("kind", None)
    function = KINDS.find(kind)
    source = function(**take(f"config.data ({kind})", options, of_signature(function)))
    return _filtered(source, **filters)


def _filtered(
    source: Source, keep: str | Path | None = None, skip: str | Path | None = None
) -> Source:
    if keep is None and skip is None:
        return source
    from cleanclip_jax.data.subset import select

    return select(source, keep, skip)
