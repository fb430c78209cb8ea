"""The rules of every layout: PyTorch's names, shapes and order, and each of our paths once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_files import KINDS, by_path, random_values

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import build, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.names import LAYOUTS, rules
from cleanclip_jax.start.torch.tensors import to_tensors, to_variables

PUBLISHED = ("RN50", "RN101", "RN50x4", "RN50x16", "ViT-B/32", "ViT-B/16", "ViT-L/14")


@pytest.fixture(scope="module")
def layouts(golden):
    """Names, shapes and types of the published variants, read off open_clip's models."""
    return golden("layouts.json")


@pytest.mark.parametrize("variant", PUBLISHED)
def test_names_shapes_and_order_of_the_published_variants(layouts, variant):
    theirs = layouts[variant.replace("/", "-")]
    wanted = [(name, tuple(shape), kind == "torch.int64") for name, shape, kind in theirs]
    found = [(rule.name, rule.shape, rule.counts) for rule in rules("open_clip", VARIANTS[variant])]
    assert found == wanted
    # The same tensors, made in another order.
    other = rules("openai", VARIANTS[variant])
    assert sorted((rule.name, rule.shape) for rule in other) == sorted(
        (name, shape) for name, shape, _ in wanted
    )


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_original(golden, kind):
    found = [(rule.name, rule.shape) for rule in rules("openai", VARIANTS[KINDS[kind]])]
    assert found == [(name, x.shape) for name, x in golden(f"{kind}_state_dict").items()]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_second_text_layout_by_its_published_prefix_rules(variant):
    """open_clip's convert_to_custom_text_state_dict puts `text.` before these, and no more."""
    text = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
    wanted = {
        f"text.{rule.name}" if rule.name.startswith(text) else rule.name: (rule.path, rule.shape)
        for rule in rules("open_clip", VARIANTS[variant])
    }
    found = rules("open_clip_text", VARIANTS[variant])
    assert {rule.name: (rule.path, rule.shape) for rule in found} == wanted
    assert len(found) == len(wanted) and found[0].name == "logit_scale"


@pytest.mark.parametrize("variant", [v for v in PUBLISHED if v.startswith("ViT")])
def test_hugging_faces_own_class_has_the_same_tensors(variant):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from cleanclip_jax.start.torch.sidecars import folder_files
    from cleanclip_jax.start.torch.write import contract

    v = VARIANTS[variant]
    config = folder_files("huggingface", None, contract(variant, v, "quick_gelu"), v)["config.json"]
    with torch.device("meta"):
        model = transformers.CLIPModel(transformers.CLIPConfig(**config))
    theirs = [(name, tuple(x.shape)) for name, x in model.state_dict().items()]
    assert [(rule.name, rule.shape) for rule in rules("huggingface", v)] == theirs


def test_hugging_face_has_no_resnet():
    with pytest.raises(UserError, match="CLIPModel has no ResNet: take --format openai"):
        rules("huggingface", VARIANTS["RN50"])


@functools.cache
def our_shapes(variant):
    shapes = jax.eval_shape(lambda: init(build(variant), jax.random.key(0)))
    return {path: leaf.shape for path, leaf in by_path(shapes).items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["RN50", "ViT-B/32", *KINDS.values()])
def test_every_parameter_of_ours_has_its_rule(layout, variant):
    v = VARIANTS[variant]
    if layout == "huggingface" and not v.patch:
        return
    wanted = our_shapes(variant)
    found: dict[str, list] = {}
    for rule in rules(layout, v):
        if not rule.counts:
            ours = rule.to_ours(np.broadcast_to(np.float32(0), rule.shape))
            found.setdefault(rule.path, []).append((rule.third, ours.shape))
    assert found.keys() == wanted.keys()
    for path, parts in found.items():
        thirds = sorted(third for third, _ in parts if third is not None)
        assert thirds == ([] if len(parts) == 1 else [0, 1, 2])
        _, shape = parts[0]
        assert (*shape[:-1], *(size * len(parts) for size in shape[-1:])) == wanted[path], path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_for_bit(layout, kind):
    v = VARIANTS[KINDS[kind]]
    if layout == "huggingface" and not v.patch:
        return
    theirs = random_values(layout, v)
    tree = to_variables("it", layout, v, theirs)
    back = to_tensors(layout, v, tree, None, forwards=7)
    assert list(back) == list(theirs)
    for name, values in theirs.items():
        assert back[name].dtype == values.dtype and back[name].tobytes() == values.tobytes(), name


def test_thirds_are_queries_keys_and_values():
    """OpenAI's packed rows are q | k | v: the two layouts give one model."""
    v = VARIANTS["ViT-test"]
    openai = random_values("openai", v)
    ours = by_path(to_variables("it", "openai", v, openai))
    theirs = to_tensors("huggingface", v, ours)
    packed = openai["visual.transformer.resblocks.1.attn.in_proj_weight"]
    for third, letter in enumerate("qkv"):
        name = f"vision_model.encoder.layers.1.self_attn.{letter}_proj.weight"
        np.testing.assert_array_equal(theirs[name], packed[third * 64 : (third + 1) * 64])
    np.testing.assert_array_equal(theirs["text_projection.weight"], openai["text_projection"].T)
    again = by_path(to_variables("it", "huggingface", v, theirs))
    assert ours.keys() == again.keys()
    assert all(jnp.array_equal(ours[path], again[path]) for path in ours)
