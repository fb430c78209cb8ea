"""Hostile files: nothing in them is run, and none takes more memory or time than a CLIP."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.torch.torch_file import read_torch_file


class Trap:
    """What its pickle does when it is loaded the ordinary way."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    mark, path = tmp_path / "was-run", tmp_path / "trap.pt"
    torch.save({"a": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"names .*mkdir, which would run when it is read: refused"):
        read_torch_file(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert mark.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    mark, path = tmp_path / "was-run", tmp_path / "trap.pt"
    path.write_bytes(pickle.dumps({"a": Trap(mark)}, protocol=2))
    with pytest.raises(UserError, match=r"trap\.pt"):
        read_torch_file(path)
    assert not mark.exists()


def archive(path: Path, pickled: bytes, records: dict[str, bytes], compress=zipfile.ZIP_STORED):
    """An archive as torch.save's, of any pickle."""
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, content in {"data.pkl": pickled, **records}.items():
            file.writestr(f"a/{name}", content)


def tensor_pickle(offset: str, shape: str, strides: str, count: int = 4) -> bytes:
    """The pickle of {'a': a tensor of storage '0'}, in the text opcodes of protocol 0."""
    storage = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{count}\ntQ"
    rebuilt = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}{offset}{shape}{strides}I00\nNtR"
    return f"(dS'a'\n{rebuilt}s.".encode()


def test_a_tensor_that_lies_outside_of_its_storage_is_refused(tmp_path):
    path, data = tmp_path / "a.pt", {"data/0": np.arange(4, dtype=np.float32).tobytes()}
    archive(path, tensor_pickle("I1\n", "(I3\nt", "(I1\nt"), data)
    np.testing.assert_array_equal(read_torch_file(path)[0]["a"], [1, 2, 3])
    for offset, shape, strides, count in (
        ("I1\n", "(I4\nt", "(I1\nt", 4),  # one too far
        ("I-1\n", "(I2\nt", "(I1\nt", 4),
        ("I3\n", "(I2\nt", "(I-1\nt", 4),
        ("I0\n", "(I5\nt", "(I1\nt", 5),  # the storage is shorter than the pickle says
        ("I0\n", "(I1000000000000\nt", "(I0\nt", 4),  # four numbers shown as a terabyte
        ("I0\n", "(F1.5\nt", "(I1\nt", 4),
        ("N", "(I2\nt", "(I1\nt", 4),
    ):
        archive(path, tensor_pickle(offset, shape, strides, count), data)
        with pytest.raises(UserError, match="or damaged") as caught:
            read_torch_file(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pickled",
    [
        b"cposix\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ctorch.serialization\nload\n(S'x'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(dS'x'\nI1\nsb.",  # an attribute of a function
        b"c__torch__\nM\n(dS'__setstate__'\nNsb.",  # of a class
        b"(dS'a'\nPposix\n.",
        b"ctorch._utils\n_rebuild_nested_tensor\n(NNNNtR.",
        b"(dS'a'\n(S'module'\nNNNNtQs.",
        b"ccollections\nOrderedDict\n(tR(dS'items'\nNsb.",  # harmless, and an empty state dict
        b"\x80\x05\x96" + (1 << 60).to_bytes(8, "little") + b".",  # so many bytes, it says
        b"N" + b"r" + b"\xff\xff\xff\xff" + b".",  # an index of the memo that takes 64 GiB in C
        b"(" * 100_000,
        b"}N" + b"\x85" * 1_000_000 + b"Ns.",  # a key whose hash is as deep as it is nested
        b"(N" + b"\x85" * 1_000_000 + b"\x91.",  # and an item of a set
        b"(" + b"(" * 5000 + b"l" * 5000 + b"l.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'abcdefgh'\ntR.",
    ],
)
def test_hostile_pickles_are_refused(tmp_path, pickled):
    path = tmp_path / "a.pt"
    archive(path, pickled, {})
    if b"OrderedDict" in pickled:
        assert read_torch_file(path) == ({}, {})
        return
    with pytest.raises(UserError, match=r"a\.pt") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)


def test_what_unpacks_to_more_than_a_clip_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    archive(path, b"\0" * (9 << 20), {})
    with pytest.raises(UserError, match=r"its data\.pkl is larger than any of a CLIP: refused"):
        read_torch_file(path)
    tensor, data = tensor_pickle("I0\n", "(I4\nt", "(I1\nt"), {"data/0": b"\0" * 16}
    archive(path, tensor, data, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is compressed, which torch's are not"):
        read_torch_file(path)
    archive(path, tensor, data)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/extra/cleanclip.json", b" " * (9 << 20))
    with pytest.raises(UserError, match="unpacks to more than any CLIP: refused"):
        read_torch_file(path)
    # Where the lengths lie, as 10 GB that say of themselves that they are 10 bytes.
    data = path.read_bytes().replace((9 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(UserError, match="CRC32"):
        read_torch_file(path)


@pytest.mark.parametrize("size", [12, 20])
def test_a_storage_is_as_long_as_the_pickle_says(tmp_path, size):
    path = tmp_path / "a.pt"
    archive(path, tensor_pickle("I0\n", "(I2\nt", "(I1\nt"), {"data/0": b"\0" * size})
    with pytest.raises(UserError, match=f"its storage has {size} bytes for 4 values"):
        read_torch_file(path)


def test_hostile_torchscript_archives_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    rest = {"constants.pkl": b"N.", "data/0": b"\0" * 16}
    code = {"code/__torch__.py": b'class M(Module):\n  __parameters__ = ["a", ]\n'}
    tensor = tensor_pickle("I0\n", "(I4\nt", "(I1\nt")[:-1]  # {'a': a tensor}
    archive(path, b"c__torch__\nM\n)\x81" + tensor + b"b.", rest | code)
    assert list(read_torch_file(path)[0]) == ["a"]
    # Its code is text: whatever stands there is not run.
    mark = tmp_path / "was-run"
    evil = {"code/__torch__.py": code["code/__torch__.py"] + f"open('{mark}', 'w')\n".encode()}
    archive(path, b"c__torch__\nM\n)\x81" + tensor + b"b.", rest | evil)
    assert list(read_torch_file(path)[0]) == ["a"] and not mark.exists()
    # A module that holds itself, and one whose 40 levels each hold the next one twice.
    itself = b"c__torch__\nM\n)\x81q\x00(dS'm'\nh\x00sb."
    doubled = b"c__torch__\nM\n)\x81(db" + b"".join(
        b"q%cc__torch__\nM\n)\x81(dS'm'\nh%csS'n'\nh%csb" % (i, i, i) for i in range(40)
    )
    for pickled in (itself, doubled + b"."):
        archive(path, pickled, rest)
        with pytest.raises(UserError, match="holds more than 100000 others: refused"):
            read_torch_file(path)
    archive(path, b"(dS'a'\nI1\ns.", rest)
    with pytest.raises(UserError, match="no checkpoint of PyTorch, or damaged"):
        read_torch_file(path)


def test_a_file_of_another_byte_order_is_refused(tmp_path):
    pickled = tensor_pickle("I0\n", "(I4\nt", "(I1\nt")
    archive(tmp_path / "a.pt", pickled, {"data/0": b"\0" * 16, "byteorder": b"big"})
    with pytest.raises(UserError, match="big-endian machine"):
        read_torch_file(tmp_path / "a.pt")
