"""Checkpoints: whole, bit-exact, in parts, and only the newest kept."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.torch_files import random_values
from safetensors.numpy import save_file

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.sharding import copied_over, make_mesh
from cleanclip_jax.start.digests import FILE, damage
from cleanclip_jax.start.store import (
    Store,
    abstract,
    load_model,
    load_opt_state,
    load_saved,
    newest_whole,
    open_store,
)

MODEL = {"params": {"w": jnp.arange(6, dtype=jnp.float32) / 7}, "batch_stats": {}}
PROGRESS = {"step": jnp.asarray(3, jnp.int32), "opt_state": (jnp.ones(2), jnp.zeros((), jnp.int32))}


def shapes(tree):
    return abstract(jax.eval_shape(lambda: tree), copied_over(make_mesh(1)))


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    with Store(tmp_path / "checkpoints") as store:
        assert store.latest is None
        store.save(3, MODEL, PROGRESS)
    with Store(tmp_path / "checkpoints") as store:
        loaded = store.load(model=shapes(MODEL), progress=shapes(PROGRESS))
        assert store.latest == 3
    wanted = {"model": MODEL, "progress": PROGRESS}
    assert jax.tree.structure(loaded) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_newest_are_kept_and_a_model_loads_without_its_optimizer(tmp_path):
    with Store(tmp_path / "checkpoints", keep=2) as store:
        for step in (1, 2, 3):
            params = {"params": {"w": MODEL["params"]["w"] * step}, "batch_stats": {}}
            store.save(step, params, PROGRESS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    step, model = load_model(tmp_path, shapes(MODEL))
    assert step == 3
    np.testing.assert_array_equal(model["params"]["w"], MODEL["params"]["w"] * 3)


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        load_model(tmp_path, shapes(MODEL))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no finished checkpoint"):
        load_model(tmp_path, shapes(MODEL))


def test_an_earlier_step_is_loaded_by_its_number(tmp_path):
    with Store(tmp_path / "checkpoints", keep=2) as store:
        for step in (1, 2, 3):
            params = {"params": {"w": MODEL["params"]["w"] * step}, "batch_stats": {}}
            store.save(step, params, PROGRESS)
        assert store.steps == [2, 3]
    step, model = load_model(tmp_path, shapes(MODEL), 2)
    assert step == 2
    np.testing.assert_array_equal(model["params"]["w"], MODEL["params"]["w"] * 2)
    with pytest.raises(UserError, match="keeps no checkpoint of step 1; it has 2, 3"):
        load_model(tmp_path, shapes(MODEL), 1)


OPTIMIZER = optax.adamw(1e-3)
OPT_STATE = OPTIMIZER.init({"w": jnp.arange(3.0), "b": jnp.zeros(2)})


@pytest.mark.parametrize("memory", [{}, {"pool": jnp.arange(6.0).reshape(2, 3)}])
def test_what_loss_terms_keep_is_saved_and_loaded(tmp_path, memory):
    progress = {"step": jnp.asarray(1), "opt_state": OPT_STATE, "memory": memory}
    with Store(tmp_path / "checkpoints") as store:
        store.save(1, MODEL, progress)
        assert store.has("progress", "memory") and not store.has("model", "memory")
        loaded = store.load(progress=shapes(progress))["progress"]
    assert jax.tree.structure(loaded) == jax.tree.structure(progress)
    jax.tree.map(np.testing.assert_array_equal, loaded, progress)


def test_a_checkpoint_without_memory_is_loaded_without_it(tmp_path):
    with Store(tmp_path / "checkpoints") as store:
        store.save(3, MODEL, PROGRESS)
        assert not store.has("progress", "memory")
        for memory in ({}, {"pool": jnp.ones(2)}):
            wanted = shapes({**PROGRESS, "memory": memory})
            loaded = store.load(progress=wanted)["progress"]
            assert "memory" not in loaded and int(loaded["step"]) == 3
            assert "memory" in wanted


def test_another_runs_optimizer_state_is_loaded_alone(tmp_path):
    progress = {"step": jnp.asarray(1), "opt_state": OPT_STATE, "memory": {"pool": jnp.ones(2)}}
    with Store(tmp_path / "checkpoints") as store:
        store.save(1, MODEL, progress)
    loaded = load_opt_state(tmp_path, shapes(OPT_STATE))
    assert jax.tree.structure(loaded) == jax.tree.structure(OPT_STATE)
    jax.tree.map(np.testing.assert_array_equal, loaded, OPT_STATE)
    for other in (
        optax.sgd(1e-3, momentum=0.9).init({"w": jnp.arange(3.0), "b": jnp.zeros(2)}),
        OPTIMIZER.init({"w": jnp.arange(4.0), "b": jnp.zeros(2)}),
        OPTIMIZER.init({"w": jnp.arange(3.0)}),
    ):
        with pytest.raises(UserError, match="is of another optimizer, or of other parameters"):
            load_opt_state(tmp_path, shapes(other))


@pytest.mark.parametrize(("run", "step"), [("poisoned", 2), ("probe", 3)])
def test_a_checkpoint_of_before_the_redesign_is_whole_and_loads(run, step):
    workdir = Path(__file__).parents[1] / "golden/workdirs" / run
    folder = workdir / f"checkpoints/{step}"
    assert (folder / FILE).is_file() and damage(folder) is None
    assert newest_whole(workdir / "checkpoints") == step
    at, variables = load_saved(workdir)
    assert at == step and np.isfinite(float(variables["params"]["logit_scale"]))
    assert ("head" in variables["params"]) == (run == "probe")
    with open_store(workdir) as (_, store):
        assert store.has("progress", "opt_state") and not store.has("progress", "memory")


FAULTS = """
import sys
import helpers.variants
from pathlib import Path
import numpy as np
from orbax.checkpoint import v1 as ocp
from cleanclip_jax.start.store import Store
from cleanclip_jax.start.torch.names import Rule
from cleanclip_jax.jobs import convert
if __debug__:
    raise SystemExit("asserts are there")
source, folder = sys.argv[1:]
save = ocp.training.Checkpointer.save_checkpointables
ocp.training.Checkpointer.save_checkpointables = lambda *_: False
try:
    with Store(Path(folder)) as store:
        store.save(1, {"w": np.ones(3)}, {"step": np.ones(())})
except RuntimeError as error:
    print(error)
ocp.training.Checkpointer.save_checkpointables = save
a, b = np.zeros(3, np.float32), np.ones(2)
back = {"a": a, "b": b}
for wrong in ({"a": -a, "b": b}, {"b": b, "a": a}, {"a": a}):
    try:
        convert.prove_same(wrong.items(), back)
    except RuntimeError as error:
        print(error)
to_torch = Rule.to_torch
Rule.to_torch = lambda rule, ours: to_torch(rule, ours) + np.float32(rule.name == "visual.proj")
try:
    convert.main([source, f"{folder}-new"])
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
def test_proofs_hold_under_python_O(tmp_path):
    """Asserts are gone there: what is proved is proved by errors."""
    save_file(random_values("openai", VARIANTS["ViT-test"]), tmp_path / "a.safetensors")
    done = subprocess.run(
        [sys.executable, "-O", "-c", FAULTS, str(tmp_path / "a.safetensors"), str(tmp_path / "c")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[1:3]))},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.endswith("written")]
    assert "Orbax did not save step 1: a fault of this program" in done.stdout
    assert [line.split(" is not ")[0] for line in lines] == ["a", "the order", "b", "visual.proj"]
    assert not (tmp_path / "c-new").exists()
