"""What terms need of an image tower's layers, and of what jobs have made for them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import of_signature, take
from cleanclip_jax.losses.terms import Artefact
from cleanclip_jax.models.blocks import at_least_float32
from cleanclip_jax.models.clip import CLIP, encode_image_layers
from cleanclip_jax.run.state import Objective
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.workdir import INPUTS, Workdir


def encode_layers(
    model: CLIP,
    objective: Objective,
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    images: jax.Array,
    artefacts: Mapping[str, Any],
) -> tuple[jax.Array, dict[str, dict[str, jax.Array]], Any]:
    """Features [b, views, d] of pictures [b, views, s, s, 3], layers, and new batch statistics.

    Each view and the triggered pictures have a forward of their own. The running statistics see
    none with the trigger on ("inverted trigger" in docs/fidelity.md).
    """
    (name,) = (name for name, term in objective.terms.items() if "layers" in term.needs)
    put, arrays = objective.terms[name].triggered, artefacts[name]
    train = objective.moves("visual")
    assert put is not None

    def forward(stats: Any, pictures: jax.Array) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        variables = {"params": params, "batch_stats": stats}
        features, layers, new = encode_image_layers(model, variables, pictures, train)
        chosen = {name: at_least_float32(layers[name]) for name in arrays["critical"]}
        return features, chosen, new if train else stats

    features, clean, stats = forward(batch_stats, images[:, 0])
    triggered = forward(batch_stats, put(arrays, images[:, 0]))[1]
    rows = [features]
    for view in range(1, images.shape[1]):
        features, _, stats = forward(stats, images[:, view])
        rows.append(features)
    return jnp.stack(rows, 1), {"clean": clean, "triggered": triggered}, stats


def open_artefacts(
    objective: Objective, model: CLIP, start: Any, workdir: Workdir
) -> dict[str, Artefact]:
    """What jobs have made for the terms of an objective; refuses what is another model's.

    Args:
      start: the run's, where it is open: an artefact belongs to the weights that it was made of.
    """
    opened: dict[str, Artefact] = {}
    for name, term in objective.terms.items():
        if term.artefact is None:
            continue
        where = f"config.objective.{name}"
        options = take(where, objective.options.get(name, {}), of_signature(term.artefact))
        artefact = opened[name] = term.artefact(**options)
        made_of = None if start is None else start.identity["digest"]
        if None not in (artefact.start, made_of) and artefact.start != made_of:
            raise UserError(
                f"{where}: {artefact.path} was made of another model than config.start: run "
                "cleanclip invert on this one"
            )
        if "layers" in term.needs:
            _check_shapes(where, artefact, model)
    recorded = workdir.read_json(INPUTS).get("artefacts", {}) if workdir.has(INPUTS) else {}
    for name, artefact in opened.items():
        if name in recorded and recorded[name]["digest"] != artefact.digest:
            raise UserError(
                f"{workdir} was begun with another {artefact.path} than lies there now: bring it "
                "back, or name a new workdir"
            )
    return opened


def _check_shapes(where: str, artefact: Artefact, model: CLIP) -> None:
    """Refuses an artefact whose trigger or layers a model does not have."""
    side = model.variant.image_size
    pictures = jax.ShapeDtypeStruct((1, side, side, 3), model.compute.dtype)
    layers = jax.eval_shape(
        lambda variables, x: encode_image_layers(model, variables, x)[1],
        shapes_of(model),
        pictures,
    )
    expected = {name: layer.shape[1:] for name, layer in layers.items()}
    given = {name: array.shape for name, array in artefact.arrays["critical"].items()}
    fits = given.items() <= expected.items()
    if not fits or artefact.arrays["mask"].shape != (side, side, 3):
        raise UserError(
            f"{where}: {artefact.path} is of another architecture: run cleanclip invert on "
            "config.start"
        )
