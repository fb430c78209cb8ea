"""Weighted sums of models' variables: a start shrunk and perturbed, two models mixed."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp

Variables = Mapping[str, Any]


def combined(weights: Sequence[float], trees: Sequence[Any]) -> Any:
    """The weighted sum of trees of equal shapes, leaf by leaf, JAX's arrays or NumPy's.

    Summed in float32 or better, in the widest type of the leaves. A tree of weight 0 has no part in
    it, so that weights 1 and 0 give the first tree bit for bit.
    """

    def leaf(*xs: Any) -> Any:
        dtype = reduce(jnp.promote_types, (x.dtype for x in xs))
        high = jnp.promote_types(dtype, jnp.float32)
        summands = [
            weight * x.astype(high) for weight, x in zip(weights, xs, strict=True) if weight
        ]
        return reduce(add, summands or [0 * xs[0].astype(high)]).astype(dtype)

    return jax.tree.map(leaf, *trees)


def shrink_and_perturb(
    variables: Variables, fresh: Variables, shrink: float, perturb: float, logit_scale: bool = False
) -> dict[str, Any]:
    """shrink · parameters + perturb · fresh ones (arXiv 2311.14948); statistics stay.

    Args:
      logit_scale: whether it shrinks as well ("shrink and perturb" in docs/fidelity.md).
    """
    params = combined([shrink, perturb], [variables["params"], fresh["params"]])
    if not logit_scale:
        params["logit_scale"] = variables["params"]["logit_scale"]
    return {**variables, "params": params}


def mixed(a: Variables, b: Variables, alpha: float) -> dict[str, Any]:
    """(1 - alpha) · a + alpha · b of all parameters, logit_scale too; alpha may be any number.

    Running statistics are a's, but b's for alpha 1: of what lies between they say nothing, and are
    to be taken anew (`measure.statistics`).
    """
    params = combined([1 - alpha, alpha], [a["params"], b["params"]])
    return {"params": params, "batch_stats": (b if alpha == 1 else a)["batch_stats"]}
