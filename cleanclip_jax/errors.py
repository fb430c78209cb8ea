"""What a user did wrong, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's or of their data: one line saying what, where and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def near(word: str, options: Iterable[str]) -> str:
    """Returns ' Did you mean "a" or "b"?' for the options close to `word`, else ''."""
    found = difflib.get_close_matches(word, list(options), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in found)}?" if found else ""
