"""What a run was begun with: written down, and held to."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.small_run import small_config, train, trained
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import load
from cleanclip_jax.data.scores import write_scores
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_lines
from cleanclip_jax.run.settings import check_workdir, claim, resolve
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.workdir import INPUTS, MANIFEST, SUSPECTS, Workdir


def test_a_run_goes_on_with_the_pairs_it_began_with(tmp_path):
    """The config names the same file; what is in it has changed."""
    config = resolve(small_config())
    first, other = (open_source({"kind": "digits", "split": split}) for split in ("train", "test"))
    tokenizer = Tokenizer.train(["a handwritten seven."], 300, 12)
    for _ in range(2):
        claim(config, Workdir(tmp_path / "run"), first, tokenizer, None, None)
    found = json.loads((tmp_path / "run/inputs.json").read_text())
    assert found == {"data": {"fingerprint": first.fingerprint, "pairs": 1397}, "start": None}
    with pytest.raises(UserError, match="was begun with other pairs"):
        check_workdir(config, Workdir(tmp_path / "run"), other)


def test_a_finetuning_run_says_which_step_it_started_from(tmp_path):
    config = small_config("cleanclip")
    config.start = str(trained(tmp_path / "start"))
    train(config, tmp_path / "cleaned")
    found = json.loads((tmp_path / "cleaned/inputs.json").read_text())
    start = found["start"]
    assert len(start.pop("digest")) == 64 and start == {"path": config.start, "step": 4}


@pytest.mark.slow
def test_a_run_keeps_its_suspects(tmp_path):
    """An oracle: the poisons of the manifest that is replayed. Files may go once it has begun."""
    start = trained(tmp_path / "start")
    manifest = (start / MANIFEST).rename(tmp_path / "manifest.parquet")
    config = load("configs/unlearn.py")
    with config.ignore_type():
        config.start = str(start)
        config.data.train = small_config("mmcl").data.train
        config.data.suspects.manifest = str(manifest)
        config.attack = ConfigDict({"manifest": str(manifest)})
    config.data.workers, config.mesh.data = 0, 1
    config.train.update({"batch_size": 64, "steps": 2, "log_every": 1})
    train(config, tmp_path / "run")
    rows = read_lines(tmp_path / "run/metrics.jsonl")
    assert any(row["suspects"] for row in rows) and all(row["others"] > 0 for row in rows)
    assert set(pq.read_table(tmp_path / "run" / SUSPECTS)["id"].to_pylist()) == set(
        Plan.load(manifest).index
    )
    manifest.unlink()
    train(config, tmp_path / "run")  # taken up: nothing is left to do
    config.data.suspects.manifest = None
    with pytest.raises(UserError, match="takes a manifest, or scores"):
        train(config, tmp_path / "run")


def test_the_files_that_data_are_filtered_by_are_written_down(tmp_path: Path):
    digits = {"kind": "digits", "split": "train"}
    ids = np.arange(1397)
    source = open_source(digits)
    scores, skip = tmp_path / "scores.parquet", tmp_path / "skip.csv"
    write_scores(scores, ids, ids % 7, source.fingerprint)
    write_ids(skip, ids[:9], source.fingerprint)
    keep = {"scores": str(scores), "share": 0.5}
    filtered = {**digits, "keep": keep, "skip": str(skip)}
    tokenizer = Tokenizer.train(["a handwritten seven."], 300, 12)
    config = small_config()
    mixture = {"kind": "mixture", "sources": {"a": filtered, "b": digits}}
    for data, prefix in ((filtered, ""), (mixture, ".sources.a")):
        with config.unlocked(), config.ignore_type():
            config.data.train = ConfigDict(data)
        workdir, part = Workdir(tmp_path / data["kind"]), open_source(data)
        claim(resolve(config), workdir, part, tokenizer, None, None)
        files = workdir.read_json(INPUTS)["files"]
        assert files == {
            f"data.train{prefix}.{key}": {
                "path": str(file),
                "digest": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for key, file in (("keep.scores", scores), ("skip", skip))
        }
    # The same choice in another file is the same run; another choice is not.
    write_scores(scores, ids, -(ids % 7), source.fingerprint)
    with pytest.raises(UserError, match="was begun with other pairs"):
        check_workdir(resolve(config), Workdir(tmp_path / "mixture"), open_source(mixture))
