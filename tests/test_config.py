"""Configs: files load, keys override, mistakes are one line."""

from pathlib import Path

import pytest

from cleanclip_jax.config import defaults, flatten, from_json, load, override, to_json
from cleanclip_jax.errors import UserError

CONFIGS = sorted(path.name for path in (Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads_and_has_all_keys(name, tmp_path):
    config = load(f"configs/{name}")
    assert set(flatten(defaults())) - {"data.train"} <= {
        *flatten(config),
        "attack",
        "evaluation.data",
    }
    (tmp_path / "config.json").write_text(to_json(config))
    assert flatten(from_json(tmp_path / "config.json")) == flatten(config)


@pytest.mark.parametrize("spec", ["pretrain.py:blended", "cleanclip.py:mmcl", "demo.py:cleanclip"])
def test_shipped_configs_are_found_from_any_folder(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(f"configs/{spec}").train.batch_size in (64, 128)


def test_overrides_keep_types_and_reach_into_open_parts():
    config = load("configs/demo.py")
    for key, text, value in [
        ("optimizer.learning_rate", "1", 1.0),
        ("train.steps", "7", 7),
        ("start", "runs/a", "runs/a"),
        ("attack.trigger.size", "4", 4),
        ("attack.rate", "0.5", 0.5),
        ("data.train.split", "test", "test"),
        ("evaluation.templates", "['a {}', 'the {}']", ["a {}", "the {}"]),
        ("attack", "None", None),
    ]:
        override(config, key, text)
        node = config
        for part in key.split("."):
            node = node[part]
        assert node == value, key
    assert isinstance(config.optimizer.learning_rate, float)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("optimizer.learning_rte", "1", "'optimizer.learning_rate'"),
        ("learning_rate", "1", "'optimizer.learning_rate'"),
        ("train.batchsize", "1", "'train.batch_size'"),
        ("start.step", "1", "config.start is None"),
        ("seed", "many", "takes a value of type int, not 'many'"),
        ("train", "3", "takes a value of type ConfigDict"),
    ],
)
def test_mistakes_name_what_is_near(key, text, message):
    with pytest.raises(UserError, match=message) as error:
        override(defaults(), key, text)
    assert "\n" not in str(error.value)


def test_unknown_files_and_arguments_name_what_is_near(tmp_path):
    with pytest.raises(UserError, match=r"no config file 'configs/dmeo.py'.*'demo.py'"):
        load("configs/dmeo.py")
    with pytest.raises(UserError, match=r"no variant 'badnt'.*'badnet'"):
        load("configs/pretrain.py:badnt")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="no get_config"):
        load(str(tmp_path / "empty.py"))
