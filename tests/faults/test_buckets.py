"""Runs in buckets, at a local server of each protocol (make test-buckets, docs/launch.md)."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fault_runs import figures, finished, running, state, words
from helpers.processes import free_port, run, started
from helpers.small_run import FLAGS

from cleanclip_jax import cli
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.bucket import BucketPath
from cleanclip_jax.start.bucket_steps import BucketSteps
from cleanclip_jax.start.store import load_model, open_store
from cleanclip_jax.workdir import Workdir, workdir_path

pytestmark = [
    pytest.mark.faults,
    # Of gcsfs, which puts a file's bytes as they are.
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]

LONG = {"steps": 36, "every": 6}
SHARDED = {"mesh.data": 1, "mesh.fsdp": 2}


class Exact(BytesParser):
    """Reads gcsfs's uploads, whose parts end in a bare newline: the server's would lose an \\r."""

    def parsebytes(self, text: Any, headersonly: bool = False) -> Any:
        message: Any = super().parsebytes(text, headersonly)
        if message.get_content_type() == "multipart/related":
            content = text.rpartition(b"\n--==0==--")[0].split(b"\n\n", 2)[2]
            message.get_payload()[1].get_payload = lambda decode: content
        return message


@contextmanager
def gs() -> Iterator[dict[str, str]]:
    server = pytest.importorskip("gcp_storage_emulator.server")
    server.BytesParser = Exact
    port = free_port()
    running = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    running.start()
    yield {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        # gcsfs would ask Google itself for the bucket's type.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    running.stop()


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
    yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}
    server.stop()


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[BucketPath]:
    with (
        {"gs": gs, "s3": s3}[request.param]() as environment,
        pytest.MonkeyPatch.context() as patch,
    ):
        for key, value in {**environment, "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(key, value)
        if request.param == "s3":
            pytest.importorskip("s3fs").S3FileSystem().mkdir("bucket")
        yield BucketPath(f"{request.param}://bucket/runs")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a disk that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    finished(words(folder / "run", **LONG), folder / "log")
    return folder / "run"


def wait_for(moment: Any, seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < until, "the moment does not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def trained(bucket: BucketPath, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in a bucket, killed after a checkpoint and in the middle of the copy of one."""
    log = tmp_path_factory.mktemp("log") / "log"
    command, workdir = words(bucket / "poisoned", **LONG), bucket / "poisoned"
    steps = BucketSteps(workdir / "checkpoints")
    seen: list[int] = []
    for least, copying in ((1, False), (2, True)):
        with running(command, log) as process:
            wait_for(
                lambda least=least, copying=copying: (
                    (
                        len(os.listdir(log.parent))
                        and max(steps.steps(), default=0) >= 6 * least
                        and (not copying or steps.steps(finished=False))
                    )
                    or process.poll() is not None
                )
            )
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, log.read_text()
        seen += steps.steps()
        assert max(seen) < LONG["steps"]
    finished(command, log)
    steps.close()
    return workdir


def test_a_killed_run_ends_as_one_on_a_disk(trained: Path, whole: Path):
    assert state(trained) == state(whole)
    assert figures(trained) == figures(whole)
    assert Plan.load(trained / "poison.parquet").table == Plan.load(whole / "poison.parquet").table
    assert len(Workdir(trained).lines("starts.jsonl")) == 3
    with open_store(trained) as (step, store):
        assert step == LONG["steps"] and store.steps == [30, 36]


def test_every_job_works_in_a_bucket(trained: Path, bucket: BucketPath, tmp_path: Path):
    def job(*arguments: str) -> None:
        assert cli.run(arguments[0], arguments[1:]) == (0, True)

    job("evaluate", f"--workdir={trained}", "--config.evaluation.projection=20")
    start = f"--config.start={trained}"
    job("train", "--config=configs/demo.py:cleanclip", start, *FLAGS, f"--workdir={bucket}/clean")
    sweep = [f"--workdir={bucket}/sweep", "--over=seed=1,2", "--every=1"]
    job("sweep", "--config=configs/demo.py:mmcl", start, *FLAGS, *sweep)
    job("evaluate", f"--workdir={bucket}/clean", "--floor=start")
    job("report", str(trained), f"{bucket}/clean", f"--output={bucket}/report")
    job("report", f"{bucket}/sweep")
    for place in ("sweep/report", "report"):
        assert (bucket / place / "report.html").read_text().startswith("<!doctype html>")
    assert len(Workdir(bucket / "sweep").read_json("sweep.json")["runs"]) == 2
    # Out to a disk and to the bucket, and in from both.
    job("convert", str(trained), str(tmp_path / "out.pt"))
    job("convert", str(trained), f"{bucket}/hub", "--format=huggingface")
    job("convert", str(tmp_path / "out.pt"), f"{bucket}/from-disk")
    job("convert", f"{bucket}/hub", str(tmp_path / "from-bucket"))
    assert state_of_model(bucket / "from-disk") == state_of_model(tmp_path / "from-bucket")


def state_of_model(workdir: Path) -> dict[str, bytes]:
    with open_store(workdir) as (_, store):
        tree = store.saved("model")
    import jax

    found = load_model(workdir, tree)[1]
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def test_processes_with_parts_of_the_state_save_and_resume(bucket: BucketPath, tmp_path: Path):
    """Each has half of every matrix; told to leave in the middle, all save together."""
    steps = {"steps": 60, "every": 20, **SHARDED}
    assert run(2, words(tmp_path / "run", **steps), tmp_path / "disk") == [0, 0]
    workdir = bucket / "two"
    with started(2, words(workdir, **steps), tmp_path / "logs") as processes:
        wait_for(lambda: BucketSteps(workdir / "checkpoints").steps() or processes[0].poll())
        processes[1].terminate()
        codes = [process.wait(timeout=100) for process in processes]
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert codes == [75, 75], logs
    assert run(2, words(workdir, **steps), tmp_path / "again") == [0, 0]
    assert state(workdir) == state(tmp_path / "run")
    assert figures(workdir) == figures(tmp_path / "run")


def test_a_bucket_that_is_not_there_is_one_line(bucket: BucketPath, capsys: Any):
    place = str(bucket).replace("bucket", "nobucket")
    assert cli.run("train", words(workdir_path(place), 2, 2)[1:]) == (2, False)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"cleanclip: {place}/config.json can't be written: No such file or bucket"
    )
