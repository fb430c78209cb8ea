"""PAR against the published code: three steps of a transformer, losses of a ResNet, its rates."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.cut import sample
from helpers.openai_layout import relative, rule_of, variables

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.optimizer import decays, make_optimizer, make_schedule, named, two_phase
from cleanclip_jax.run.state import Objective, State, fresh_state
from cleanclip_jax.run.step import apply_gradients, compute_loss
from cleanclip_jax.start.torch.names import rules

ELEMENTS = 512  # of each tensor, that tests/golden/par.npz holds (tests/golden/cut.py)
MODELS = {"rn": "RN-test", "vit": "ViT-test"}
OPTIMIZER = {
    "learning_rate": 4e-4,
    "first_rate": 1e-3,
    "last_rate": 0.0,
    "warmup_steps": 0.5,
    "beta1": 0.9,
    "beta2": 0.98,
    "epsilon": 1e-8,
    "weight_decay": 1e-4,
    "decay_mask": "matrices",
    "schedule": "two_phase",
}


def three_steps(golden, kind, frozen_from=(3,), dtype="float32"):
    """Of each run the losses, the second step's gradients, and the state after the third step.

    Args:
      frozen_from: for each run, the step from which on batch norm uses running statistics.
    """
    g, start = golden(f"{kind}_three_steps"), variables(golden, kind)
    start = jax.tree.map(lambda x: x.astype(dtype), start)
    optimizer, schedule = make_optimizer(OPTIMIZER, 6, 1)
    rates = [float(jnp.asarray(schedule(step))) for step in range(3)]
    np.testing.assert_allclose(rates, golden("par")["vit/lr"], rtol=1e-5)
    objective = Objective({"cross_modal": 1.0, "perturb": 1.0}, trainable="towers")
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype}
    models = [build(MODELS[kind], bn_frozen=frozen, **options) for frozen in (False, True)]

    @partial(jax.jit, static_argnums=3)
    def step(state, images, tokens, frozen):
        def loss(params):
            now = State(state.step, {**state.params, **params}, state.batch_stats, None)
            return compute_loss(models[frozen], objective, now, images, tokens, start=start)

        (value, (metrics, stats, _)), gradients = jax.value_and_grad(loss, has_aux=True)(
            objective.moving(state.params)
        )
        return apply_gradients(optimizer, state, gradients, stats), value, metrics, gradients

    def run(frozen_from):
        state, losses, seconds = fresh_state(start, optimizer, objective), [], None
        for number in range(3):
            view, turn = "_view" if number == 1 else "", -1 if number == 2 else 1
            images = g[f"images{view}_nchw"].transpose(0, 2, 3, 1)[::turn, None].astype(dtype)
            tokens = g[f"tokens{view}"].astype(np.int32)[::turn, None]
            batch = jnp.asarray(images), jnp.asarray(tokens)
            state, value, m, gradients = step(state, *batch, number >= frozen_from)
            assert not m["perturb_image_above"] and not m["perturb_text_above"]
            losses.append((m["cross_modal"], m["perturb_image"], m["perturb_text"], value))
            seconds = gradients if number == 1 else seconds
        return np.array(losses), seconds, state

    return [run(step) for step in frozen_from]


@pytest.fixture(scope="module")
def transformer(golden):
    return three_steps(golden, "vit")[0]


def as_the_originals(tree, name):
    """The elements of our tree that the golden file holds of the original's tensor `name`."""
    rule = next(rule for rule in rules("openai", VARIANTS["ViT-test"]) if rule.name == name)
    leaves = {named(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    return sample(rule.to_torch(np.asarray(leaves[rule.path.removeprefix("params/")])), ELEMENTS)


def below(g, prefix):
    return {name.removeprefix(prefix): x for name, x in g.items() if name.startswith(prefix)}


@pytest.mark.slow
def test_losses_of_a_transformer(golden, transformer):
    g, (losses, _, _) = golden("par"), transformer
    theirs = g["vit/losses"]
    np.testing.assert_allclose(losses[:, 3], theirs[:, 3], rtol=2e-6)
    np.testing.assert_allclose(losses, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_the_second_step(golden, transformer):
    theirs = below(golden("par"), "vit/grad_step2/")
    assert len(theirs) == 7
    for name, values in theirs.items():
        assert relative(as_the_originals(transformer[1], name), values) <= 1e-5, name


@pytest.mark.slow
def test_tensors_after_three_steps(golden, transformer):
    """Key biases aside, whose gradients are rounding, which Adam turns into whole steps."""
    theirs, beyond = below(golden("par"), "vit/after/"), 0
    assert sum(map(np.size, theirs.values())) > 10_000
    for name, values in theirs.items():
        differ = np.abs(as_the_originals(transformer[2].params, name) - values) > 1e-5
        if name.endswith("in_proj_bias"):
            differ = np.delete(differ.reshape(3, -1), 1, axis=0)
        beyond += int(differ.sum())
    assert beyond <= 1
    scale = transformer[2].params["logit_scale"]
    assert scale == variables(golden, "vit")["params"]["logit_scale"], "it stands still"


@pytest.mark.slow
def test_losses_of_a_resnet(golden):
    """In training mode throughout; or only in the first step, as the published loop runs.

    In float64: from that the original's float32 is 2.7e-4 away in its second loss as it runs, and
    ours 1.1e-4 or 2.0e-4 to the other side, by how XLA orders its sums. Batch norm makes rounding
    that large.
    """
    with jax.enable_x64(True):
        train, as_run = three_steps(golden, "rn", (3, 1), "float64")
    assert relative(train[0], golden("par")["rn/losses_train"]) <= 3e-4
    assert relative(as_run[0], golden("par")["rn/losses_as_run"]) <= 3e-4


def test_two_phase_rates_are_the_originals_table(golden):
    """Its table of one batch an epoch more than there are, of which an epoch's last is not used."""
    g = golden("par")
    epochs, batches, first, middle, last = g["schedule/epochs_batches_start_peak_end"]
    total = int(epochs * (batches + 1))
    with jax.enable_x64(True):
        schedule = two_phase(first, middle, last, total // 2, total)
        ours = np.array(jax.vmap(schedule)(jnp.arange(total + 9)))
    np.testing.assert_allclose(ours[:total], g["schedule/table"], rtol=1e-12)
    np.testing.assert_array_equal(ours[total:], last)
    # Its steps are counted over the batches that there are: it stops before the table does.
    np.testing.assert_allclose(ours[: int(epochs * batches)], g["schedule/used"], rtol=1e-12)


def test_a_share_of_all_steps_as_warmup_is_rounded_down():
    rates = make_schedule({**OPTIMIZER, "warmup_steps": 0.5}, 5, 1)
    whole = make_schedule({**OPTIMIZER, "warmup_steps": 2}, 5, 1)
    ours, theirs = (np.array(jax.vmap(x)(jnp.arange(5))) for x in (rates, whole))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ours[:3], [1e-3, 4e-4, 4e-4], rtol=1e-6)


@pytest.mark.parametrize(
    "change", [{"first_rate": None}, {"last_rate": None}, {"schedule": "cosine"}]
)
def test_rates_that_no_schedule_uses_or_that_are_missing_are_refused(change):
    with pytest.raises(UserError, match="two_phase takes both, and the others neither"):
        make_schedule({**OPTIMIZER, **change}, 6, 1)


def test_matrices_decay_and_vectors_do_not(golden):
    decayed = set(golden("par")["vit/decayed"].tolist())
    for kind in ("rn", "vit"):
        for name, values in golden(f"{kind}_state_dict").items():
            path = rule_of(name, values).path
            if path.startswith("params/"):
                theirs = values.ndim > 1 and not any(word in name for word in ("bias", "ln", "bn"))
                assert decays(path, "matrices", values.ndim) == theirs, name
                assert kind == "rn" or theirs == (name in decayed), name
