"""Files of torch.save and TorchScript: read without torch and without running anything in them."""

import argparse
import json
import sys
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers.torch_files import KINDS, tensors_of

import cleanclip_jax
from cleanclip_jax.errors import UserError
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.recognise import name_of
from cleanclip_jax.start.torch.torch_file import NOTE, read_torch_file
from cleanclip_jax.start.torch.write import write_torch_file

VALUES = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "half": np.array([1, 1 / 3, -0.0, 6e-8], np.float16),
    "bf": np.array([1, 1 / 3], ml_dtypes.bfloat16),
    "scale": np.asarray(2.5, np.float32),
    "count": np.asarray(7, np.int64),
}


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape), name
        assert found[name].tobytes() == values.tobytes(), name


def test_a_file_of_torch_comes_back_in_order_with_its_note(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    write_torch_file(path, {"epoch": 3, "state_dict": VALUES}, {"activation": "gelu"})
    content, note = read_torch_file(path)
    assert content["epoch"] == 3 and note == {"activation": "gelu"}
    assert list(content["state_dict"]) == list(VALUES)
    same(content["state_dict"], VALUES)
    # The note is in nobody's way.
    theirs = torch.load(path, weights_only=True)["state_dict"]
    assert theirs["bf"].dtype == torch.bfloat16 and theirs["count"].item() == 7
    assert all(x.is_contiguous() for x in theirs.values())
    with zipfile.ZipFile(path) as records:
        assert records.testzip() is None
        assert any(name.endswith(NOTE) for name in records.namelist())


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before 1.6"])
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path, base = tmp_path / "a.pt", torch.arange(24.0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    state = {
        **module.state_dict(),  # an OrderedDict with the versions of its modules
        "view": base[4:16].reshape(3, 4).T,
        "whole": base,
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "empty": torch.zeros(0, 3),
        "truth": torch.tensor([True, False]),
    }
    more = {"optimizer": optimizer.state_dict(), "size": torch.Size([2]), "kind": torch.float16}
    torch.save({"epoch": 3, "state_dict": state, **more}, path, **zipped_as(zipped))
    content, note = read_torch_file(path)
    assert note == {} and list(content) == ["epoch", "state_dict", *more]
    assert list(content["state_dict"]) == list(state)
    for name, x in state.items():
        found = content["state_dict"][name]
        assert str(found.dtype) == str(x.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(found.astype(np.float64), x.detach().double().numpy())
    torch.save(module.state_dict(), path, **zipped_as(zipped))
    same(read_torch_file(path)[0], {n: x.numpy() for n, x in module.state_dict().items()})


def zipped_as(zipped):
    return {"_use_new_zipfile_serialization": zipped}


def test_damaged_and_strange_files_are_one_line(tmp_path):
    torch = pytest.importorskip("torch")
    whole, path = tmp_path / "whole.pt", tmp_path / "bad.pt"
    torch.save({"a": torch.arange(3000)}, whole)
    data = whole.read_bytes()
    old = tmp_path / "old.pt"
    torch.save({"a": torch.arange(3000)}, old, **zipped_as(False))
    for content, message in (
        (data[: len(data) // 2], "cut short or damaged"),
        (b"PK\x03\x04nothing", "cut short or damaged"),
        (b"a text file\n" * 9, "no checkpoint of PyTorch, or damaged"),
        (b"", "no checkpoint of PyTorch, or damaged"),
        (b"\x80\x02", "no checkpoint of PyTorch, or damaged"),
        (old.read_bytes()[:-9], "no checkpoint of PyTorch, or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_torch_file(path)
        assert "\n" not in str(caught.value)
    torch.save([torch.arange(3)], path)
    with pytest.raises(UserError, match="holds a list, not tensors by name"):
        read_torch_file(path)
    for tensor, message in (
        (torch.eye(3).to_sparse(), "sparse, quantised or nested tensor"),
        (torch.zeros(2, dtype=torch.complex64), "a is of type torch.ComplexFloatStorage, which"),
        (torch._neg_view(torch.ones(2)), "to be negated or conjugated .*neg.*: save it as it is"),
    ):
        torch.save({"a": tensor}, path)
        with pytest.raises(UserError, match=message):
            read_torch_file(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before 1.6"])
def test_what_a_training_program_saves_beside_tensors_is_read_as_data(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    beside = {
        "epoch": np.int64(7),
        "loss": np.float32(0.5),
        "args": argparse.Namespace(lr=1e-3, layers=[1, 2]),
        "counts": defaultdict(list, {"a": [1]}),
        "generator": np.random.RandomState(0).get_state(),
        "kinds": {1, 2},
        "place": Path("a"),
    }
    torch.save(
        {"state_dict": defaultdict(int, a=torch.ones(2)), **beside}, path, **zipped_as(zipped)
    )
    content, _ = read_torch_file(path)
    assert (content["epoch"], content["loss"]) == (7, 0.5) and content["counts"] == {"a": [1]}
    same(content["state_dict"], {"a": np.ones(2, np.float32)})


def test_a_flipped_bit_of_an_archive_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.from_numpy(VALUES["b.weight"])}, path)
    data = bytearray(path.read_bytes())
    place = data.index(VALUES["b.weight"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged: .* is not what its CRC32 says: copy it anew"):
        read_torch_file(path)


class Scripted:
    """Makes TorchScript archives of a golden model's tensors, under OpenAI's names."""

    @staticmethod
    def module(torch, tensors):
        """A module with these tensors, in a tree of modules; it computes something of its own."""

        class Node(torch.nn.Module):
            def forward(self, x):
                return x + 1

        top = Node()
        for name, x in tensors.items():
            *parents, last = name.split(".")
            node = top
            for part in parents:
                if part not in node._modules:
                    node.add_module(part, Node())
                node = node._modules[part]
            if x.is_floating_point() and not last.startswith("running_"):
                node.register_parameter(last, torch.nn.Parameter(x))
            else:
                node.register_buffer(last, x)
        return top

    @staticmethod
    def save(torch, module, path, how):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if how == "trace":
                torch.jit.trace(module.eval(), torch.ones(2)).save(str(path))
            else:
                torch.jit.script(module.eval()).save(str(path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_archive_is_read_as_its_state_dict(golden, tmp_path, kind, how):
    """As OpenAI's: matrices in half precision, sizes beside the weights; no code of it is run."""
    torch = pytest.importorskip("torch")
    tensors = tensors_of(golden(f"{kind}_state_dict"))
    tensors = {n: x.half() if x.ndim > 1 else x for n, x in tensors.items()}
    sizes = {"input_resolution": 32 if kind == "vit" else 64, "context_length": 16}
    tensors |= {n: torch.tensor(x) for n, x in {**sizes, "vocab_size": 300}.items()}
    path = tmp_path / "ViT-B-32.pt"
    Scripted.save(torch, Scripted.module(torch, tensors), path, how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        wanted = torch.jit.load(path).state_dict()
    found, _ = read_torch_file(path)
    assert list(found) == list(wanted)
    same(found, {name: x.detach().numpy() for name, x in wanted.items()})
    checkpoint = open_checkpoint(path)
    assert (name_of(checkpoint.numbers), checkpoint.origin.format) == (KINDS[kind], "openai")
    assert checkpoint.origin.tensors["vocab_size"] == "int64"
    if how == "trace" and kind == "vit":
        model, variables = cleanclip_jax.load(path)
        projection = tensors["text_projection"].float().numpy()
        np.testing.assert_array_equal(variables["params"]["text"]["projection"], projection)
        assert model.variant.vocab_size == 300


def test_a_torchscript_archives_other_tensors_are_no_state(tmp_path):
    torch = pytest.importorskip("torch")
    module = Scripted.module(torch, {"a.weight": torch.ones(2, 3)})
    module.mask = torch.zeros(4)  # an attribute, as OpenAI's attention masks
    Scripted.save(torch, module, tmp_path / "a.pt", "script")
    assert list(read_torch_file(tmp_path / "a.pt")[0]) == ["a.weight"]


def test_torch_is_needed_to_write_a_pt_file_alone(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    write_torch_file(tmp_path / "a.pt", VALUES, {"b": json.dumps(1)})
    monkeypatch.setitem(sys.modules, "torch", None)
    same(read_torch_file(tmp_path / "a.pt")[0], VALUES)
    with pytest.raises(UserError, match=r"needs PyTorch: pip install 'cleanclip-jax\[torch\]'"):
        write_torch_file(tmp_path / "b.pt", VALUES, {})
