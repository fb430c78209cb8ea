"""Types, counters and order on the way back."""

import ml_dtypes
import numpy as np
import pytest
from helpers.torch_files import by_path, random_values

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.store import load_saved, save_first
from cleanclip_jax.start.torch.origin import Origin
from cleanclip_jax.start.torch.tensors import to_tensors, to_variables

VIT, RN = VARIANTS["ViT-test"], VARIANTS["RN-test"]


def half_like_openai(values):
    """Matrices in half precision, norms and tables of positions in single."""
    return {
        name: x.astype(np.float16) if x.ndim > 1 and "positional" not in name else x
        for name, x in values.items()
    }


def origin_of(layout, tensors):
    return Origin(
        format=layout,
        layout=layout,
        prefix="",
        tensors={name: str(x.dtype) for name, x in tensors.items()},
        counters={n: int(x) for n, x in tensors.items() if n.endswith("num_batches_tracked")},
    )


def trained(tree, by=0.0):
    """The variables as a run saves them: float32, and moved."""
    flat = by_path(tree)
    return {path: np.asarray(x.astype(np.float32) + np.float32(by)) for path, x in flat.items()}


def test_each_tensor_comes_back_in_its_own_type():
    theirs = half_like_openai(random_values("openai", RN))
    theirs["token_embedding.weight"] = theirs["token_embedding.weight"].astype(ml_dtypes.bfloat16)
    tree, origin = to_variables("it", "openai", RN, theirs), origin_of("openai", theirs)
    for flat in (by_path(tree), trained(tree)):
        back = to_tensors("openai", RN, flat, origin)
        assert list(back) == list(theirs)
        for name, x in theirs.items():
            assert back[name].dtype == x.dtype and back[name].tobytes() == x.tobytes(), name
    moved = to_tensors("openai", RN, trained(tree, 0.5), origin)
    for name, x in theirs.items():
        assert moved[name].dtype == x.dtype
        counted = name.endswith("num_batches_tracked")
        assert np.array_equal(moved[name], x) == counted, name


def test_types_go_along_to_another_layout_and_a_type_can_be_asked_for():
    theirs = half_like_openai(random_values("openai", VIT))
    flat, origin = trained(to_variables("it", "openai", VIT, theirs)), origin_of("openai", theirs)
    other = to_tensors("huggingface", VIT, flat, origin)
    assert other["vision_model.encoder.layers.0.self_attn.q_proj.weight"].dtype == np.float16
    assert other["vision_model.encoder.layers.0.self_attn.q_proj.bias"].dtype == np.float32
    asked = to_tensors("openai", VIT, flat, origin, dtype="bfloat16")
    assert {x.dtype for x in asked.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert {x.dtype for x in to_tensors("openai", VIT, flat).values()} == {np.dtype(np.float32)}


def test_queries_keys_and_values_of_different_types_lose_nothing():
    theirs = random_values("huggingface", VIT)
    name = "text_model.encoder.layers.0.self_attn.{}_proj.weight"
    theirs[name.format("q")] = theirs[name.format("q")].astype(np.float16)
    theirs[name.format("k")] = theirs[name.format("k")].astype(ml_dtypes.bfloat16)
    flat = by_path(to_variables("it", "huggingface", VIT, theirs))
    back = to_tensors("huggingface", VIT, flat, origin_of("huggingface", theirs))
    assert all(back[name].tobytes() == x.tobytes() for name, x in theirs.items())


def test_counters_advance_with_the_run():
    theirs = random_values("openai", RN)
    origin = origin_of("openai", theirs)
    flat = by_path(to_variables("it", "openai", RN, theirs))
    back = to_tensors("openai", RN, flat, origin.advanced(2), 5)
    assert {int(back[name]) for name in origin.counters} == {7 + 2 + 5}
    assert {int(to_tensors("openai", RN, flat, None, 5)[name]) for name in origin.counters} == {5}


def test_what_does_not_fit_a_type_is_refused():
    theirs = half_like_openai(random_values("openai", VIT))
    flat, origin = trained(to_variables("it", "openai", VIT, theirs)), origin_of("openai", theirs)
    flat["params/text/projection"][0, 0] = 1e6
    with pytest.raises(UserError, match=r"text_projection does not fit float16 \(it goes up to 1e"):
        to_tensors("openai", VIT, flat, origin)


def test_a_checkpoint_of_the_host_keeps_every_bit(tmp_path):
    theirs = half_like_openai(random_values("openai", RN))
    theirs["ln_final.bias"] = theirs["ln_final.bias"].astype(np.float64) / 3
    tree = to_variables("it", "openai", RN, theirs)
    save_first(tmp_path, tree)
    step, variables = load_saved(tmp_path)
    found, wanted = by_path(variables), by_path(tree)
    assert step == 0 and found.keys() == wanted.keys()
    for path, x in wanted.items():
        assert found[path].dtype == x.dtype and found[path].tobytes() == x.tobytes(), path


def test_a_variance_below_zero_is_named():
    values = random_values("openai", RN)
    values["visual.bn2.running_var"][1] = -0.1
    with pytest.raises(UserError, match=r"it: visual\.bn2\.running_var holds variances below 0"):
        to_variables("it", "openai", RN, values)
