"""What the jobs' command lines share: flags in argparse, config keys as `--config.key=value`."""

import argparse
from collections.abc import Sequence

from ml_collections import ConfigDict

from cleanclip_jax.config import override
from cleanclip_jax.errors import UserError, near


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a UserError: one line, exit code 2."""

    def error(self, message: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise UserError(f"{message}; `{self.prog} --help` tells what it takes")


def parse(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the parsed flags, and the `--config.key=value` arguments as {key: text}.

    Raises:
      UserError: an argument that is neither.
    """
    overrides: dict[str, str] = {}
    others = []
    words = iter(argv)
    for word in words:
        if word.startswith("--config."):
            key, equals, text = word.removeprefix("--config.").partition("=")
            if not equals:
                text = next(words, None)
                if text is None:
                    raise UserError(f"{word} has no value: write {word}=VALUE")
            overrides[key] = text
        else:
            others.append(word)
    parsed, unknown = parser.parse_known_args(others)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        hint = near(unknown[0].split("=")[0], flags) or " Config keys are --config.key=value."
        raise UserError(f"unknown argument {unknown[0]!r}.{hint}")
    return parsed, overrides


def apply(config: ConfigDict, overrides: dict[str, str]) -> ConfigDict:
    """Sets every override in `config`, and returns it."""
    for key, text in overrides.items():
        override(config, key, text)
    return config
