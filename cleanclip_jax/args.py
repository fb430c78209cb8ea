"""What the jobs' command lines share: flags in argparse, config keys as `--config.key=value`."""

import argparse
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cleanclip_jax.config import override
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.registry import load_extensions


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a UserError: one line, exit code 2.

    Every job takes --import.
    """

    lists_keys = False

    def __init__(self, prog: str, description: str | None = None, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, description=description, **options)
        self.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="FILE.py|MODULE",
            help="your own triggers, terms, sources, prompts and metrics (docs/extend.md)",
        )

    def list_keys(self) -> None:
        """Has --help list the config's keys."""
        self.lists_keys = True

    def format_help(self) -> str:
        if self.lists_keys:
            from cleanclip_jax.key_list import listing

            self.epilog = f"config keys (docs/config.md):\n{listing()}"
        return super().format_help()

    def error(self, message: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise UserError(f"{message}; `{self.prog} --help` lists what it takes")


def parse(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the parsed flags, and the `--config.key=value` arguments as {key: text}.

    The extensions are loaded: those of installed packages, and what --import names.
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
    parsed, left = parser.parse_known_args(others)
    if left:
        flags = [option for action in parser._actions for option in action.option_strings]
        raise unknown(parser.prog, left[0].partition("=")[0], [*flags, "--config.KEY"])
    load_extensions(parsed.imports)
    return parsed, overrides


def apply(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    """Sets every override in `config`, and returns it."""
    for key, text in overrides.items():
        override(config, key, text)
    return config
