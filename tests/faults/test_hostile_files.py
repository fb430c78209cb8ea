"""Hostile files: each is read, or refused in one line; nothing of it is run, and nothing is left.

HOSTILE_FILES=100000 and HOSTILE_SEED=7 in the environment make more, and others.
"""

import io
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import hostile
from helpers.pictures import Pictures
from helpers.torch_files import random_values
from helpers.variants import VIT

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import flatten, from_json
from cleanclip_jax.data.scores import read_scores, write_scores
from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.captions import open_captioned
from cleanclip_jax.report.runs import gather, measured_in_words, measured_on, read_run
from cleanclip_jax.report.sweeps import markdown
from cleanclip_jax.report.tables import as_text, table_of, values_of
from cleanclip_jax.run.recorder import BadRows, Recorder
from cleanclip_jax.start.digests import damage
from cleanclip_jax.start.head import load_head
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.origin import load_origin
from cleanclip_jax.text.classes import read_classes
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.workdir import INPUTS, MIX, Workdir

WORKDIRS = Path(__file__).parents[1] / "golden" / "workdirs"
MEMORY, SECONDS = 2 << 30, 60.0
SEED = int(os.environ.get("HOSTILE_SEED", "0"))
Write = Callable[[random.Random, Path], Any]
Read = Callable[[Path], Any]

FILES = int(os.environ.get("HOSTILE_FILES", "10000"))

TENSORS, HUGGING = (random_values(layout, VIT) for layout in ("openai", "huggingface"))
TOWER = {"intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
TOWER |= {"hidden_size": 64, "projection_dim": 48, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
TEXT = {**TOWER, "max_position_embeddings": 16, "vocab_size": 300, "eos_token_id": 299}
VISION = {**TOWER, "image_size": 32, "patch_size": 8, "num_channels": 3}
HF_CONFIG = {"model_type": "clip", "projection_dim": 48, "text_config": TEXT}
HF_CONFIG |= {"vision_config": VISION, "logit_scale_init_value": 2.6}
PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": 32}
TEXT_CFG = {"context_length": 16, "vocab_size": 300, "width": 64, "heads": 1, "layers": 2}
VISION_CFG = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 64}
MODEL_CFG = {"embed_dim": 48, "quick_gelu": True, "text_cfg": TEXT_CFG, "vision_cfg": VISION_CFG}
OPEN_CLIP = {"model_cfg": MODEL_CFG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
SHARD = {"name": "a-00000-of-00001.array_record", "records": 3, "bytes": 9, "sha256": "0" * 64}
PREPARED = {"version": 1, "fingerprint": "0", "class_names": ["a"], "records": 3, "bad_rows": 0}
PREPARED |= {"plan": {"rows": 3}, "index": {"bytes": 9, "sha256": "0"}, "shards": [SHARD]}
CLASSES = {"imagenet": {"classes": ["a", "b"], "templates": ["a {}."]}, "x": {"classes": ["c"]}}
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]}
COCO |= {"annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}]}
SPLIT = {"split": "test", "filename": "a.jpg", "filepath": "x", "sentences": [{"raw": "a"}]}
PAIRS = Pictures([f"picture {i}" for i in range(8)])
MIXED = {"from": {"path": "a", "step": 2, "digest": "0"}, "to": {"path": "b", "digest": "1"}}
MIXED |= {"statistics": {"fingerprint": "0", "pictures": 9, "seed": 0}, "alpha": 0.5}
DIGESTS = {"files": {"model/a": {"bytes": 3, "sha256": ["0" * 64]}}}


def golden(name: str) -> Any:
    path = WORKDIRS / name
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(path.read_text())


def read_checkpoint(folder: Path) -> None:
    there = [path for path in folder.iterdir() if path.name.startswith("a.")]
    checkpoint = open_checkpoint(there[0] if there else folder)
    _ = checkpoint.variables(), checkpoint.config(), checkpoint.describe()
    (folder / "out").mkdir()
    checkpoint.origin.save(folder / "out")
    assert load_origin(folder / "out") == checkpoint.origin
    shutil.rmtree(folder / "out")


def read_evaluation(folder: Path) -> None:
    run = read_run(folder)
    _ = measured_on(run), measured_in_words(run), as_text(run.evaluation), run.settings()
    _ = table_of([values_of(run.figures)]), run.method


def read_sweep(folder: Path) -> None:
    for sweep in gather([folder]).sweeps.values():
        _ = markdown(sweep), sweep.means(), sweep.curve()


def read_rows(folder: Path) -> None:
    workdir = Workdir(folder)
    try:
        BadRows(workdir, 0)(7, "a", "b")
        with Recorder(workdir, 2, 4, log_every=1, batch_size=16):
            (folder / "bad_rows.jsonl").unlink()
    finally:
        for aside in folder.glob("*.jsonl.bad"):  # lines that are no rows
            aside.unlink()


def in_file(name: str, make: Callable[[random.Random], bytes]) -> Write:
    return lambda rng, folder: (folder / name).write_bytes(make(rng))


def in_json(name: str, content: Any) -> Write:
    lines = name.endswith(".jsonl")
    change = hostile.changed_lines if lines else hostile.changed_text
    return in_file(name, lambda rng: change(rng, content))


def manifest(rng: random.Random) -> bytes:
    """A plan with its header or its bytes changed."""
    data = (WORKDIRS / "measured" / "poison.parquet").read_bytes()
    if rng.random() < 0.5:
        return hostile.changed_bytes(rng, data)
    plan = pq.read_table(io.BytesIO(data))
    header = json.loads(plan.schema.metadata[b"cleanclip_plan"])
    header = hostile.changed_text(rng, header)
    stream = io.BytesIO()
    pq.write_table(plan.replace_schema_metadata({"cleanclip_plan": header}), stream)
    return stream.getvalue()


def rows_file(rng: random.Random, folder: Path) -> None:
    name = rng.choice(("metrics.jsonl", "starts.jsonl", "bad_rows.jsonl"))
    bad = [{"index": i, "where": f"row {i}", "reason": "x"} for i in range(3)]
    content = bad if name.startswith("bad") else golden(f"measured/{name}")
    (folder / name).write_bytes(hostile.changed_lines(rng, content))


def scores_file(rng: random.Random, folder: Path) -> None:
    """Scores with their bytes changed, in any of the three forms."""
    path = folder / "scores.parquet"
    for old in folder.iterdir():
        old.unlink()
    if (ending := rng.choice(("parquet", "csv", "json"))) == "json":
        content = {"fingerprint": PAIRS.fingerprint, "ids": [0, 3, 1], "scores": [0.5, 1, -2.0]}
        path.with_suffix(".json").write_bytes(hostile.changed_text(rng, content))
        return
    path = path.with_suffix(f".{ending}")
    write_scores(path, np.arange(8), np.arange(8) / 7, PAIRS.fingerprint)
    path.write_bytes(hostile.changed_bytes(rng, path.read_bytes()))


HEADER, DATA = hostile.safetensors(TENSORS)
HF_HEADER, HF_DATA = hostile.safetensors(HUGGING)
INDEX = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(HUGGING, "part.safetensors")}


def right_safetensors(name: str, tensors: Any) -> Write:
    header, data = hostile.safetensors(tensors)
    text = hostile.dumped(header)
    return in_file(name, lambda _: len(text).to_bytes(8, "little") + text + data)


def of(name: str) -> Write:
    return lambda _, folder: shutil.copytree(WORKDIRS / name, folder, dirs_exist_ok=True)


def nothing(_: random.Random, __: Path) -> None:
    pass


HF = right_safetensors("model.safetensors", HUGGING)
PART = right_safetensors("part.safetensors", HUGGING)
OC = right_safetensors("open_clip_model.safetensors", TENSORS)
# What lies there, what is changed, what reads it.
KINDS: dict[str, tuple[Write, Write, Read]] = {
    "torch.save": (
        nothing,
        in_file("a.pt", lambda rng: hostile.archive(TENSORS, rng)),
        read_checkpoint,
    ),
    "before 1.6": (
        nothing,
        in_file("a.pt", lambda rng: hostile.legacy(TENSORS, rng)),
        read_checkpoint,
    ),
    "safetensors": (
        nothing,
        in_file("a.safetensors", lambda rng: hostile.changed_safetensors(rng, HEADER, DATA)),
        read_checkpoint,
    ),
    "Hugging Face config": (HF, in_json("config.json", HF_CONFIG), read_checkpoint),
    "preprocessor": (HF, in_json("preprocessor_config.json", PROCESSOR), read_checkpoint),
    "index": (PART, in_json("model.safetensors.index.json", INDEX), read_checkpoint),
    "open_clip config": (OC, in_json("open_clip_config.json", OPEN_CLIP), read_checkpoint),
    "config.json": (
        nothing,
        in_json("config.json", golden("measured/config.json")),
        lambda folder: flatten(from_json(folder / "config.json")),
    ),
    "evaluation.json": (
        of("measured"),
        in_json("evaluation.json", golden("measured/evaluation.json")),
        read_evaluation,
    ),
    "sweep.json": (of("sweep"), in_json("sweep.json", golden("sweep/sweep.json")), read_sweep),
    "rows": (of("measured"), rows_file, read_rows),
    "inputs.json": (
        nothing,
        in_json("inputs.json", golden("measured/inputs.json")),
        lambda folder: Workdir(folder).read_json(INPUTS),
    ),
    "scores": (
        nothing,
        scores_file,
        lambda folder: read_scores(next(folder.glob("scores.*")), PAIRS),
    ),
    "mix.json": (
        nothing,
        in_json("mix.json", MIXED),
        lambda folder: Workdir(folder).read_json(MIX),
    ),
    "head.json": (
        nothing,
        in_json("head.json", golden("probe/head.json")),
        lambda folder: load_head(Workdir(folder)),
    ),
    "tokenizer.json": (
        nothing,
        in_json("tokenizer.json", golden("measured/tokenizer.json")),
        lambda folder: Tokenizer.load(folder / "tokenizer.json")(["a digit", "é\u017f"]),
    ),
    "manifest": (
        nothing,
        in_file("poison.parquet", manifest),
        lambda folder: Plan.load(folder / "poison.parquet").digest,
    ),
    "dataset.json": (nothing, in_json("dataset.json", PREPARED), open_arrayrecord),
    "digests.json": (nothing, in_json("digests.json", DIGESTS), damage),
    "classes": (
        nothing,
        in_json("classes.json", CLASSES),
        lambda folder: read_classes(str(folder / "classes.json"), "imagenet"),
    ),
    "COCO": (nothing, in_json("a.json", COCO), lambda f: captions_of(f)),
    "Karpathy": (nothing, in_json("a.json", {"images": [SPLIT]}), lambda f: captions_of(f)),
}


def captions_of(folder: Path) -> Any:
    return open_captioned({"kind": "json", "path": str(folder / "a.json")}).captions


EVENTS = {
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
}
watched: list[str] | None = None


def hook(event: str, _: Any) -> None:
    if watched is not None and event in EVENTS:
        watched.append(event)


@pytest.fixture(scope="module", autouse=True)
def audit():
    """Notices what would run."""
    sys.addaudithook(hook)


def try_one(kind: str, seed: int, folder: Path) -> tuple[str, str | None]:
    """Makes a file and reads it; returns whether it was read or refused, and what went wrong."""
    global watched
    rng = random.Random(f"{kind} {seed}")
    _, change, read = KINDS[kind]
    change(rng, folder)
    before, memory = sorted(folder.rglob("*")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, outcome, problem, watched = time.perf_counter(), "read", None, []
    try:
        read(folder)
    except UserError as error:
        outcome = "refused"
        if not str(error).isprintable() or len(str(error)) > 4000:
            problem = f"no line: {str(error)[:300]!r}"
    except OSError as error:
        outcome = "refused"  # the command line makes a line of one that names its file
        problem = None if error.filename else f"{error!r} names no file"
    except BaseException as error:  # also what Rust's panics raise
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "cleanclip_jax" in frame.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        problem = f"{type(error).__name__} at {place}: {str(error)[:200]!r}"
    events, watched = watched, None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    if time.perf_counter() - began > SECONDS or grown > MEMORY:
        problem = f"took {time.perf_counter() - began:.0f} s and {grown >> 20} MiB"
    if events or Path("was-run").exists():
        problem = f"ran {events}"
    if (after := sorted(folder.rglob("*"))) != before and "bad_rows" not in str(
        {*before} ^ {*after}
    ):
        problem = problem or f"left {[p.name for p in {*after} - {*before}]}"
    return outcome, problem


def try_many(kind: str, count: int, folder: Path, first: int) -> Counter[str]:
    """Tries so many files of a kind; asserts that all of them held."""
    KINDS[kind][0](random.Random(0), folder)
    counts, problems = Counter(), {}
    for seed in range(first, first + count):
        outcome, problem = try_one(kind, seed, folder)
        counts[outcome] += 1
        if problem is not None:
            problems.setdefault(problem[:60], f"{kind} {seed}: {problem}")
        shutil.rmtree(folder / "out", ignore_errors=True)
    assert not problems, "\n".join(problems.values())
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hostile_files_are_read_or_refused(tmp_path, kind):
    try_many(kind, 8, tmp_path, first=0)


def test_a_damaged_footer_is_refused_and_ends_no_process(tmp_path):
    """Its levels' histograms don't fit: pyarrow aborts where a column's figures are looked at."""
    try_many("manifest", 1, tmp_path, first=128)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_many_hostile_files_are_read_or_refused(tmp_path, kind, capsys):
    began, count = time.perf_counter(), -(-FILES // len(KINDS))
    counts = try_many(kind, count, tmp_path, first=SEED * 1_000_000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with capsys.disabled():
        print(f"\n{kind}: {dict(counts)} in {time.perf_counter() - began:.0f} s, peak {peak} MiB")


@pytest.mark.parametrize("kind", ["torch.save", "before 1.6", "safetensors"])
def test_the_files_that_are_changed_are_right(tmp_path, kind):
    """Else all of them would be refused for the same reason."""
    files = {
        "torch.save": ("a.pt", hostile.archive(TENSORS)),
        "before 1.6": ("a.pt", hostile.legacy(TENSORS)),
    }
    if kind == "safetensors":
        right_safetensors("a.safetensors", TENSORS)(random.Random(), tmp_path)
    else:
        name, data = files[kind]
        (tmp_path / name).write_bytes(data)
    read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pipe", "device", "loop", "x" * 300, "a\0b", "file/a.pt"])
def test_a_checkpoint_at_an_odd_place_is_one_line(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path in (tmp_path / name, tmp_path / "file"):
        with pytest.raises((UserError, OSError)) as error:
            open_checkpoint(path)
        assert isinstance(error.value, UserError) or error.value.filename
        assert "\n" not in str(error.value)
