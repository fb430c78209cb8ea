"""Two checkpoints to be mixed: a run and its PyTorch file have one tokenizer, and equal bits."""

from pathlib import Path

import jax
import numpy as np
import pytest

from cleanclip_jax import cli
from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.mixing import MixedStart, common_dtype, common_tokenizer, variables_of
from cleanclip_jax.start.start import load_start, open_start

POISONED = Path(__file__).parents[1] / "golden/workdirs/poisoned"


@pytest.mark.slow
def test_a_run_and_its_pytorch_file(tmp_path: Path, capsys: pytest.CaptureFixture):
    file, mesh = tmp_path / "model.pt", make_mesh(1)
    assert cli.main(["convert", str(POISONED), str(file)]) == 0
    run, torch = open_start(POISONED), open_start(file)
    for pair in ((run, torch), (torch, run), (run, run)):
        assert common_tokenizer(*pair).as_json() == run.tokenizer.as_json()
    with pytest.raises(UserError, match=r"a vocabulary of .* that is not CLIP's"):
        common_tokenizer(torch, torch)
    a, b = variables_of(run, mesh), variables_of(torch, mesh)
    assert (common_dtype(run, run), common_dtype(run, torch)) == ("bfloat16", "float32")
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        assert isinstance(x, np.ndarray) and (x == y).all()
    # What lies in memory is a start like any other.
    start = MixedStart(tmp_path, run.config, run.tokenizer, a)
    loaded = load_start(start, mesh)
    assert loaded.step == 0 and loaded.tokenizer is run.tokenizer and loaded.head is None
    for x, y in zip(*map(jax.tree.leaves, (a, loaded.variables)), strict=True):
        assert x.dtype == y.dtype and (x == np.asarray(y)).all()
