"""Configs: files load, keys override, mistakes are one line."""

import json
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from cleanclip_jax.config import (
    check,
    defaults,
    flatten,
    from_json,
    load,
    override,
    parse_json,
    to_json,
)
from cleanclip_jax.config_keys import KEYS
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import REQUIRED

FOLDER = Path(__file__).parent.parent / "configs"
# Of runs; benchmark.py has suites.
CONFIGS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "benchmark.py")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads_and_has_all_keys(name, tmp_path):
    config = load(f"configs/{name}")
    tables = {name for name, key in KEYS.items() if key.table}
    assert set(flatten(defaults())) <= tables | set(flatten(config))
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
        ("start", "2024", "2024"),
        ("start", "None", None),
        ("text.merges", "7", "7"),
        ("evaluation.floor", "1", "1"),
        ("views.wordnet", "3", "3"),
        ("train.wandb", "123", "123"),
        ("evaluation.target", "7", "7"),
        ("attack.target", "7", "7"),
        ("evaluation.metrics", "['a', 'b']", ["a", "b"]),
        ("train.text_lengths", "()", ()),
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
        ("optimizer.lr", "1", "Did you mean 'optimizer.learning_rate'[?]"),
        ("train.bs", "1", "Did you mean 'train.batch_size' or"),
        ("optimizer.learning_rate", "-1", "it takes a number from 0 to"),
        ("optimizer.beta1", "1", "it takes a number from 0 below 1"),
        ("optimizer.epsilon", "-1e-8", "it takes a number from 0 on"),
        ("optimizer.weight_decay", "1e400", "optimizer.weight_decay is inf"),
        ("seed", "9" * 400, r"config.seed is 2\*\*1328 or more"),
        ("objective.in_modal", "-1", "it takes a weight from 0 on"),
        ("model.image_size", "224px", "config.model.image_size is '224px'"),
        ("evaluation.sets", "[1]", r"config.evaluation.sets is \[1\]"),
        ("data.train", "{1: 2}", "it takes a dictionary"),
        ("data.train.where", "{'a.b': 1}", "config.data.train.where can't hold"),
        ("model", "{}", "config: unknown 'model'"),
        ("start", "a\0b", "config.start is 'a.x00b': it takes a text"),
        ("train.batchsize", "1", "'train.batch_size'"),
        ("start.step", "1", "config: unknown 'start.step'"),
        ("attack.rate", "1", "config.attack is None: it has no key 'rate'"),
        ("attack.trigge", "1", "'attack.trigger'"),
        ("seed", "many", "config.seed is 'many': it takes a whole number, 0 or more"),
        ("seed", "True", "config.seed is True"),
        ("seed", "None", "config.seed is None"),
        ("train", "3", "config: unknown 'train'"),
        ("model.dtype", "float16", "model.dtype: unknown 'float16'. Did you mean 'bfloat16'"),
        ("data.max_bad_share", "1.5", "a number from 0 to 1"),
        ("mesh.data", "0", "a whole number, 1 or more, or -1"),
        ("mesh.fsdp", "0", "a whole number, 1 or more"),
        ("train.chunks", "0", "a whole number, 1 or more"),
        ("train.text_lengths", "(16, 0)", "it takes whole numbers, as"),
    ],
)
def test_mistakes_name_what_is_near(key, text, message):
    with pytest.raises(UserError, match=message) as error:
        override(defaults(), key, text)
    assert "\n" not in str(error.value)


def test_unknown_files_and_arguments_name_what_is_near(tmp_path):
    with pytest.raises(UserError, match=r"--config: unknown 'configs/dmeo.py'.*'configs/demo.py'"):
        load("configs/dmeo.py")
    with pytest.raises(UserError, match=r"configs/pretrain.py: unknown 'badnt'.*'badnet'"):
        load("configs/pretrain.py:badnt")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="no get_config"):
        load(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(", "line 1: SyntaxError"),
        ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config(arg):\n    1 / 0", "line 2: ZeroDivisionError"),
        ("def get_config(arg):\n    raise ValueError('a\\nb')", "line 2: ValueError: a b"),
        ("def get_config(arg): pass", "get_config gives NoneType"),
        ("def get_config(arg): return {}", "get_config gives dict"),
        ("get_config = 3", r"no get_config\(arg\)"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
        ("\0", "SyntaxError"),
    ],
)
def test_a_config_file_that_fails_is_one_line(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=f"mine.py.*{message}") as error:
        load(str(path))
    assert "\n" not in str(error.value)


def test_a_config_file_may_import_its_neighbours_and_take_no_argument(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour_of_mine.py").write_text("STEPS = 7")
    path = tmp_path / "mine.py"
    path.write_text(
        "from cleanclip_jax.config import defaults\nfrom neighbour_of_mine import STEPS\n"
        "def get_config():\n    config = defaults()\n    config.train.steps = STEPS\n"
        "    return config\n"
    )
    assert load(str(path)).train.steps == 7
    with pytest.raises(UserError, match="TypeError"):
        load(f"{path}:argument")
    (tmp_path / "mine.yaml").write_text("train: 1")
    with pytest.raises(UserError, match=r"its name ends in \.py"):
        load(str(tmp_path / "mine.yaml"))


def test_a_config_that_went_by_way_of_a_file_is_the_same(tmp_path):
    config = defaults()
    assert flatten(parse_json(to_json(config))) == flatten(config)
    override(config, "train.text_lengths", "[16, 32]")
    assert config.train.text_lengths == (16, 32)


@pytest.mark.parametrize("spec", [*CONFIGS, "pretrain.py:wanet", "cleanclip.py:mmcl"])
def test_what_comes_along_passes_the_check(spec):
    config = load(f"configs/{spec}")
    before = flatten(config)
    check(config)
    assert flatten(config) == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.batch_size", 0, "config.train.batch_size is 0: it takes a whole number, 1 or more"),
        ("train.epochs", 1.5, "config.train.epochs is 1.5"),
        ("optimizer.decay_mask", "orginal", "decay_mask: unknown 'orginal'.*'original'"),
        ("optimizer.schedule", "cosin", "schedule: unknown 'cosin'.*'cosine'"),
        ("optimizer.learning_rate", float("nan"), "learning_rate is nan"),
        ("data.decode", "fas", "data.decode: unknown 'fas'.*'fast'"),
        ("views.per", "epochs", "views.per: unknown 'epochs'.*'epoch'"),
        ("data.resident", True, "needs config.views.on=device"),
        ("model.bn_groups", 3, "64 does not divide into config.model.bn_groups 3"),
        ("model.attention", "cudnn", "computes in bfloat16, not float32"),
        ("attack", "badnet", "config.attack is 'badnet': it takes a dictionary"),
        ("attack.trigger", None, "config.attack.trigger is missing"),
        ("attack.geometry", "crops", "attack.geometry: unknown 'crops'.*'crop'"),
        ("evaluation.attack", {"targt": "x"}, "evaluation.attack: unknown 'targt'"),
        ("evaluation.data", "val.csv", "it takes a dictionary"),
        ("train.bach_size", 3, "unknown 'train.bach_size'. Did you mean 'train.batch_size'"),
        ("objective.par", 1.0, r"unknown 'objective.par'.*--import=FILE\.py"),
        ("optimiser", {"beta1": 0}, "unknown 'optimiser.beta1'.*'optimizer.beta1'"),
        ("sed", 1, "unknown 'sed'.*'seed'"),
    ],
)
def test_a_value_that_no_run_can_have_is_one_line(key, value, message):
    config = load("configs/demo.py")
    node, (*parents, last) = config, key.split(".")
    for part in parents:
        node = node[part]
    with node.unlocked(), node.ignore_type():
        node[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message) as error:
        check(config)
    assert "\n" not in str(error.value)


def test_check_brings_values_to_their_keys_types():
    config = defaults()
    with config.ignore_type():
        config.objective.in_modal, config.start = None, 2024
        config.objective.in_modal = 1
    check(config)
    assert (config.objective.in_modal, config.start) == (1.0, "2024")
    assert isinstance(config.objective.in_modal, float)


def test_an_old_config_loads_over_todays_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"train": {"batch_size": 7, "gone": 1}, "old": {"key": 2}}))
    config = from_json(path)
    assert config.train.batch_size == 7 and config.train.keep == 2 and config.old.key == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not a JSON object"),
        ('{"train": 3}', "config.train is 3: it takes a dictionary"),
        ('{"train": {"batch_size": "x"}}', r"config.json: config.train.batch_size is 'x'"),
    ],
)
def test_a_damaged_config_is_one_line(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        from_json(tmp_path / "config.json")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is no workdir of a run"):
        from_json(tmp_path / "none" / "config.json")


def test_defaults_keep_to_their_keys():
    for name, key in KEYS.items():
        if key.default is not REQUIRED:
            assert key.read(name, key.default) == key.default
