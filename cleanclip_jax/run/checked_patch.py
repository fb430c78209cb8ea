"""A patch's optimisation of which nothing is left to be refused, before anything is written."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from cleanclip_jax.attacks.device_patch import MARGINS, PatchLoss
from cleanclip_jax.attacks.pairs import naming, of_class
from cleanclip_jax.attacks.patterns import pixels
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.config_keys import keys_of
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import in_bucket
from cleanclip_jax.keys import take
from cleanclip_jax.measure.sets import LabelledSet, open_sets
from cleanclip_jax.record import Source
from cleanclip_jax.run.settings import resolve
from cleanclip_jax.sharding import check_batch, make_mesh
from cleanclip_jax.start.start import Start, open_start
from cleanclip_jax.workdir import workdir_path


@dataclass(frozen=True)
class CheckedPatch:
    """All of a patch's optimisation that can be made before a model is loaded."""

    config: ConfigDict  # whole
    settings: Mapping[str, Any]  # config.patch, defaults filled in
    loss: PatchLoss
    side: int
    start: Start
    source: Source
    positives: Int64[np.ndarray, " n"]  # pairs that name the target
    others: Int64[np.ndarray, " m"]
    captions: list[str]  # that name the target, each once
    measured: LabelledSet | None
    output: Path
    identity: Mapping[str, Any]  # all that decides the patch


def check_patch(config: ConfigDict, output: Path) -> CheckedPatch:
    """Refuses what can't be optimised, or not be written to `output`, a .png file."""
    if output.suffix != ".png":
        raise UserError(f"--output={output}: a patch is written as PNG: name a .png file")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if in_bucket(output) or output.is_dir() or not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(
            f"--output={output} can't be written: name a file in a folder on a disk that takes it"
        )
    if config.patch is None:
        raise UserError("config.patch is not set: name its target, as configs/badclip.py does")
    if config.start is None:
        raise UserError("config.start is not set: name the surrogate")
    start = open_start(workdir_path(config.start), config)
    config = resolve(config, start=start)
    settings = take("config.patch", config.patch.to_dict(), keys_of("patch"))
    margin, weight = MARGINS[settings["visual_loss"]]
    for key, default in (("margin", margin), ("weight", weight), ("seed", config.seed)):
        settings[key] = default if settings[key] is None else settings[key]
    if settings["place"] in ("random", "corners"):
        raise UserError(
            f"config.patch.place is {settings['place']}: a patch is optimised at one place: take "
            "center, fixed or [row, col]"
        )
    check_batch(settings["batch_size"], make_mesh(config.mesh.data, config.mesh.fsdp))
    size = config.model.image_size
    shape = {key: settings[key] for key in ("size", "place")}
    at = Trigger("patch", shape).stamp(size, 0)  # refuses a patch that leaves the picture
    terms = {f.name: settings[f.name] for f in fields(PatchLoss) if f.name != "place"}
    loss = PatchLoss(**terms, place=(at.row, at.col))
    source, words = open_source(config.data.train.to_dict()), settings["words"]
    words = [words or settings["target"]] if not isinstance(words, list | tuple) else list(words)
    named, captions = naming(source, words)
    if not captions:
        raise UserError(
            f"config.patch.words: none of the {len(source)} captions names "
            f"{' or '.join(map(repr, words))}: set the words that captions have for the target"
        )
    others = np.flatnonzero(~(named | of_class(source, settings["target"])))
    if len(others) < settings["batch_size"]:
        raise UserError(
            f"config.patch.batch_size is {settings['batch_size']}, and {len(others)} of "
            f"{len(source)} pairs do not name the target: lower it"
        )
    config, measured = _measuring(config, settings["target"])
    if measured is None and loss.text_loss == "classes":
        raise UserError(
            "config.patch.text_loss is classes, and config.evaluation.data, which has the classes, "
            "is not set: name a labelled source, or take contrastive"
        )
    identity = {
        "surrogate": {k: v for k, v in start.identity.items() if k != "path"},
        "data": source.fingerprint,
        "patch": settings,
        "image_size": size,
        "place": [at.row, at.col],
        "classes": [list(measured.classes), list(measured.templates)] if measured else None,
    }
    return CheckedPatch(
        config=config,
        settings=settings,
        loss=loss,
        side=pixels(settings["size"], size),
        start=start,
        source=source,
        positives=np.flatnonzero(named),
        others=others,
        captions=captions,
        measured=measured,
        output=output,
        identity=json.loads(json.dumps(identity)),
    )


def _measuring(config: ConfigDict, target: str) -> tuple[ConfigDict, LabelledSet | None]:
    """The config with the main set alone to be measured, for this target, and that set."""
    settings = config.evaluation
    with config.unlocked(), config.ignore_type():
        config.attack, settings.target = None, target
        for key in ("attack", "sets", "retrieval", "metrics", "floor", "branches"):
            settings[key] = None
        settings.control, settings.projection = False, 0
    return config, next(iter(open_sets(settings)), None)
