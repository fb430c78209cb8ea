"""Cells known again: their configs, and digests of all that decides their figures."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.args import apply
from cleanclip_jax.config import flatten, load
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import Source
from cleanclip_jax.run.flops import flops_per_pair
from cleanclip_jax.run.settings import FREE, resolve
from cleanclip_jax.run.state import make_objective
from cleanclip_jax.start.model import make_model
from cleanclip_jax.suite.suites import Cell, Suite

CLIP_WORDS = 49_408  # of CLIP's own vocabulary
# Keys that decide no figure: what a run may change on its way, where things lie.
_UNIMPORTANT = tuple(key for key in FREE if key != "evaluation.")
_UNIMPORTANT += tuple(f"evaluation.{key}" for key in ("cache", "batch_size", "workers", "data."))


def keys_of_cell(cell: Cell, workdirs: Mapping[str, Any]) -> dict[str, str]:
    """{key: text} of a cell's config, with workdirs in place of {start} and {floor}."""
    keys = {}
    for line in cell.keys:
        key, _, text = line.partition("=")
        for name, path in workdirs.items():
            text = text.replace(f"{{{name}}}", str(path))
        keys[key] = text
    return keys


def config_of_cell(cell: Cell, workdirs: Mapping[str, Any]) -> ConfigDict:
    """The config of a cell's run, not yet resolved."""
    return apply(load(cell.spec), keys_of_cell(cell, workdirs))


def command_of(cell: Cell, workdir: Path, workdirs: Mapping[str, Any]) -> str:
    """The command that trains a cell's run by itself."""
    flags = [f"--config.{k}={v}" for k, v in keys_of_cell(cell, workdirs).items()]
    return shlex.join(
        ["cleanclip", "train", f"--config={cell.spec}", f"--workdir={workdir}", *flags]
    )


@cache
def _opened(source: str) -> Source | None:
    try:
        return open_source(json.loads(source))
    except UserError:
        return None  # its cells fail, and say why


def pairs_of(source: Any) -> Source | None:
    """A source of a config; None where it is not there."""
    return _opened(json.dumps(source.to_dict(), sort_keys=True)) if source else None


def _facts_of_source(source: Any) -> str:
    """A source by its fingerprint: where it lies decides nothing."""
    opened = pairs_of(source)
    return opened.fingerprint if opened else str(source and source.to_dict())


@cache
def digest_of(cell: Cell) -> str:
    """A sha256 of the config, the pairs and the digests of the cells that it depends on.

    No path is in it, so that figures are known again on another machine; nor the program's version.
    """
    parents = {"start": cell.start, "floor": cell.floor}
    facts: dict[str, Any] = {"kind": cell.kind, "options": cell.options}
    facts |= {name: digest_of(parent) for name, parent in parents.items() if parent}
    if cell.kind == "detector":
        facts["detector"] = cell.places["detector"]
    else:
        config = config_of_cell(cell, {name: name for name in parents})
        facts["train"] = _facts_of_source(config.data.train)
        facts["test"] = _facts_of_source(config.evaluation.data)
        facts |= {
            f"config.{key}": repr(value)
            for key, value in flatten(config).items()
            if not key.startswith(("data.train.", *_UNIMPORTANT))
        }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cost_of(suite: Suite, cell: Cell) -> dict[str, float | None]:
    """Steps, pairs and FLOPs of a cell's training, from its config; None where it can't be known.

    Captions are taken as long as the context, which flatters no method.
    """
    if cell.kind == "detector":
        return {"steps": 0, "pairs": None, "flops": None}
    config = config_of_cell(cell, {})
    batch, steps = config.train.batch_size, config.train.steps
    if steps is None:
        source = pairs_of(config.data.train)
        planned = suite.content["sets"][cell.places["set"]].get("pairs", [None, None])
        count = len(source) if source else planned[cell.start is not None]
        steps = count and config.train.epochs * (count // batch)
    if steps is None:
        return {"steps": None, "pairs": None, "flops": None}
    pairs = steps * batch
    root = cell
    while root.start is not None:
        root = root.start
    return {"steps": steps, "pairs": pairs, "flops": pairs * _flops(root.spec, root.keys, cell)}


def _flops(spec: str, keys: tuple[str, ...], cell: Cell) -> float:
    """Of a pair, by the model of a run and the objective of a cell."""
    varying = ("seed=", "attack", "evaluation.", "optimizer.")
    same = tuple(key for key in keys if not key.startswith(varying))
    objective = tuple(key for key in cell.keys if not key.startswith(varying))
    return _flops_of(spec, same, cell.spec, objective)


@cache
def _flops_of(spec: str, keys: tuple[str, ...], cell_spec: str, objective: tuple) -> float:
    config = resolve(config_of_cell(Cell("", (), spec, keys), {}))
    words = config.text.vocab_size if config.text.tokenizer == "trained" else CLIP_WORDS
    minimised = config_of_cell(Cell("", (), cell_spec, objective), {})
    return flops_per_pair(make_model(config, words), make_objective(minimised))
