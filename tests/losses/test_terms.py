"""The defences' terms against their originals' losses and gradients (tests/golden, float64)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.config_keys import KEYS
from cleanclip_jax.keys import of_signature
from cleanclip_jax.losses import ring
from cleanclip_jax.losses.compare import gathered, normalise_rows
from cleanclip_jax.losses.ring import ringed
from cleanclip_jax.losses.terms import TERMS, Context
from cleanclip_jax.sharding import make_mesh, split_over

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def evaluate(units, scale, weights, suspects=None, comparing=gathered, mesh=None):
    """The weighted terms of unit embeddings, and all that they log."""
    compare, metrics = comparing(units, jnp.exp(scale), mesh), {}
    loss = jnp.zeros(())
    for name, (weight, options) in weights.items():
        given = (units, units, compare, {}, None, None, jnp.int32(0))
        context = Context(*given, metrics=metrics, suspects=suspects)
        value, memory = TERMS[name].loss(context, **options)
        assert memory is None
        metrics[name] = value
        loss = loss + weight * value
    return loss, metrics


def with_gradients(features, scale, *arguments, normalised=True) -> Any:
    def loss(features, scale):
        if not normalised:
            features = {name: normalise_rows(rows) for name, rows in features.items()}
        return evaluate(features, scale, *arguments)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(features, scale)


def exact(g, *names):
    return [jnp.asarray(g[name], jnp.float64) for name in names]


# What is beyond the threshold.
ABOVE = {"below": (), "image_above": ("image",), "both_above": ("image", "text")}
ABOVE |= {"tau_small": ("image",), "at_start": ()}


@pytest.mark.parametrize("case", ABOVE)
def test_perturb_equals_the_original(golden, case):
    g = golden("par")
    with jax.enable_x64(True):
        names = ("image", "text", f"{case}/image_start", f"{case}/text_start", "logit_scale")
        *rows, scale = exact(g, *names)
        features = dict(zip(("image", "text", "image_start", "text_start"), rows, strict=True))
        tau = float(g[f"{case}/tau"])
        weights = {"cross_modal": (1.0, {}), "perturb": (1.0, {"threshold": tau})}
        (loss, metrics), (gradients, _) = with_gradients(features, scale, weights, normalised=False)
        np.testing.assert_allclose(loss, g[f"{case}/loss"], **CLOSE)
        np.testing.assert_allclose(metrics["cross_modal"], g[f"{case}/clip_loss"], **CLOSE)
        for name in ("image", "text"):
            # The original's term is 0 where it is above, and we log the distance as well.
            above = bool(metrics[f"perturb_{name}_above"])
            assert above == (metrics[f"perturb_{name}"] > tau)
            assert above == (name in ABOVE[case])
            term = 0.0 if above else metrics[f"perturb_{name}"]
            np.testing.assert_allclose(term, g[f"{case}/{name}_term"], **CLOSE)
            np.testing.assert_allclose(gradients[name], g[f"{case}/grad_{name}"], **CLOSE)


@pytest.mark.parametrize(
    ("case", "way"),
    [
        *((case, "gathered") for case in ("default", "to_zero", "apart_weight_4", "none_in_batch")),
        ("apart_weight_4", "ring"),
        ("apart_weight_4", "ring over eight devices"),
    ],
)
def test_unlearning_equals_the_original(golden, monkeypatch, case, way):
    g = golden("unlearn")
    monkeypatch.setattr(ring, "TILE", 3)
    with jax.enable_x64(True):
        *rows, scale, target, weight = exact(
            g, "image", "text", "logit_scale", f"{case}/target", f"{case}/weight"
        )
        suspects = jnp.asarray(g[f"{case}/suspect"])
        weights = {"others": (1.0, {}), "unlearn": (float(weight), {"target": float(target)})}
        mesh = make_mesh(8) if "eight" in way else None
        if mesh is not None:
            *rows, suspects = jax.device_put((*rows, suspects), split_over(mesh))
        features = dict(zip(("image", "text"), rows, strict=True))
        comparing = gathered if way == "gathered" else ringed
        (loss, metrics), (gradients, by_scale) = with_gradients(
            features, scale, weights, suspects, comparing, mesh
        )
        np.testing.assert_allclose(loss, g[f"{case}/loss"], **CLOSE)
        np.testing.assert_allclose(metrics["unlearn"], g[f"{case}/constraint"], **CLOSE)
        assert metrics["suspects"] == g[f"{case}/suspect"].sum()
        np.testing.assert_allclose(by_scale, g[f"{case}/grad_logit_scale"], **CLOSE)
        for name in ("image", "text"):
            np.testing.assert_allclose(gradients[name], g[f"{case}/grad_{name}"], **CLOSE)


@pytest.mark.parametrize("comparing", [gathered, ringed])
def test_a_batch_of_suspects_alone_has_no_loss_and_no_nan(comparing):
    rows = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    features, scale = dict(zip(("image", "text"), rows, strict=True)), jnp.float32(4.6)
    (loss, _), (gradients, by_scale) = with_gradients(
        features, scale, {"others": (1.0, {})}, jnp.ones(4, bool), comparing
    )
    assert loss == 0 and by_scale == 0
    assert not gradients["image"].any() and not gradients["text"].any()


def test_an_options_default_is_its_keys():
    declared = [name for name in KEYS if name.count(".") == 2 and name.startswith("objective.")]
    assert "objective.perturb.threshold" in declared
    for name in declared:
        _, term, option = name.split(".")
        assert of_signature(TERMS[term].loss, first=1)[option].default == KEYS[name].default
