"""What ends a program in one line: a mistake of the user's, or a stop that is no mistake."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LISTED = 40  # options that an error names at most
LONGEST = 4000  # letters of an error
START_AGAIN, INTERRUPTED = 75, 130  # exit codes: EX_TEMPFAIL of sysexits.h; Ctrl-C


class UserError(Exception):
    """A mistake of the user's or of their data: one line saying what, where and what to do.

    The command line prints it without a traceback and exits with code 2. What it quotes of files
    and arguments can't break the line or steer a terminal: it stands there as `printable` has it.
    """

    def __init__(self, message: str):
        super().__init__(printable(message)[:LONGEST])


def printable(text: str) -> str:
    """A text with line breaks, escape codes and the like written out, as in `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class StartAgain(Exception):
    """The run stopped and loses nothing by it: the same command goes on where it was.

    The command line prints it and exits with `code`: on 75 the scripts in launch/ start again.

    Attributes:
      together: whether all of the run's processes leave by it, at the same step.
    """

    def __init__(self, message: str, together: bool = False, code: int = START_AGAIN):
        super().__init__(printable(message))
        self.together, self.code = together, code


# What other programs call a key.
SYNONYMS = {
    **{"lr": "learning_rate", "wd": "weight_decay", "eps": "epsilon", "warmup": "warmup_steps"},
    **{"bs": "batch_size", "batch": "batch_size", "max_steps": "steps", "num_steps": "steps"},
    **{"num_epochs": "epochs", "num_workers": "workers", "precision": "dtype"},
    **{"resolution": "image_size", "img_size": "image_size", "size": "image_size"},
    **{"arch": "variant", "architecture": "variant", "backbone": "variant"},
    **{"name": "variant", "init": "start", "pretrained": "start", "resume": "start"},
    **{"rate": "learning_rate", "betas": "beta1"},
}


def unknown(where: str, word: object, options: Iterable[str]) -> UserError:
    """Returns the error for a word that is none of `options`: the near ones are named, or all.

    Args:
      where: what has the value: "config.model.variant", "cleanclip".
    """
    known = [str(option) for option in options]
    close = "" if word is None else _close(str(word), known)
    return UserError(f"{where}: unknown {word!r:.200}.{close or _listed(known)}")


def _close(word: str, known: list[str]) -> str:
    close = _named_like(word, known) or difflib.get_close_matches(word[:200], known, 3, 0.5)
    return f" Did you mean {' or '.join(map(repr, close[:3]))}?" if close else ""


def _named_like(word: str, known: list[str]) -> list[str]:
    """Names of the same last part or its synonym; else of its section, those with one near it."""
    section, _, last = word[:200].rpartition(".")
    if "/" in word:
        return []
    ends = {name: name.rpartition(".")[2] for name in known}
    same = [name for name, end in ends.items() if end in (last, SYNONYMS.get(last))]
    if same or not section:
        return sorted(same, key=lambda name: name.rpartition(".")[0] != section)
    # By its last part alone: a long section in common would make any key near.
    inside = {end: name for name, end in ends.items() if name == f"{section}.{end}"}
    return [inside[end] for end in difflib.get_close_matches(last, inside, 3, 0.5)]


def _listed(known: list[str]) -> str:
    if not known:
        return " There is none."
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f" Known: {', '.join(known[:LISTED])}{more}."


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
