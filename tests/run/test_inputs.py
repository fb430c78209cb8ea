"""What a run was begun with: written down, and held to."""

import json

import pytest
from helpers.small_run import small_config, train, trained

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.run.settings import check_workdir, claim, resolve
from cleanclip_jax.text.tokenizer import Tokenizer
from cleanclip_jax.workdir import Workdir


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
