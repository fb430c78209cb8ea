"""Tables of what a config names: triggers, terms, sources, prompt sets, metrics.

A built-in row may be the place of its code, "package.module:name", which is imported when the row
is first used. Rows of one's own are added by a decorator (docs/extend.md).
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from cleanclip_jax.errors import UserError, unknown

Row = TypeVar("Row")


class Registry(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order in which they came.

    Args:
      where: what names a row, as errors call it: "config.attack.trigger.name".
      rows: the built-in ones, or their places.
    """

    def __init__(self, where: str, rows: Mapping[str, Any]):
        self._where, self._rows = where, dict(rows)

    def __getitem__(self, name: str) -> Row:
        row = self._rows[name]
        if isinstance(row, str):
            module, _, attribute = row.partition(":")
            row = self._rows[name] = getattr(import_module(module), attribute)
        return cast(Row, row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, name: object) -> Row:
        """The row called `name`.

        Raises:
          UserError: there is none; near names are told.
        """
        if not isinstance(name, str) or name not in self._rows:
            raise unknown(self._where, name, self._rows)
        return self[name]

    def add(self, name: str, row: Row) -> None:
        """Adds a row.

        Raises:
          UserError: the name is taken.
        """
        if name in self._rows:
            raise UserError(f"{self._where}: {name!r} is taken: name yours otherwise")
        self._rows[name] = row

    def register(self, name: str) -> Callable[[Row], Row]:
        """Decorates a function or class that becomes the row called `name`."""

        def decorate(row: Row) -> Row:
            self.add(name, row)
            return row

        return decorate
