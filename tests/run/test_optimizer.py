"""The schedule and the optimizer's options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cleanclip_jax.errors import UserError
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
    """Steps from zero (docs/fidelity.md): counted from the second epoch on, past the end."""
    g = golden("schedule")
    schedule = warmup_cosine(float(g["base_lr"]), int(g["warmup"]), int(g["total"]), offset=100)
    ours = np.array(jax.vmap(schedule)(jnp.arange(1000)))
    np.testing.assert_allclose(ours, g["lr"][100:1100], rtol=1e-4, atol=1e-10)


def originals_rate(peak: float, warmup: int, total: int, step: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup))) * peak


@pytest.mark.parametrize(("warmup", "epoch", "epochs"), [(70, 33, 2), (67, 33, 2), (5, 33, 2)])
def test_a_warmup_as_long_as_the_run_is_the_originals(warmup: int, epoch: int, epochs: int):
    """The original's cosine may run backwards: its last rate is 0 after 70 steps of 66."""
    total = epoch * epochs
    schedule = warmup_cosine(5e-4, warmup, total, offset=epoch)
    ours = np.array(jax.vmap(schedule)(jnp.arange(total)))
    expected = [originals_rate(5e-4, warmup, total, step + epoch) for step in range(total)]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-9)
    assert warmup != 70 or ours[-1] == pytest.approx(0, abs=1e-9)


def test_a_warmup_of_all_steps_is_refused_where_the_original_divides_by_zero():
    with pytest.raises(UserError, match=r"warmup_steps is 66, .*original.* divides by 0; set"):
        warmup_cosine(5e-4, 66, 66, offset=33)
    assert jnp.asarray(warmup_cosine(5e-4, 66, 66)(65)) == pytest.approx(5e-4)


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
