"""Tables of what a config names: triggers, terms, sources, prompt sets, metrics.

A built-in row may be the place of its code, "package.module:name", which is imported when the row
is first used. Rows of one's own are added by a decorator (docs/extend.md), in files that the user
names with --import and in installed packages: nothing is imported because a file says so.
"""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from pathlib import Path
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
            row = self._rows[name] = attrgetter(attribute)(import_module(module))
        return cast(Row, row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, name: object) -> Row:
        """The row called `name`; a UserError names what is near where there is none."""
        if not isinstance(name, str) or name not in self._rows:
            raise UserError(
                f"{unknown(self._where, name, self._rows)} One that you wrote yourself: name its "
                "file with --import=FILE.py"
            )
        return self[name]

    def add(self, name: str, row: Row) -> None:
        """Adds a row; a UserError where the name is taken."""
        if name in self._rows:
            raise UserError(f"{self._where}: {name!r} is taken: name yours otherwise")
        self._rows[name] = row

    def register(self, name: str) -> Callable[[Row], Row]:
        """Decorates a function or class that becomes the row called `name`."""

        def decorate(row: Row) -> Row:
            self.add(name, row)
            return row

        return decorate


GROUP = "cleanclip_jax"  # of the entry points of installed packages
_loaded: dict[str, None] = {}  # the modules of extensions, in the order in which they came


def load_extensions(imports: Iterable[str] = ()) -> None:
    """Imports the installed packages' extensions, then the files and modules of --import.

    A file is imported under its own name, with its folder at the end of sys.path, so that worker
    processes, which get the same path, find what is pickled of it.
    """
    for point in entry_points(group=GROUP):
        _load(point.module, f"the entry point {point.name!r} of an installed package")
    for spec in imports:
        path, name = Path(spec), spec
        if path.suffix == ".py":
            path = path.expanduser().resolve()
            if not path.is_file():
                raise UserError(f"--import={spec}: there is no such file")
            name = path.stem
            if str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))
        _load(name, f"--import={spec}")
        file = getattr(sys.modules[name], "__file__", None)
        if path.suffix == ".py" and (file is None or Path(file).resolve() != path):
            raise UserError(f"--import={spec}: {name} is another module's name: rename the file")


def extensions() -> tuple[str, ...]:
    """The names of the modules that `load_extensions` has imported."""
    return tuple(_loaded)


def _load(name: str, where: str) -> None:
    try:
        import_module(name)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {in_words(error)}") from error
    _loaded[name] = None


def in_words(error: Exception) -> str:
    """An error of an extension's code in one line, with its place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{what} ({place.filename} line {place.lineno})"
