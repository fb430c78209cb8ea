"""bfloat16 is for the towers' products: parameters, statistics, features and loss stay float32."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cleanclip_jax.config import check, defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.flops import flops_per_pair, products
from cleanclip_jax.run.state import Fixed, Objective, fresh_state
from cleanclip_jax.run.step import make_step
from cleanclip_jax.start.model import attention_here

MODELS = {
    "vit": replace(VARIANTS["ViT-test"], image_size=16),
    "resnet": replace(VARIANTS["RN-test"], vision_layers=(1,), image_size=32),
}
OBJECTIVE = Objective({"cross_modal": 1.0, "in_modal": 1.0})
# Plain steps, so that the change of the parameters is their gradient.
OPTIMIZER = optax.sgd(1.0)


def stepped(kind, dtype):
    model = build(MODELS[kind], dtype=dtype)
    variables = init(build(MODELS[kind]), jax.random.key(0))
    step = make_step(model, OPTIMIZER, lambda _: jnp.float32(1.0), OBJECTIVE)
    rng, size = np.random.default_rng(0), MODELS[kind].image_size
    tokens = rng.integers(1, 299, (8, 2, 6)).astype(np.int32)
    tokens[:, :, -1] = 299
    batch = {
        "images": jnp.asarray(rng.integers(0, 256, (8, 2, size, size, 3), dtype=np.uint8)),
        "tokens": jnp.asarray(tokens),
    }
    state = fresh_state(jax.tree.map(jnp.copy, variables), OPTIMIZER)
    traced = jax.make_jaxpr(step)(state, Fixed(), batch)
    after, metrics = step(state, Fixed(), batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), variables["params"], after.params)
    return traced, after, metrics, moved


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", pytest.param("resnet", marks=pytest.mark.faults)])
def test_only_the_towers_compute_low_and_the_step_stays_near(kind):
    traced, after, metrics, low = stepped(kind, "bfloat16")
    _, _, exact, high = stepped(kind, "float32")
    floats = [x for x in jax.tree.leaves((after, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    for equation, _ in products(traced.jaxpr):
        kinds = {x.aval.dtype.name for x in equation.invars}
        if kinds != {"bfloat16"}:
            # What compares embeddings: at scale 100 nothing less does.
            assert kinds == {"float32"} and equation.params["precision"] is not None
            assert set(equation.params["precision"]) == {jax.lax.Precision.HIGHEST}
            assert {len(x.aval.shape) for x in equation.invars} == {2}
            assert all(8 in x.aval.shape for x in equation.invars), equation
    np.testing.assert_allclose(metrics["loss"], exact["loss"], rtol=0.02)
    ours, theirs = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(moved)]) for moved in (low, high)
    )
    angle = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert 0.98 < angle < 0.999999


def test_fused_attention_is_for_gpus_and_bfloat16(caplog):
    config = defaults()
    config.model.attention = "cudnn"
    with pytest.raises(UserError, match="computes in bfloat16, not float32"):
        check(config)
    config.model.attention = "flash"
    with pytest.raises(UserError, match="Did you mean 'xla'"):
        check(config)
    if jax.default_backend() != "gpu":
        assert attention_here("cudnn") == "xla"
        assert "needs a GPU" in caplog.text
    # Its products can't be seen, and count all the same.
    fused, plain = (build("ViT-test", attention=how) for how in ("cudnn", "xla"))
    assert flops_per_pair(fused, OBJECTIVE) == flops_per_pair(plain, OBJECTIVE) > 0
