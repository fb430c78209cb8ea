"""Parquet files that unpack to more than anyone has: refused, with no memory taken."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanclip_jax import parquet
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import read_ids
from cleanclip_jax.errors import UserError


def zeros(path: Path, size: int, rows: int, dictionary: bool = False) -> Path:
    """A file of so many pictures that are `size` zeros, each in it or one for all."""
    pictures = pa.array([bytes(size)] * rows, pa.large_binary())
    table = pa.table({"image": pictures, "caption": ["x"] * rows})
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=dictionary,
        dictionary_pagesize_limit=1 << 30,
    )
    return path


def test_a_table_is_the_whole_file():
    table = pa.table({"id": np.arange(3000), "text": [str(i) for i in range(3000)]})
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"a": "b"}), stream, row_group_size=700)
    for columns in (None, ["id"]):
        read = parquet.read_table(stream, columns)
        wanted = pq.read_table(stream, columns=columns)
        assert read.equals(wanted) and read.schema.metadata == wanted.schema.metadata


def test_what_unpacks_to_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = zeros(tmp_path / "a.parquet", 1 << 12, 512)
    options = {"kind": "parquet", "path": str(path)}
    assert len(open_source(options)) == 512
    monkeypatch.setattr(parquet, "MOST_PACKED", 1 << 20)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    for read in (
        lambda: open_source({**options, "rows": 3}),
        lambda: parquet.read_table(io.BytesIO(path.read_bytes())),
    ):
        with pytest.raises((UserError, ValueError), match=r"would unpack from .* to 2,"):
            read()
    with pytest.raises(UserError, match="no poison plan"):
        Plan.load(path)
    source = open_source({"kind": "digits"})
    with pytest.raises(UserError, match="would unpack"):
        read_ids(path, source)


def test_one_value_for_many_rows_comes_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = zeros(tmp_path / "a.parquet", 1 << 14, 1500, dictionary=True)
    assert path.stat().st_size < 4096
    monkeypatch.setattr(parquet, "MOST_BATCH", 1 << 23)
    with pq.ParquetFile(path) as file:
        batch = next(parquet.batches(file, path.stat().st_size, ["image"]))
    assert 100 < len(batch) <= 512


def test_a_table_of_too_much_is_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = zeros(tmp_path / "a.parquet", 1 << 12, 4096, dictionary=True)
    monkeypatch.setattr(parquet, "MOST_TABLE", 1 << 23)
    with pytest.raises(ValueError, match="it takes more than"):
        parquet.read_table(io.BytesIO(path.read_bytes()))


READ = """
import resource, sys
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
try:
    print(len(open_source({"kind": "parquet", "path": sys.argv[1]})))
except UserError as error:
    print(error)
print([line.split()[1] for line in open("/proc/self/status") if "VmHWM" in line][0])
"""


@pytest.mark.faults
@pytest.mark.parametrize("place", ["footer", "page"])
def test_a_header_that_lies_is_one_line_or_rows(place: str, tmp_path: Path):
    """The footer says that little is unpacked, or a page says that it is two gigabytes."""
    rows = 140 if place == "footer" else 100  # more than is allowed, or less
    path = zeros(tmp_path / "a.parquet", 1 << 22, rows)
    size = rows * ((1 << 22) + 4)
    with pq.ParquetFile(path) as file:
        true = file.metadata.row_group(0).column(0).total_uncompressed_size
    assert size <= true < size + 2000
    data = path.read_bytes()
    words = [varint(2 * value) for value in range(true - 100, true + 1)]
    at = [(data.find(word), word) for word in words]
    assert all(len(word) == 5 for word in words)
    first, last = min(i for i, _ in at if i >= 0), max(data.rfind(word) for word in words)
    lie = b"\xfe\xff\xff\xff\x0f" if place == "page" else b"\x80\x88\x80\x80\x00"
    where = first if place == "page" else last
    assert first < len(data) // 2 < last
    path.write_bytes(data[:where] + lie + data[where + 5 :])
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2, done.stderr[-500:]
    assert lines[0] == "140" if place == "footer" else "unreadable as parquet" in lines[0], lines
    assert int(lines[1]) >> 10 < 2048, lines  # MiB


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
