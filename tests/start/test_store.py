"""Checkpoints: whole, bit-exact, in parts, and only the newest kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import copied_over, make_mesh
from cleanclip_jax.start.store import Store, abstract, load_model

MODEL = {"params": {"w": jnp.arange(6, dtype=jnp.float32) / 7}, "batch_stats": {}}
PROGRESS = {"step": jnp.asarray(3, jnp.int32), "opt_state": (jnp.ones(2), jnp.zeros((), jnp.int32))}


def shapes(tree):
    return abstract(jax.eval_shape(lambda: tree), copied_over(make_mesh(1)))


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    with Store(tmp_path / "checkpoints") as store:
        assert store.latest is None
        store.save(3, MODEL, PROGRESS)
    with Store(tmp_path / "checkpoints") as store:
        found = store.load(model=shapes(MODEL), progress=shapes(PROGRESS))
        assert store.latest == 3
    wanted = {"model": MODEL, "progress": PROGRESS}
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
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
