"""What ends a program in one line: a mistake of the user's, or a stop that is no mistake."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LISTED = 40  # options that an error names at most


class UserError(Exception):
    """A mistake of the user's or of their data: one line saying what, where and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class StartAgain(Exception):
    """The run stopped and loses nothing by it: the same command goes on where it was.

    The command line prints it and exits with code 75, on which the scripts in launch/ start again.

    Attributes:
      together: whether all of the run's processes leave by it, at the same step.
    """

    def __init__(self, message: str, together: bool = False):
        super().__init__(message)
        self.together = together


def unknown(where: str, word: object, options: Iterable[str]) -> UserError:
    """Returns the error for a word that is none of `options`: the near ones are named, or all.

    Args:
      where: what has the value: "config.model.variant", "cleanclip".
    """
    known = list(options)
    return UserError(f"{where}: unknown {word!r}.{_near(str(word), known) or _listed(known)}")


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _listed(known: list[str]) -> str:
    if not known:
        return " There is none."
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f" Known: {', '.join(known[:LISTED])}{more}."


def printable(text: str) -> str:
    """`text` in one line: control characters, which names from outside may have, spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def refusing(where: str, todo: str, *kinds: type[BaseException]) -> Iterator[None]:
    """A part whose errors of these kinds are the user's: each becomes a line.

    Args:
      where: what was read or written; an error that names another file names that instead.
      todo: what to do, the end of the line.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        file = str(getattr(error, "filename", None) or where)
        raise UserError(f"{where if file in where else file}: {reason(error)}; {todo}.") from error


def reason(error: BaseException) -> str:
    """What an error says, in one line and without the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
