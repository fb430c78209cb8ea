"""Checkpoints recognised: format, variant, sizes, activation; and what is refused, by name."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.torch_files import KINDS, cleanclip_file, random_values
from safetensors.numpy import save_file

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch import is_torch_checkpoint
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.recognise import name_of
from cleanclip_jax.start.torch.tensors import to_tensors
from cleanclip_jax.start.torch.write import contract, write_checkpoint

VIT, RN = VARIANTS["ViT-test"], VARIANTS["RN-test"]


def save(path, tensors):
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_originals_file_is_recognised(golden, tmp_path, kind):
    pytest.importorskip("torch")
    content = cleanclip_file(golden, kind, tmp_path / "a.pt")
    found = open_checkpoint(tmp_path / "a.pt")
    assert found.numbers == VARIANTS[KINDS[kind]] and name_of(found.numbers) == KINDS[kind]
    origin = found.origin
    assert (origin.format, origin.layout, origin.prefix) == ("cleanclip", "openai", "module.")
    assert origin.wrapper == {"epoch": 3, "name": "tiny"}
    assert [f"module.{name}" for name in origin.tensors] == list(content["state_dict"])
    assert len(origin.counters) == sum(name.endswith("tracked") for name in origin.tensors)
    assert found.notes == ("not carried over: optimizer",)
    assert found.activation == "quick_gelu" and "cleanclip programs run every" in found.chosen


def test_sizes_are_read_off_the_shapes(tmp_path):
    v = dataclasses.replace(VIT, image_size=48, context_length=20, vocab_size=310)
    found = open_checkpoint(save(tmp_path / "a.safetensors", random_values("openai", v)))
    assert found.numbers == v and found.config().model.variant == "ViT-test"
    r = dataclasses.replace(RN, image_size=96)
    found = open_checkpoint(save(tmp_path / "b.safetensors", random_values("open_clip_text", r)))
    assert found.numbers == r and found.config().model.variant == "RN-test"
    assert found.origin.format == "open_clip_text"


def test_of_two_variants_that_differ_in_picture_size_alone_the_right_one_is_named(tmp_path):
    for name in ("ViT-32px/8", "ViT-64px/8"):
        path = save(tmp_path / "a.safetensors", random_values("openai", VARIANTS[name]))
        assert open_checkpoint(path).config().model.variant == name


def test_the_order_of_the_modules_tells_openai_from_open_clip(tmp_path):
    pytest.importorskip("torch")
    said = contract("ViT-test", VIT, "quick_gelu")
    for layout in ("openai", "open_clip"):
        path = tmp_path / f"{layout}.pt"
        write_checkpoint(path, layout, layout, random_values(layout, VIT), None, said, VIT)
        assert open_checkpoint(path).origin.format == layout


def huggingface(folder, config=None, more=None, v=VIT):
    values = random_values("huggingface", v) | (more or {})
    said = contract("ViT-test", v, "gelu")
    write_checkpoint(folder, "huggingface", "huggingface", values, None, said, v)
    if config:
        content = json.loads((folder / "config.json").read_text())
        for tower, changes in config.items():
            content[tower] |= changes
        (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_names_in_alphabetical_order_do_not_tell_whose_they_are(tmp_path):
    """A .safetensors of open_clip's that was read and saved as .pt is no model of OpenAI's."""
    torch = pytest.importorskip("torch")
    tensors = sorted(random_values("open_clip", VIT).items())
    torch.save({name: torch.from_numpy(x) for name, x in tensors}, tmp_path / "a.pt")
    found = open_checkpoint(tmp_path / "a.pt")
    assert found.origin.format == "open_clip" and found.activation == "gelu"
    assert any("gelu" in note.lower() for note in found.notes)
    found = open_checkpoint(tmp_path / "a.pt", format="openai")
    assert found.origin.format == "openai" and found.activation == "quick_gelu"


def test_the_activation_is_the_flags_the_files_or_the_usual_one(tmp_path):
    folder = huggingface(tmp_path / "hf")
    found = open_checkpoint(folder)
    assert (found.activation, found.chosen) == ("gelu", "as its config.json says")
    found = open_checkpoint(folder / "model.safetensors")
    assert found.activation == "gelu"
    found = open_checkpoint(folder, activation="quick_gelu")
    assert (found.activation, found.chosen) == ("quick_gelu", "as given")
    said = contract("ViT-test", VIT, "gelu")
    values = random_values("open_clip", VIT)
    write_checkpoint(tmp_path / "oc", "open_clip", "open_clip", values, None, said, VIT)
    found = open_checkpoint(tmp_path / "oc")
    assert (found.activation, found.chosen) == ("gelu", "as its open_clip_config.json says")
    write_checkpoint(tmp_path / "a.safetensors", "openai", "openai", values, None, said, VIT)
    found = open_checkpoint(tmp_path / "a.safetensors")
    assert (found.activation, found.chosen) == ("gelu", "as its note says")
    found = open_checkpoint(save(tmp_path / "b.safetensors", values))
    assert found.activation == "gelu" and "the usual one of open_clip" in found.chosen
    assert "nothing says which activation it was trained with: gelu" in found.notes[0]


def test_position_ids_and_sizes_are_accounted_for_and_kept(tmp_path):
    ids = {
        "text_model.embeddings.position_ids": np.arange(16)[None],
        "vision_model.embeddings.position_ids": np.arange(17)[None],
    }
    found = open_checkpoint(huggingface(tmp_path / "hf", more=ids))
    back = to_tensors("huggingface", VIT, found.variables(), found.origin)
    assert list(back) == list(found.tensors)
    assert all(back[name].tobytes() == x.tobytes() for name, x in found.tensors.items())
    with pytest.raises(UserError, match=r"text_model\.embeddings\.position_ids is not 0, 1, 2"):
        open_checkpoint(
            huggingface(tmp_path / "b", more={next(iter(ids)): np.arange(16)[None] + 1})
        )
    sizes = {"input_resolution": np.asarray(32), "vocab_size": np.asarray(301)}
    path = save(tmp_path / "a.safetensors", random_values("openai", VIT) | sizes)
    with pytest.raises(UserError, match="vocab_size is 301, not 300"):
        open_checkpoint(path)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "a.safetensors"

    def refused(message, v=VIT, **changes):
        values = random_values("openai", v)
        for name, change in changes.items():
            name = name.replace("__", ".")
            if change is None:
                del values[name]
            else:
                values[name] = change
        with pytest.raises(UserError, match=message) as caught:
            open_checkpoint(save(path, values))
        assert "\n" not in str(caught.value)

    ones = np.ones((64, 49), np.float32)
    refused(r"is no whole CLIP: visual\.proj is 64 x 49, not 64 x 48", visual__proj=ones)
    refused(r"is no whole CLIP: ln_final\.bias is missing", ln_final__bias=None)
    refused(r"is no whole CLIP: extra is left over", extra=ones)
    refused(
        r"is no whole CLIP: visual\.bn2\.running_var is missing",
        v=RN,
        visual__bn2__running_var=None,
    )
    refused(r"ln_final\.bias is of type int64", ln_final__bias=np.arange(64))
    refused(
        r"visual\.bn1\.num_batches_tracked is of type",
        v=RN,
        visual__bn1__num_batches_tracked=np.asarray(1, np.float32),
    )
    # 18 rows are no square and a class token.
    rows = np.ones((18, 64), np.float32)
    refused("18 x 64, not 17 x 64", visual__positional_embedding=rows)
    refused(r"visual\.proj is 64, as no CLIP|is no whole CLIP", visual__proj=ones[:, 0])
    refused(r"text_projection is 64, as no CLIP has it", text_projection=ones[:, 0])
    refused("leave no room for a start", token_embedding__weight=np.ones((1, 64), np.float32))
    refused("is a SigLIP model", logit_bias=np.ones(()))
    refused(r"is a tower with layer scale \(", transformer__resblocks__0__ls_1__gamma=ones)


def test_files_of_something_else_are_refused(tmp_path):
    path = save(tmp_path / "a.safetensors", {"layer.weight": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"holds no CLIP .*its tensors are layer\.weight"):
        open_checkpoint(path)
    with pytest.raises(UserError, match=r"there is no .*absent\.pt"):
        open_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="holds no weights of a Hugging Face or open_clip model"):
        open_checkpoint(tmp_path)
    path = save(tmp_path / "b.safetensors", random_values("huggingface", VIT))
    with pytest.raises(UserError, match="is no openai checkpoint: its names are those of hugging"):
        open_checkpoint(path, format="openai")


def test_nan_is_named(tmp_path):
    values = random_values("openai", VIT)
    values["ln_final.weight"][3] = np.nan
    values["visual.proj"] = values["visual.proj"].astype(np.float16)
    found = open_checkpoint(save(tmp_path / "a.safetensors", values))
    with pytest.raises(UserError, match=r"a\.safetensors: ln_final\.weight holds 1 values"):
        found.variables()


def test_a_config_that_means_another_model_is_refused(tmp_path):
    folder = huggingface(tmp_path / "hf", config={"text_config": {"hidden_size": 128}})
    with pytest.raises(UserError, match="says text width 128, and the tensors have 64"):
        open_checkpoint(folder)


def test_shards_are_read_as_one(tmp_path):
    folder = huggingface(tmp_path / "hf")
    values = random_values("huggingface", VIT)
    names = list(values)
    table = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(table.values()):
        save(folder / shard, {n: values[n] for n in names if table[n] == shard})
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    found = open_checkpoint(folder)
    assert all(found.tensors[name].tobytes() == x.tobytes() for name, x in values.items())
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"names files that are not there: model-1\.safetensors"):
        open_checkpoint(folder)


def test_a_workdir_is_no_torch_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    assert not is_torch_checkpoint(tmp_path) and not is_torch_checkpoint(tmp_path / "absent")
    assert is_torch_checkpoint(tmp_path / "absent.pt") and is_torch_checkpoint(
        huggingface(tmp_path / "hf")
    )
