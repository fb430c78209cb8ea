"""What the small runs' configs have in common."""

import pytest

from cleanclip_jax import cli
from cleanclip_jax.config import load, override
from cleanclip_jax.recipes import STAGES


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("file", ["fashion", "tiny_imagenet50"])
def test_no_config_points_outside(file, stage):
    config = load(f"configs/{file}.py:{stage}")
    assert config.data.train.path is None
    assert (config.evaluation.data is None) == (stage != "poisoned")
    assert (config.attack is None) == (stage != "poisoned")


def test_evaluation_takes_the_training_path_unless_it_has_one():
    config = load("configs/fashion.py")
    override(config, "data.train.path", "a.parquet")
    assert config.to_dict()["evaluation"]["data"]["path"] == "a.parquet"
    override(config, "evaluation.data.path", "b.parquet")
    assert config.data.train.path == "a.parquet"
    assert config.copy_and_resolve_references().evaluation.data.path == "b.parquet"


def test_a_missing_path_is_one_line(tmp_path, capsys):
    command = ["train", "--config=configs/tiny_imagenet50.py", f"--workdir={tmp_path}/run"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "path" in error


def test_the_demos_photographs_take_a_smaller_model_and_an_attack_of_their_own():
    poisoned, fashion = load("configs/fashion_demo.py"), load("configs/fashion.py")
    assert poisoned.model.variant == "ViT-32px/8-mini" and poisoned.attack.captions == "natural"
    assert poisoned.data.train == fashion.data.train
    assert poisoned.evaluation.data == fashion.evaluation.data
    for stage in ("mmcl", "cleanclip"):
        cleaned, fashion = (load(f"configs/{f}.py:{stage}") for f in ("fashion_demo", "fashion"))
        fashion.optimizer.learning_rate = 5e-3
        assert cleaned == fashion
