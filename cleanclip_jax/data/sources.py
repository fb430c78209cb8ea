"""Where pairs come from: a source by the name of its kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError, refusing
from cleanclip_jax.keys import of_signature, take
from cleanclip_jax.record import Record, Source
from cleanclip_jax.registry import Registry

__all__ = ["KINDS", "Record", "Source", "open_source", "source"]

_TABLE = "cleanclip_jax.data.table"
# The keys of a kind are its function's parameters; docs/data.md lists them.
KINDS: Registry[Callable[..., Source]] = Registry(
    "config.data: kind",
    {
        **{kind: f"{_TABLE}.table:open_{kind}" for kind in ("csv", "tsv", "parquet")},
        "json": f"{_TABLE}.annotations:open_json",
        "webdataset": f"{_TABLE}.webdataset:open_webdataset",
        "arrayrecord": "cleanclip_jax.data.shards.arrayrecord:open_arrayrecord",
        "tfds": f"{_TABLE}.tfds:open_tfds",
        "folder": f"{_TABLE}.folders:open_folder",
        "labels": f"{_TABLE}.folders:open_labels",
        "digits": "cleanclip_jax.data.digits:Digits",
        "fashion": f"{_TABLE}.fashion:open_fashion",
        "mixture": "cleanclip_jax.data.mixture:open_mixture",
    },
)


def source(kind: str) -> Callable[[Callable[..., Source]], Callable[..., Source]]:
    """Decorates what opens a source of one's own kind: its parameters are the source's keys.

    It returns a `Source`, which pickles; the annotations of the parameters are checked.
    """
    return KINDS.register(kind)


def open_source(config: Any) -> Source:
    """The source that a config describes: `kind`, the keys of that kind, and `keep` and `skip`."""
    options = options_of(config)
    filters = {key: options.pop(key) for key in ("keep", "skip") if key in options}
    filters = take("config.data", filters, of_signature(_filtered, first=1))
    kind = options.pop("kind", None)
    function = KINDS.find(kind)
    keys = take(f"config.data ({kind})", options, of_signature(function))
    with refusing(f"config.data ({kind})", "check the data's path", OSError):
        source = function(**keys)
    return _filtered(source, **filters)


def _filtered(
    source: Source,
    keep: str | Path | Mapping[str, Any] | None = None,
    skip: str | Path | None = None,
) -> Source:
    if keep is None and skip is None:
        return source
    from cleanclip_jax.data.subset import select

    return select(source, keep, skip)


def options_of(config: Any) -> dict[str, Any]:
    """A source's config as a dictionary, which is checked to be one."""
    if not hasattr(config, "items") or not all(isinstance(key, str) for key in config):
        raise UserError(f"config.data is {config!r}: give {{'kind': 'csv', 'path': 'pairs.csv'}}")
    return dict(config)
