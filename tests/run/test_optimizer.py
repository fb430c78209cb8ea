"""The schedule and the optimizer's options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cleanclip_jax.run.optimizer import warmup_cosine
from cleanclip_jax.run.state import fresh_state
from cleanclip_jax.run.step import apply_gradients


def test_schedule_equals_the_original_and_stays_at_zero(golden):
    g = golden("schedule")
    total = int(g["total"])
    schedule = warmup_cosine(float(g["base_lr"]), int(g["warmup"]), total)
    ours = np.array(jax.vmap(schedule)(jnp.arange(total + 100)))
    np.testing.assert_allclose(ours[:total], g["lr"][:total], rtol=1e-5, atol=1e-10)
    assert not ours[total:].any() and g["lr"][total:].any()


def test_the_original_schedule_skips_its_first_epoch_and_rises_again(golden):
    """Fidelity row 4: steps counted from the second epoch on, beyond the cosine's end."""
    g = golden("schedule")
    schedule = warmup_cosine(float(g["base_lr"]), int(g["warmup"]), int(g["total"]), offset=100)
    ours = np.array(jax.vmap(schedule)(jnp.arange(1000)))
    np.testing.assert_allclose(ours, g["lr"][100:1100], rtol=1e-4, atol=1e-10)


def test_no_warmup_starts_at_the_peak():
    assert jnp.allclose(jnp.asarray(warmup_cosine(0.5, 0, 10)(0)), 0.5)


def test_logit_scale_is_clamped_after_the_step():
    optimizer = optax.sgd(1.0)
    params = {"logit_scale": jnp.asarray(4.0)}
    for gradient, expected in ((-5.0, 4.6052), (5.0, 0.0), (1.0, 3.0)):
        state = fresh_state({"params": params}, optimizer)
        after = apply_gradients(optimizer, state, {"logit_scale": jnp.asarray(gradient)}, {})
        assert float(after.params["logit_scale"]) == pytest.approx(expected)
        assert int(after.step) == 1
