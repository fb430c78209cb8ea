"""Configs: their defaults, how a file is loaded, how a key is overridden, what is refused."""

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.config_keys import KEYS, keys_of
from cleanclip_jax.errors import UserError, reason, unknown
from cleanclip_jax.files import read_bytes
from cleanclip_jax.keys import Key, literal, take

RULES = ("safe", "removal")  # tables that choose the pairs of a stage


def declare(name: str, key: Key) -> None:
    """Adds a key: that of a term of one's own, say."""
    KEYS.add(name, key)


def defaults() -> ConfigDict:
    """Returns every key with its default. None means: as the start run's, or not used."""
    config = ConfigDict()
    for name in KEYS:
        if _table_of(name) is None:
            key = KEYS[name]
            section, _, last = name.rpartition(".")
            if section and section not in config:
                config[section] = ConfigDict()
            node = config[section] if section else config
            node[last] = ConfigDict(key.default) if key.default == {} else key.default
    return config


def _find(name: str) -> Key:
    if name in KEYS or name.startswith("objective."):  # a term of one's own: see --import
        return KEYS.find(name)
    raise unknown("config", name, KEYS)


def _table_of(name: str) -> str | None:
    """The table that a key is below, if it is below one."""
    parts = name.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((place for place in above if place in KEYS and KEYS[place].table), None)


def configs_folder() -> Path:
    """The configs that come along, and their data: in the wheel, or in the checkout."""
    package = Path(__file__).parent
    return (package if (package / "configs").is_dir() else package.parent) / "configs"


def load(spec: str) -> ConfigDict:
    """Loads `FILE.py[:arg]` and returns its `get_config(arg)`.

    A file that isn't there is looked for among the configs that come along, in the wheel or the
    checkout, so `configs/demo.py` works from any folder.
    """
    name, _, arg = spec.partition(":")
    shipped = configs_folder() / Path(name).name
    places = (Path(name), shipped) if Path(name).parent.name in ("", "configs") else (Path(name),)
    path = next((path for path in places if os.path.isfile(path)), None)
    if path is None:
        raise unknown("--config", name, [f"configs/{p.name}" for p in shipped.parent.glob("*.py")])
    if path.suffix != ".py":
        raise UserError(f"--config: {path} is no Python file: its name ends in .py")
    return _called(path, _imported(path), arg or None)


def _imported(path: Path) -> Any:
    """A config file as a module; it may import its neighbours."""
    spec = importlib.util.spec_from_file_location("cleanclip_config", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    with _mistakes_of(path):
        spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path} has no get_config(arg)")
    return module


def _called(path: Path, module: Any, arg: str | None) -> ConfigDict:
    with _mistakes_of(path):
        if arg is None and not inspect.signature(module.get_config).parameters:
            config = module.get_config()
        else:
            config = module.get_config(arg)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config gives {type(config).__name__}: it has to return a config, which "
            "begins with cleanclip_jax.config.defaults()"
        )
    return config


@contextmanager
def _mistakes_of(path: Path) -> Iterator[None]:
    """Has whatever a config file raises be one line, with the file's own line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [at.lineno for at in extract_tb(error.__traceback__) if at.filename == str(path)]
        number = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = str(path) if number is None else f"{path} line {number}"
        raise UserError(f"{where}: {type(error).__name__}: {reason(error)}") from error


def choose(arg: str | None, choices: Iterable[str], file: str) -> str:
    """Returns `arg`, or the first choice for None. For the `:arg` of a config file."""
    known = list(choices)
    if arg not in (None, *known):
        raise unknown(file, arg, known)
    return arg or known[0]


def override(config: ConfigDict, name: str, given: str) -> None:
    """Sets `config.name` from a command line's text, read as the key's type says."""
    key, table = KEYS.get(name), _table_of(name)
    if table is not None:
        below = keys_of(table)
        key = below.get(name.removeprefix(f"{table}."))
        if below and key is None and ".trigger." not in name:
            raise unknown("config", name, [f"{table}.{each}" for each in below])
    else:
        key = _find(name)
    where = f"config.{name}"
    value = literal(given) if key is None else key.parse(where, given)
    node: Any = config
    *parents, last = name.split(".")
    for depth, part in enumerate(parents, 1):
        node = node.get(part)
        if not isinstance(node, ConfigDict):
            above = ".".join(parents[:depth])
            raise UserError(f"config.{above} is {node!r}: it has no key {last!r} to set")
    with node.unlocked(), node.ignore_type():
        try:
            node[last] = ConfigDict(value) if isinstance(value, dict) else value
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            # ml_collections takes no key with a dot, and none that is a method of its own.
            raise UserError(f"{where} can't hold {given!r:.200}: {reason(error)}") from None


def check(config: ConfigDict) -> None:
    """Refuses a key that there isn't and a value that no run can have.

    Brings values to their keys' types.
    """
    for section, node in config.items():
        below = () if section in KEYS or not isinstance(node, ConfigDict) else node
        for name in [f"{section}.{last}" for last in below] or [section]:
            _find(name)
    _check_values(config)
    if config.train.batch_size % config.model.bn_groups:
        raise UserError(
            f"config.train.batch_size {config.train.batch_size} does not divide into "
            f"config.model.bn_groups {config.model.bn_groups}"
        )
    if config.data.resident and config.views.on != "device":
        raise UserError(
            "config.data.resident needs config.views.on=device: what lies in device memory is "
            "poisoned and augmented there"
        )
    if "strong" in (config.views.first, config.views.image) and config.views.on == "device":
        raise UserError(
            "config.views.on=device makes no strong views: set config.views.on=host, or "
            "config.views.first=none and another config.views.image"
        )
    if config.model.attention == "cudnn" and config.model.dtype != "bfloat16":
        raise UserError(
            f"config.model.attention=cudnn computes in bfloat16, not {config.model.dtype}: set "
            "config.model.dtype=bfloat16, or config.model.attention=xla"
        )


def _check_values(config: ConfigDict) -> None:
    for name in KEYS:
        if _table_of(name) is not None:
            continue
        key = KEYS[name]
        section, _, last = name.rpartition(".")
        node = config.get(section) if section else config
        if not isinstance(node, ConfigDict) or last not in node:
            raise UserError(f"config.{name} is missing: begin a config with defaults()")
        value = key.read(f"config.{name}", node[last])
        if value is not node[last]:
            with node.ignore_type():
                node[last] = value
    for table in ("attack", "evaluation.attack"):
        _check_attack(table, config[table] if table == "attack" else config.evaluation.attack)
    for table in (*RULES, "patch"):
        if config[table] is not None:
            take(f"config.{table}", dict(config[table].items()), keys_of(table))


def _check_attack(table: str, attack: ConfigDict | None) -> None:
    if attack is not None and (table != "attack" or attack.get("manifest") is None):
        from cleanclip_jax.table_keys import attack_parts

        attack_parts(table, dict(attack.items()))


def _leaves(node: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns {'a.b': value} of a nested config."""
    return dict(_leaves(config))


def to_json(config: ConfigDict) -> str:
    """A config as indented JSON, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(path: Path) -> ConfigDict:
    """Reads a config that `to_json` wrote, over today's defaults, and checks its values.

    Keys that aren't known are left alone: an older program's, or those of extensions.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} is no workdir of a run: it has no {path.name}")
    data = read_bytes(path)
    try:
        return parse_json(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_json(text: str) -> ConfigDict:
    """The config of `to_json`, as `from_json` reads it."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise UserError("no config: it is not a JSON object")
    config = defaults()
    with config.unlocked(), config.ignore_type():
        for key, value in values.items():
            is_section = isinstance(config.get(key), ConfigDict)
            if is_section and not isinstance(value, dict):
                raise UserError(f"config.{key} is {value!r}: it takes a dictionary")
            try:
                new = ConfigDict(value) if isinstance(value, dict) else value
                config[key].update(new) if is_section else config.update({key: new})
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise UserError(
                    f"config.{key} can't hold {value!r:.200}: {reason(error)}"
                ) from None
    _check_values(config)
    return config
