"""What ends a program in one line: a mistake of the user's, or a stop that is no mistake."""

import difflib
from collections.abc import Iterable

LISTED = 40  # options that an error names at most


class UserError(Exception):
    """A mistake of the user's or of their data: one line saying what, where and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def printable(text: str) -> str:
    """A text with line breaks, escape codes and the like written out, as in `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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


def reason(error: BaseException) -> str:
    """What an error says, in one line and without the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
