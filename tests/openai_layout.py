"""The golden values' names (OpenAI's PyTorch layout) as ours, by one explicit rule a tensor."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = r"(?P<tower>visual\.)?transformer\.resblocks\.(?P<i>\d+)\."
RESNET_BLOCK = r"visual\.layer(?P<stage>\d)\.(?P<i>\d+)\."


def same(x: np.ndarray) -> np.ndarray:
    return x


def transpose(x: np.ndarray) -> np.ndarray:
    return x.T


def kernel(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0)


RULES = [
    (r"logit_scale", "params/logit_scale", same),
    (r"positional_embedding", "params/text/positions", same),
    (r"text_projection", "params/text/projection", same),
    (r"token_embedding\.weight", "params/text/token_embedding", same),
    (r"ln_final\.weight", "params/text/ln_final/norm/scale", same),
    (r"ln_final\.bias", "params/text/ln_final/norm/bias", same),
    (r"visual\.class_embedding", "params/visual/class_token", same),
    (r"visual\.positional_embedding", "params/visual/positions", same),
    (r"visual\.proj", "params/visual/projection", same),
    (r"visual\.ln_(?P<n>pre|post)\.weight", "params/visual/ln_{n}/norm/scale", same),
    (r"visual\.ln_(?P<n>pre|post)\.bias", "params/visual/ln_{n}/norm/bias", same),
    (BLOCK + r"attn\.in_proj_weight", "params/{t}/transformer/blocks_{i}/qkv/kernel", transpose),
    (BLOCK + r"attn\.in_proj_bias", "params/{t}/transformer/blocks_{i}/qkv/bias", same),
    (BLOCK + r"attn\.out_proj\.weight", "params/{t}/transformer/blocks_{i}/out/kernel", transpose),
    (BLOCK + r"attn\.out_proj\.bias", "params/{t}/transformer/blocks_{i}/out/bias", same),
    (
        BLOCK + r"mlp\.c_(?P<n>fc|proj)\.weight",
        "params/{t}/transformer/blocks_{i}/{n}/kernel",
        transpose,
    ),
    (BLOCK + r"mlp\.c_(?P<n>fc|proj)\.bias", "params/{t}/transformer/blocks_{i}/{n}/bias", same),
    (BLOCK + r"ln_(?P<n>\d)\.weight", "params/{t}/transformer/blocks_{i}/ln_{n}/norm/scale", same),
    (BLOCK + r"ln_(?P<n>\d)\.bias", "params/{t}/transformer/blocks_{i}/ln_{n}/norm/bias", same),
    (r"visual\.conv(?P<n>\d)\.weight", "params/visual/conv{n}/kernel", kernel),
    (
        RESNET_BLOCK + r"conv(?P<n>\d)\.weight",
        "params/visual/layer{stage}_{i}/conv{n}/kernel",
        kernel,
    ),
    (
        RESNET_BLOCK + r"downsample\.0\.weight",
        "params/visual/layer{stage}_{i}/downsample_conv/kernel",
        kernel,
    ),
    (r"visual\.attnpool\.positional_embedding", "params/visual/attnpool/positions", same),
]
for letter, name in {"q": "query", "k": "key", "v": "value", "c": "out"}.items():
    pattern, ours = rf"visual\.attnpool\.{letter}_proj", f"params/visual/attnpool/{name}"
    RULES += [(pattern + r"\.weight", ours + "/kernel", transpose)]
    RULES += [(pattern + r"\.bias", ours + "/bias", same)]
for theirs, ours in {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}.items():
    for pattern, place in {
        r"visual\.bn(?P<n>\d)": "visual/bn{n}",
        RESNET_BLOCK + r"bn(?P<n>\d)": "visual/layer{stage}_{i}/bn{n}",
        RESNET_BLOCK + r"downsample\.1": "visual/layer{stage}_{i}/downsample_bn",
    }.items():
        RULES += [(rf"{pattern}\.{theirs}", ours.format(place), same)]


def our_name(name: str, shape: tuple[int, ...]):
    """Returns our path of a tensor and what to do with its values; (None, None) for counters."""
    if name.endswith("num_batches_tracked"):
        return None, None
    if name == "visual.conv1.weight" and shape[-1] > 3:
        return "params/visual/patch_kernel", kernel  # the vision transformer's patches
    for pattern, ours, change in RULES:
        if match := re.fullmatch(pattern, name):
            groups = match.groupdict()
            tower = "visual" if groups.get("tower") else "text"
            return ours.format(t=tower, **groups), change
    raise KeyError(name)


def flat(tensors: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """Their tensors under `prefix` as {our path: values}."""
    out = {}
    for name, values in tensors.items():
        if name.startswith(prefix):
            ours, change = our_name(name.removeprefix(prefix), values.shape)
            if ours and change:
                out[ours] = change(values)
    return out


def nested(values: Mapping[str, np.ndarray | jax.Array]) -> dict:
    """{'a/b': x} as {'a': {'b': x}}."""
    tree: dict = {}
    for path, value in values.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def variables(golden, kind: str) -> dict:
    """The golden model's variables, 'rn' or 'vit', under our names."""
    tensors = flat(golden(f"{kind}_state_dict"))
    return nested({path: jnp.asarray(values) for path, values in tensors.items()})


def relative(ours, theirs) -> float:
    """max|difference| / max|reference|, the measure of tests/golden."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
