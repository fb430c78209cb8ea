"""Between PyTorch's tensors and ours, bit for bit, and what the way back needs to know."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.names import Rule, constants, rules
from cleanclip_jax.start.torch.paging import page_out
from cleanclip_jax.start.torch.tree import nested

FILE = "interop.json"
_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """What a PyTorch checkpoint is beside its values; lies in a workdir as interop.json.

    Attributes:
      format: openai | open_clip | cleanclip | huggingface.
      layout: of its names (`names.LAYOUTS`).
      prefix: before every name: 'module.' where it was saved from a parallel module, else ''.
      tensors: the type of each tensor by its name without prefix, in the file's order.
      counters: every num_batches_tracked, before the first step of the run here.
      wrapper: what lies beside its state_dict (epoch, name); None: there is no wrapper.
      files: the JSON files that came with it, by name.
    """

    format: str
    layout: str
    prefix: str
    tensors: dict[str, str]
    counters: dict[str, int] = field(default_factory=dict)
    wrapper: dict[str, Any] | None = None
    files: dict[str, Any] = field(default_factory=dict)

    def save(self, workdir: Path) -> None:
        """Writes interop.json."""
        content = {"version": _VERSION, **dataclasses.asdict(self)}
        write_whole(workdir / FILE, json.dumps(content, indent=1) + "\n")

    def advanced(self, forwards: int) -> "Origin":
        """The same after so many forward passes in training mode."""
        counters = {name: count + forwards for name, count in self.counters.items()}
        return dataclasses.replace(self, counters=counters)


def load_origin(workdir: Path) -> Origin | None:
    """Reads a workdir's interop.json; None where no PyTorch checkpoint is behind the run.

    Raises:
      UserError: it is damaged, or of another version.
    """
    path = workdir / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("version") != _VERSION:
            raise UserError(f"{path} is of another version: convert the checkpoint again")
        return Origin(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): convert the checkpoint again") from None


def to_variables(
    where: str, layout: str, v: Variant, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Their tensors as our variables, contiguous and each in its own type.

    What lies alike is a view of theirs. What has been read of a mapped file is let go again.

    Raises:
      UserError: a tensor holds NaN or infinity; the message names it.
    """
    parts: dict[str, dict[int | None, np.ndarray]] = {}
    for rule in rules(layout, v):
        if rule.counts:
            continue
        theirs = tensors[rule.name]
        if not np.isfinite(theirs).all():
            bad = int(theirs.size - np.isfinite(theirs).sum())
            raise UserError(
                f"{where}: {rule.name} holds {bad} values that are NaN or infinite (of "
                f"{theirs.size})"
            )
        ours = np.asarray(rule.to_ours(theirs), order="C")
        parts.setdefault(rule.path, {})[rule.third] = ours
        page_out(theirs)
        if len(parts[rule.path]) == 3:
            found = parts[rule.path]
            kind = _dtype(_common(str(third.dtype) for third in found.values()))
            thirds = [found[i].astype(kind, copy=False) for i in range(3)]
            parts[rule.path] = {None: np.concatenate(thirds, -1)}
    flat = {path: found[None] for path, found in parts.items()}
    tree = nested(flat)
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}


def weights(
    layout: str,
    v: Variant,
    groups: Iterable[Mapping[str, np.ndarray]],
    origin: Origin | None = None,
    dtype: str | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Gives our variables as their tensors, as they come, each contiguous and in its type.

    Args:
      layout: of `names.LAYOUTS`.
      groups: our variables by path, all in one mapping or several.
      origin: the checkpoint that the run began with, whose types are kept; None: float32.
      dtype: in place of the source's, for all that is floating point.

    Raises:
      UserError: a value does not fit its type, or one of ours has no name there.
    """
    by_path: dict[str, list[Rule]] = {}
    for rule in rules(layout, v):
        by_path.setdefault(rule.path, []).append(rule)
    kinds = _kinds_by_path(origin, v) if origin else {}
    for group in groups:
        for path, ours in group.items():
            if path not in by_path:
                raise UserError(f"{path} has no name in the {layout} layout")
            for rule in by_path[path]:
                kind = kinds.get(path, "float32")
                if origin is not None and origin.layout == layout:
                    kind = origin.tensors[rule.name]
                yield rule.name, _cast(rule, rule.to_theirs(ours), dtype or kind)


def to_tensors(
    layout: str,
    v: Variant,
    groups: Iterable[Mapping[str, np.ndarray]],
    origin: Origin | None = None,
    forwards: int = 0,
    dtype: str | None = None,
) -> dict[str, np.ndarray]:
    """All of a checkpoint's tensors, in the source's order or the layout's own.

    Args:
      forwards: passes in training mode that the run has made.

    The other arguments, and the errors, are those of `weights`.
    """
    out = dict(weights(layout, v, groups, origin, dtype)) | derived(layout, v, origin, forwards)
    same = origin is not None and origin.layout == layout
    names = origin.tensors if same and origin else [rule.name for rule in rules(layout, v)]
    return {name: out[name] for name in names}


def derived(
    layout: str, v: Variant, origin: Origin | None = None, forwards: int = 0
) -> dict[str, np.ndarray]:
    """The tensors that are no weights: batch norm's counters and, where the source has any, sizes.

    Its types are kept where the layout is the source's.
    """
    before = origin.counters if origin else {}
    found = {
        rule.name: np.asarray(before.get(rule.name, 0) + forwards)
        for rule in rules(layout, v)
        if rule.counts
    }
    if origin is None or origin.layout != layout:
        return found
    found |= {n: x for n, x in constants(layout, v).items() if n in origin.tensors}
    return {name: x.astype(origin.tensors[name]) for name, x in found.items()}


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
