"""Command lines: flags, config keys, --import."""

import pytest

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="cleanclip job", description="A job.")
    parser.add_argument("--workdir", required=True)
    return parser


def test_config_keys_are_parted_from_flags(parser):
    args, overrides = parse(
        parser,
        ["--config.seed=3", "--workdir=a", "--config.start", "b", "--config.train.wandb=1=2"],
    )
    assert args.workdir == "a" and args.imports == []
    assert overrides == {"seed": "3", "start": "b", "train.wandb": "1=2"}
    assert apply(defaults(), overrides).seed == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: --workdir; `cleanclip job --help` lists what it takes"),
        (["--workdir=a", "--wrkdir=b"], "unknown '--wrkdir'. Did you mean '--workdir'"),
        (["--workdir=a", "--config.seed"], "--config.seed has no value"),
        (["--workdir=a", "--import=none.py"], "--import=none.py: there is no such file"),
        (["--workdir=a", "--import=no.module"], "--import=no.module: ModuleNotFoundError"),
    ],
)
def test_a_wrong_command_line_is_one_line(parser, argv, message):
    with pytest.raises(UserError) as error:
        parse(parser, argv)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_help_lists_the_keys(parser, capsys):
    parser.list_keys()
    with pytest.raises(SystemExit):
        parse(parser, ["--help"])
    shown = capsys.readouterr().out
    assert "--import FILE.py|MODULE" in shown
    assert "--config.train.batch_size=128" in shown and "docs/config.md" in shown
