"""Between PyTorch's tensors and ours, bit for bit."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.names import Rule, constants, rules
from cleanclip_jax.start.torch.origin import Origin


def to_variables(
    where: str, layout: str, v: Variant, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Their tensors as our variables, contiguous and each in its own type.

    What lies alike is a view of the file. NaN, infinity and variances below 0 are refused; `where`
    begins the message.
    """
    flat: dict[str, np.ndarray] = {}
    thirds: dict[str, dict[int, np.ndarray]] = {}
    for rule in rules(layout, v):
        if rule.counts:
            continue
        values = tensors[rule.name]
        if bad := int(values.size - np.isfinite(values).sum()):
            raise UserError(
                f"{where}: {rule.name} holds {bad} values that are NaN or infinite (of "
                f"{values.size})"
            )
        if rule.path.endswith("/var") and (values < 0).any():
            raise UserError(f"{where}: {rule.name} holds variances below 0")
        if rule.third is None:
            flat[rule.path] = np.asarray(rule.to_ours(values), order="C")
            continue
        parts = thirds.setdefault(rule.path, {})
        parts[rule.third] = rule.to_ours(values)
        if len(parts) == 3:
            kind = _dtype(_common(str(x.dtype) for x in parts.values()))
            flat[rule.path] = np.concatenate([parts[i].astype(kind) for i in range(3)], -1)
    tree = unflatten_dict(flat, sep="/")
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}


def to_tensors(
    layout: str,
    v: Variant,
    variables: Mapping[str, Any],
    origin: Origin | None = None,
    forwards: int = 0,
    dtype: str | None = None,
) -> dict[str, np.ndarray]:
    """Our variables as a checkpoint's tensors, each contiguous, in the source's order and types.

    Without a source: in the layout's own order, and float32. A value that does not fit its type is
    refused.

    Args:
      layout: of `names.LAYOUTS`.
      origin: the checkpoint that the run began with.
      forwards: passes in training mode that the run has made.
      dtype: in place of the source's types, for all that is floating point.
    """
    return dict(each_tensor(layout, v, variables, origin, forwards, dtype))


def each_tensor(
    layout: str,
    v: Variant,
    variables: Mapping[str, Any],
    origin: Origin | None = None,
    forwards: int = 0,
    dtype: str | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Gives the items of `to_tensors` one by one, each made when it is reached."""
    flat: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    by_name = {rule.name: rule for rule in rules(layout, v)}
    if left := sorted(flat.keys() - {rule.path for rule in by_name.values()}):
        raise UserError(f"{left[0]} has no name in the {layout} layout")
    same = origin.tensors if origin is not None and origin.layout == layout else {}
    kinds = _kinds_by_path(origin, v) if origin else {}
    before, sizes = origin.counters if origin else {}, constants(layout, v)
    for name in same or by_name:
        rule = by_name.get(name)
        if rule is None:
            yield name, sizes[name].astype(same[name])
        elif rule.counts:
            count = np.asarray(before.get(name, 0) + forwards)
            yield name, count.astype(same.get(name, count.dtype))
        else:
            kind = dtype or same.get(name) or kinds.get(rule.path, "float32")
            yield name, _cast(rule, rule.to_torch(np.asarray(flat[rule.path])), kind)


def _kinds_by_path(origin: Origin, v: Variant) -> dict[str, str]:
    """The source's types by our paths."""
    kinds: dict[str, str] = {}
    for rule in rules(origin.layout, v):
        if not rule.counts:
            kind = origin.tensors[rule.name]
            kinds[rule.path] = _common([kind, kinds.get(rule.path, kind)])
    return kinds


def _common(kinds: Iterable[str]) -> str:
    """The type of all, or one that holds them all."""
    different = set(kinds)
    if len(different) == 1:
        return different.pop()
    return "float64" if "float64" in different else "float32"


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _cast(rule: Rule, values: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.asarray(values, _dtype(kind), order="C")
    if cast.dtype != values.dtype and not np.isfinite(cast).all():
        largest = float(np.abs(values.astype(np.float64)).max())
        raise UserError(
            f"{rule.name} does not fit {kind} (it goes up to {largest:.4g}): take --dtype=float32"
        )
    return cast
