import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.data.shards.beam import make_shard, on_runner
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.packing import make_plan, prepare
from cleanclip_jax.data.shards.runners import in_processes
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError

DIRECT = "DirectRunner"


@pytest.fixture
def beam() -> Iterator[None]:
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install apache-beam")
    yield
    # Beam's workers leave handlers on the root logger.
    logging.getLogger().handlers[:] = [
        handler
        for handler in logging.getLogger().handlers
        if "apache_beam" not in type(handler).__module__
    ]


@pytest.fixture
def config(write_csv: Callable) -> dict:
    path = write_csv(30, missing=[4], silent=[20])
    return {"kind": "csv", "path": str(path), "class_name": "animal"}


def make(config: dict, output: str, options: Sequence[str] = (), share: float = 0.5) -> dict:
    source = open_source(config)
    run = on_runner(config, DIRECT, options)
    return prepare(make_plan(source, 3), source.class_names, Output(output), share, run)


@pytest.mark.filterwarnings("default")  # Beam's
@pytest.mark.parametrize("options", [(), ("direct_running_mode=multi_threading",)])
def test_a_runner_writes_what_the_processes_write(
    beam: None, config: dict, tmp_path: Path, options: Sequence[str]
):
    assert make(config, str(tmp_path / "beam"), options)["bad_rows"] == 2
    source = open_source(config)
    run = in_processes(source, 1)
    prepare(make_plan(source, 3), source.class_names, Output(str(tmp_path / "pool")), 0.5, run)
    written = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("beam", "pool")
    ]
    assert len(written[0]) == 6 and written[0] == written[1]


@pytest.mark.filterwarnings("default")
def test_a_runner_writes_to_a_store(beam: None, config: dict):
    make(config, "memory://beam/pairs")
    assert len(open_arrayrecord("memory://beam/pairs")) == 28


@pytest.mark.filterwarnings("default")
def test_what_goes_wrong_is_one_line(beam: None, config: dict, tmp_path: Path):
    with pytest.raises(UserError, match="2 unreadable rows, more than the 0 of 30"):
        make(config, str(tmp_path / "out"), share=0)
    with pytest.raises(UserError, match=r"refuses an option: argument --direct_num_workers"):
        make(config, str(tmp_path / "out"), ["direct_num_workers=many"])
    source = open_source(config)
    with pytest.raises(UserError, match=r"Walker: the pipeline failed .*Unexpected"):
        run = on_runner(config, "Walker", [])
        prepare(make_plan(source, 2), None, Output(str(tmp_path / "new")), 0.5, run)


def test_a_worker_that_finds_another_dataset_says_so(
    config: dict, write_csv: Callable, tmp_path: Path
):
    plan = make_plan(open_source(config), 3)
    output = Output(str(tmp_path / "out"))
    assert make_shard(json.dumps(config), plan, output, 1) == 1
    other = {"kind": "csv", "path": str(write_csv(30, "other.csv"))}
    with pytest.raises(UserError, match=r"a worker finds another dataset .*other.csv"):
        make_shard(json.dumps(other), plan, output, 1)


def test_without_beam_it_is_one_line(config: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'cleanclip-jax\[beam\]'"):
        on_runner(config, DIRECT, [])
