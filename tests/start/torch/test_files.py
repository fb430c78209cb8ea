"""Checkpoint files: read without running anything, checked against their own programs."""

import json
import os
import pickle
import struct
import sys
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.torch.pickle_file import NOTE, read_torch_file, write_torch_file
from cleanclip_jax.start.torch.safetensors_file import (
    looks_like_safetensors,
    read_safetensors,
    write_safetensors,
)

VALUES = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "half": np.array([1, 1 / 3, -0.0, 6e-8], np.float16),
    "bf": np.array([1, 1 / 3], ml_dtypes.bfloat16),
    "scale": np.asarray(2.5, np.float32),
    "count": np.asarray(7, np.int64),
}


class Trap:
    """What its pickle does when it is loaded the ordinary way."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


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


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    mark, path = tmp_path / "was-run", tmp_path / "trap.pt"
    torch.save({"a": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"wants to run code when it is read \(.*mkdir\): refused"):
        read_torch_file(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert mark.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    pytest.importorskip("torch")
    mark, path = tmp_path / "was-run", tmp_path / "trap.pt"
    path.write_bytes(pickle.dumps({"a": Trap(mark)}, protocol=2))
    with pytest.raises(UserError, match=r"trap\.pt"):
        read_torch_file(path)
    assert not mark.exists()


def test_files_of_before_the_archives_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "old.pt"
    torch.save({"a": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_torch_file(path)[0]["a"], [0, 1, 2])


def test_damaged_and_foreign_files_are_one_line(tmp_path):
    torch = pytest.importorskip("torch")
    whole, path = tmp_path / "whole.pt", tmp_path / "bad.pt"
    torch.save({"a": torch.arange(3000)}, whole)
    data = whole.read_bytes()
    for content, message in (
        (data[: len(data) // 2], "cut short or damaged"),
        (b"PK\x03\x04nothing", "cut short or damaged"),
        (b"a text file\n" * 9, "no checkpoint of PyTorch, or damaged"),
        (b"", "no checkpoint of PyTorch, or damaged"),
        (b"\x80\x02", "no checkpoint of PyTorch, or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_torch_file(path)
        assert "\n" not in str(caught.value)
    torch.save([torch.arange(3)], path)
    with pytest.raises(UserError, match="holds a list, not tensors by name"):
        read_torch_file(path)


def test_a_torchscript_archive_only_when_allowed(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "scripted.pt"
    module = torch.nn.Linear(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, torch.zeros(1, 2)).save(str(path))
    with pytest.raises(UserError, match=r"loading it can run that program's code.*allow_torchscr"):
        read_torch_file(path)
    found, _ = read_torch_file(path, allow_torchscript=True)
    np.testing.assert_array_equal(found["weight"], module.weight.detach().numpy())


def test_safetensors_are_read_without_their_package_and_torch(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, VALUES, {"cleanclip": json.dumps({"a": 1})})
    assert looks_like_safetensors(path)
    found, metadata = read_safetensors(path)
    same(found, VALUES)
    assert metadata == {"format": "pt", "cleanclip": '{"a": 1}'}
    # Wider types first, and else in the order given.
    assert list(found) == ["count", "b.weight", "scale", "half", "bf"]


def test_safetensors_agree_with_their_own_package(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_safetensors(ours, VALUES, {})
    tensors = library.load_file(ours)
    assert tensors["bf"].dtype == torch.bfloat16
    library.save_file(tensors, theirs)
    same(read_safetensors(theirs)[0], VALUES)
    # What lies sorted as theirs is written as they would.
    write_safetensors(ours, read_safetensors(theirs)[0], {})
    assert list(read_safetensors(ours)[0]) == list(read_safetensors(theirs)[0])


def test_damaged_safetensors_are_one_line(tmp_path):
    path = tmp_path / "a.safetensors"

    def write(table, data=b"\0" * 8):
        header = table if isinstance(table, bytes) else json.dumps(table).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)

    good = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    write(good)
    assert read_safetensors(path)[0]["a"].shape == (2,)
    for table, data, message in (
        (good, b"\0" * 7, "its length is not what its table says"),
        (good, b"\0" * 9, "its length is not what its table says"),
        ({"a": {**good["a"], "shape": [3]}}, b"\0" * 8, "a lies elsewhere"),
        ({"a": {**good["a"], "data_offsets": [4, 12]}}, b"\0" * 12, "a lies elsewhere"),
        ({"a": {**good["a"], "dtype": "F8_E4M3"}}, b"\0" * 8, "a is of type F8_E4M3"),
        ({"a": {"dtype": "F32"}}, b"\0" * 8, "damaged"),
        (b"{nothing", b"", "damaged"),
    ):
        write(table, data)
        with pytest.raises(UserError, match=message) as caught:
            read_safetensors(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(struct.pack("<Q", 10**18) + b"{")
    assert not looks_like_safetensors(path)


def test_without_torch_a_pt_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs PyTorch: pip install 'cleanclip-jax\[torch\]'"):
        read_torch_file(tmp_path / "a.pt")
    write_safetensors(tmp_path / "a.safetensors", VALUES, {})
    same(read_safetensors(tmp_path / "a.safetensors")[0], VALUES)
