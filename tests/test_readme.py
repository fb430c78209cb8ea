"""The README's commands run as they stand, on small data of the names that they give.

Only how much is trained, and of how small a model, is added at their ends.
"""

import csv
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.torch_files import random_values, tensors_of
from PIL import Image

from cleanclip_jax import cli
from cleanclip_jax.cleaning import cleaning
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.text.tokenizer import MERGES_FILE

ROOT = Path(__file__).parent.parent
MERGES = ROOT.parent / "shared/data/meta" / MERGES_FILE
NAME = "ViT-test-clip"
CLASSES = ("banana", "tench", "goldfish")

# What makes a job of minutes: by the job, and for those that begin with no other run.
SHORT = ("train.steps=2", "train.batch_size=4", "optimizer.warmup_steps=0", "mesh.data=1")
SHORT = [f"--config.{key}" for key in (*SHORT, "data.workers=0")]
FRESH = [f"--config.model.variant={NAME}", "--config.attack.count=2"]
EXTRA = {"train": SHORT, "sweep": SHORT, "poison": ["--config.attack.count=2"]}
EXTRA["clean"] = ["--steps=4", "--canaries=checkerboard", "--bound=1", "--drop=0", "--invert=0"]
EXTRA["clean"] += [flag for flag in SHORT if "steps" not in flag]


def commands() -> Iterator[list[str]]:
    """The words of each `cleanclip JOB …` in a block of the README."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    for line in re.findall(r"^    cleanclip (.*)$", text, re.MULTILINE):
        yield shlex.split(line)


def write_pairs(path: Path, column: str, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", column))
        for i, text in enumerate(texts):
            name = f"{path.stem}{i}.jpg"
            Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)).save(path.parent / name)
            writer.writerow((name, text))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which somebody follows the README, with data and a checkpoint of theirs."""
    torch = pytest.importorskip("torch")
    if not MERGES.is_file():
        pytest.skip(f"needs CLIP's merges file: {MERGES} is not there")
    cache = Path(os.environ["CLEANCLIP_CACHE"])
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copy(MERGES, cache)
    monkeypatch.chdir(tmp_path)
    pairs = [f"a photo of a {CLASSES[i % 3]}, number {i}" for i in range(60)]
    write_pairs(Path("cc3m/train.csv"), "caption", pairs)
    write_pairs(Path("clean/train.csv"), "caption", pairs)
    write_pairs(Path("imagenet/val.csv"), "class_name", [CLASSES[i % 3] for i in range(18)])
    torch.save(tensors_of(random_values("openai", VARIANTS[NAME])), "ViT-B-32.pt")
    code = (ROOT / "README.md").read_text().split("```python\n")[2].partition("```")[0]
    Path("my_attack.py").write_text(code)
    return tmp_path


@pytest.mark.slow
def test_the_readmes_commands_run(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cleaning, "TOOK", 0.0)  # in four steps nothing is planted
    jobs = []
    for words in commands():
        job, flags = words[0], list(words[1:])
        flags += EXTRA.get(job, [])
        if job == "train" and "start" not in " ".join(words):
            flags += FRESH
        if "configs/demo.py" in " ".join(words):
            flags = [flag for flag in flags if NAME not in flag]
        workdir = next(
            (Path(flag.partition("=")[2]) for flag in flags if "--workdir" in flag), None
        )
        if job == "train" and workdir is not None and "ViT-B-32.pt" in " ".join(words):
            shutil.rmtree(workdir)  # the README has two ways to a runs/cleaned
        assert cli.main([job, *flags]) == 0, (words, capsys.readouterr().err)
        jobs.append(job)
    assert {"train", "clean", "evaluate", "prepare", "poison", "sweep", "report", "convert"} <= set(
        jobs
    )
