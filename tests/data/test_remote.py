"""Sources at addresses that fsspec opens, here a server on this machine and memory."""

import hashlib
import io
import pickle
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.streams import stream_of

from cleanclip_jax.data.paths import digests
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.views.decode import BadRecord

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path, write_csv: Callable, png: Callable[[int], bytes]) -> Path:
    """Pairs as CSV, parquet, a tar and class folders; pictures beside the CSV."""
    folder = write_csv(COUNT).parent
    captions = [f"one{i} two{i} three{i} four{i}" for i in range(COUNT)]
    pictures = [png(i) for i in range(COUNT)]
    for shard, half in enumerate((slice(0, 7), slice(7, COUNT))):
        columns = {"image": pictures[half], "caption": captions[half]}
        pq.write_table(pa.table(columns), folder / f"{shard}.parquet")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i in range(COUNT):
            for ending, data in (("png", pictures[i]), ("txt", captions[i].encode())):
                about = tarfile.TarInfo(f"{i:05d}.{ending}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    for i in range(COUNT):
        file = folder / f"classes/{('cat', 'dog')[i >= 6]}/{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pictures[i])
    return folder


class Handler(BaseHTTPRequestHandler):
    """Files of a folder, whole or in part, with a checksum: what stores give."""

    def __init__(self, folder: Path, *arguments: Any):
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        file = self.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(403 if "secret" in self.path else 404)
            return
        data = whole = file.read_bytes()
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            data = data[int(part[1]) : int(part[2]) + 1 if part[2] else None]
            self.send_response(206)
            end = int(part[1]) + len(data) - 1
            self.send_header("Content-Range", f"bytes {part[1]}-{end}/{len(whole)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(whole).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folder))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/pairs", recursive=True)
    yield "memory://pairs"
    store.rm("/pairs", recursive=True)


def configs(place: str) -> dict[str, dict[str, Any]]:
    return {
        "csv": {"kind": "csv", "path": f"{place}/pairs.csv"},
        "parquet": {"kind": "parquet", "path": f"{place}/{{0,1}}.parquet"},
        "webdataset": {"kind": "webdataset", "path": f"{place}/0.tar"},
    }


def pairs(source: Source) -> list[tuple[Any, str, int]]:
    return [(r.image, r.caption, r.label) for r in map(source.__getitem__, range(len(source)))]


@pytest.mark.parametrize("kind", ["csv", "parquet", "webdataset"])
@pytest.mark.parametrize("place", ["server", "memory"])
def test_remote_pairs_are_those_of_the_files(
    folder: Path, kind: str, place: str, request: pytest.FixtureRequest
):
    config = configs(request.getfixturevalue(place))[kind]
    source = open_source(config)
    assert pairs(source) == pairs(open_source(configs(str(folder))[kind]))
    assert len(source) == COUNT and source.where(0).startswith(("pairs.csv", "0."))
    assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_a_stores_checksum_spares_reading(server: str):
    assert digests([f"{server}/0.tar"])[0].startswith("ETag")


def test_patterns_and_folders_are_listed(folder: Path, memory: str):
    for path in ("", "/*.parquet", "/?.parquet"):
        assert len(open_source({"kind": "parquet", "path": memory + path})) == COUNT
    source, here = (
        open_source({"kind": "folder", "path": f"{place}/classes"}) for place in (memory, folder)
    )
    assert pairs(source) == pairs(here) and source.fingerprint == here.fingerprint
    assert source.class_names == ("cat", "dog") and source.where(7) == "classes dog/07.png"


def test_local_rows_may_name_remote_pictures(server: str, folder: Path, tmp_path: Path):
    table = tmp_path / "links.csv"
    table.write_text(f"image,caption\n{server}/3.png,one\n{server}/gone.png,two\n4.png,three\n")
    source = open_source({"kind": "csv", "path": str(table), "root": server})
    assert source[0].image == (folder / "3.png").read_bytes()
    assert source[2].image == (folder / "4.png").read_bytes()
    with pytest.raises(BadRecord, match=r"links.csv row 2: image http.*/gone.png: No such file"):
        source[1]


@pytest.mark.slow
def test_workers_read_remote_pairs(server: str, folder: Path):
    """They are started anew, and open what they need themselves."""
    sources = [
        open_source({"kind": "mixture", "sources": configs(place)})
        for place in (server, str(folder))
    ]
    tokenizer = Tokenizer.train([sources[0].caption(i) for i in range(COUNT)], 400, 16)
    options: Any = {"image_size": 16, "batch_size": 9, "seed": 0}
    remote = stream_of(sources[0], tokenizer, workers=1, **options)
    with remote, stream_of(sources[1], tokenizer, **options) as here:
        for a, b in islice(zip(remote, here, strict=True), 4):
            assert (a["bad"] == -1).all()
            assert all(np.array_equal(a[key], b[key]) for key in ("images", "tokens", "index"))


@pytest.mark.parametrize("place", ["server", "memory"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "webdataset"])
def test_another_content_of_a_remote_file_changes_the_fingerprint(
    kind: str, place: str, folder: Path, request: pytest.FixtureRequest
):
    config = configs(request.getfixturevalue(place))[kind]
    seen = {open_source(config).fingerprint, open_source(config).fingerprint}
    name = {"csv": "pairs.csv", "parquet": "1.parquet", "webdataset": "0.tar"}[kind]
    data = (folder / name).read_bytes()
    if kind == "csv":
        data = data.replace(b"two5", b"too5")
    else:
        data = data.replace(b"IDAT", b"IDAX", 1)
        assert data != (folder / name).read_bytes()
    (folder / name).write_bytes(data)
    if place == "memory":
        fsspec.filesystem("memory").pipe(f"/pairs/{name}", data)
    seen.add(open_source(config).fingerprint)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere.csv", r"/nowhere.csv: No such file; check the data's path"),
        ("/secret.csv", "/secret.csv: the server answers 403"),
    ],
)
def test_a_missing_remote_file_is_one_line(server: str, path: str, message: str):
    with pytest.raises(UserError, match=message) as error:
        open_source({"kind": "csv", "path": server + path})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "csv", "path": "memory://nowhere/a.csv"}, "a.csv: No such file"),
        ({"kind": "parquet", "path": "memory://nowhere/*.parquet"}, "no .parquet file there"),
        ({"kind": "folder", "path": "memory://nowhere"}, "nowhere: No such folder"),
        ({"kind": "csv", "path": "gopher://host/a.csv"}, "a.csv: ValueError: .*gopher"),
    ],
)
def test_a_mistake_is_one_line(config: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        open_source(config)
    assert "\n" not in str(error.value)
