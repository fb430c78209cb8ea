"""JSON files beside weights: of another shape than they are to have, they are refused by name."""

import json

import pytest
from helpers.torch_files import random_values
from safetensors.numpy import save_file

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.sidecars import folder_files
from cleanclip_jax.start.torch.write import contract

VIT = VARIANTS["ViT-test"]
WEIGHTS = {"open_clip": "open_clip_model.safetensors", "huggingface": "model.safetensors"}


@pytest.fixture
def folder(tmp_path):
    """Gives a folder in a format, with one JSON file replaced."""

    def make(format, name, content):
        save_file(random_values(format, VIT), tmp_path / WEIGHTS[format])
        settings = contract("it", VIT, "gelu")
        for file, made in folder_files(format, None, settings, VIT).items():
            (tmp_path / file).write_text(json.dumps(made))
        (tmp_path / name).write_bytes(content)
        return tmp_path

    return make


def preprocess(**changes):
    content = folder_files("open_clip", None, contract("it", VIT, "gelu"), VIT)
    content["open_clip_config.json"]["preprocess_cfg"] |= changes
    return json.dumps(content["open_clip_config.json"]).encode()


@pytest.mark.parametrize(
    ("format", "name", "content", "message"),
    [
        ("open_clip", "open_clip_config.json", b"[]", "no JSON object|a list, not an object"),
        ("open_clip", "open_clip_config.json", b"{", "not readable as JSON"),
        ("open_clip", "open_clip_config.json", b"\xff\xfe{", "not readable as JSON"),
        ("open_clip", "open_clip_config.json", b'{"a":' * 10**5, "nest"),
        ("open_clip", "open_clip_config.json", b"{}", "model_cfg is missing"),
        ("open_clip", "open_clip_config.json", b'{"model_cfg": [1]}', "model_cfg is"),
        ("open_clip", "open_clip_config.json", preprocess(mean="grey"), "not three numbers"),
        ("open_clip", "open_clip_config.json", preprocess(std=[0.2, None, 1]), "not three numbers"),
        ("huggingface", "config.json", b'"clip"', "no JSON object|text, not an object"),
        ("huggingface", "config.json", b'{"text_config": 3}', "text_config is 3"),
        ("huggingface", "preprocessor_config.json", b"3", "no JSON object|not an object"),
        ("huggingface", "preprocessor_config.json", b'{"image_std": 3}', "not three numbers"),
    ],
)
def test_a_file_of_another_shape_is_one_line(folder, format, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(folder(format, name, content))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "three numbers" in message


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_names_nothing_is_one_line(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json"):
        open_checkpoint(tmp_path)


def test_other_preprocessing_is_told(folder):
    changes = {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}
    found = open_checkpoint(folder("open_clip", "open_clip_config.json", preprocess(**changes)))
    assert [note.split()[5] for note in found.notes] == ["mean", "interpolation", "resize_mode"]
    found = open_checkpoint(
        folder("huggingface", "preprocessor_config.json", b'{"crop_size": {"height": 48}}')
    )
    assert "trained with crop_size {'height': 48}; here it is 32" in found.notes[0]
