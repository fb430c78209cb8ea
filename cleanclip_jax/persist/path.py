"""The models between a cleaned and a poisoned one: weights mixed, nothing trained."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from cleanclip_jax.measure.batch_statistics import drawn_pictures, fresh_statistics
from cleanclip_jax.measure.encoder import Encoder, encoder_of
from cleanclip_jax.measure.features import reading_of
from cleanclip_jax.persist.trial import Trial
from cleanclip_jax.report.persist_rows import POISONED
from cleanclip_jax.start.combine import mixed
from cleanclip_jax.start.mixing import common_dtype, common_tokenizer, variables_of
from cleanclip_jax.start.model import make_model


def measure_path(trial: Trial, say: Callable[[str], None]) -> None:
    """CA and ASR of (1 - alpha) · model + alpha · poisoned, model by model, for each alpha.

    A ResNet's running statistics are taken anew but at both ends. The never poisoned model's path
    leads to the same poisoned one; where two models lie in basins of their own, neither CA nor ASR
    means much on the way, which the CA shows.
    """
    for model in trial.models:
        places = [a for a in trial.settings.alphas if not trial.known(**_row(model, a))]
        if not places:
            continue
        ends = [variables_of(trial.starts[name], trial.mesh) for name in (model, POISONED)]
        for alpha in places:
            say(f"path: {model} at {alpha}")
            encoder = mixture(trial, model, ends, float(alpha))
            trial.once(partial(trial.measure, encoder), **_row(model, alpha))


def _row(model: str, alpha: str) -> dict[str, Any]:
    return {"protocol": "path", "model": model, "at": float(alpha)}


def mixture(trial: Trial, model: str, ends: list[dict[str, Any]], alpha: float) -> Encoder:
    """The encoder of a place on a model's path to the poisoned one."""
    start, poisoned = trial.starts[model], trial.starts[POISONED]
    tokenizer = common_tokenizer(start, poisoned)
    config = start.config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.model.param_dtype = common_dtype(start, poisoned)
    variables = jax.tree.map(np.asarray, mixed(ends[0], ends[1], alpha))
    built = make_model(config, tokenizer.vocab_size)
    encoder = encoder_of(built, variables, tokenizer, trial.mesh)
    if variables["batch_stats"] and alpha not in (0, 1):
        drawn = (trial.source, trial.settings.pictures, 0, built.variant.image_size)
        pictures = drawn_pictures(*drawn, reading_of(trial.config))
        variables = {**variables, "batch_stats": fresh_statistics(encoder, pictures)}
        encoder = encoder_of(built, variables, tokenizer, trial.mesh)
    return encoder
