"""`cleanclip invert`: finds a backdoor's target, its trigger, and the units that it drives.

Of config.start, on clean pairs of config.data.train; the pictures that it is measured on are never
read. OUTPUT gets target.json, trigger.npz, neurons.npz and trigger.png, all or nothing: the job is
short, and begins anew where it was stopped. configs/invertune.py tunes with them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import load
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.detect.invert_target import Result, Settings, invert_target
from cleanclip_jax.detect.scored import Scored
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import folder_written_whole
from cleanclip_jax.jobs.detect_captions import named_classes
from cleanclip_jax.losses.inverted import Inverted
from cleanclip_jax.measure.clean_pictures import clean_pictures
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.measure.ranks import text_classifier
from cleanclip_jax.measure.sets import LabelledSet
from cleanclip_jax.report.trigger_picture import trigger_picture
from cleanclip_jax.run.settings import resolve
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import open_start
from cleanclip_jax.text.prompts import class_index
from cleanclip_jax.views.normalise import MEAN, STD
from cleanclip_jax.workdir import workdir_path

PICTURE = "trigger.png"
SHOWN = 4  # pictures with the trigger on


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip invert", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/invertune.py, or another")
    parser.add_argument("--output", required=True, type=Path, help="a new folder")
    parser.add_argument("--target", help="a class name or index; default: it is found")
    parser.add_argument("--pictures", type=int, default=1000, help="clean ones, at most")
    for name, what in (
        ("steps", "of the inversion"),
        ("search", "steps of each patch by which a target is found"),
        ("batch", "pictures a step"),
        ("layers", "of the largest impacts, whose units are found"),
        ("seed", "draws pictures and beginnings"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings(), name), help=what)
    args, overrides = parse(parser, argv)
    for name in ("pictures", "steps", "search", "batch", "layers"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: it takes a whole number, 1 or more")
    output: Path = args.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty: name a new folder")
    config = apply(load(args.config), overrides)
    if not config.start:
        raise UserError("config.start is not set: name the model whose backdoor is to be inverted")
    start = open_start(workdir_path(config.start), config)
    config = resolve(config, start=start)
    measured = named_classes(config)
    target = None if args.target is None else class_index(args.target, measured.classes)
    source = open_source(config.data.train.to_dict())
    if source.fingerprint == measured.source.fingerprint:
        raise UserError(
            "config.data.train is what the model is measured on: name clean pairs of your own"
        )
    settings = Settings(
        **{x: getattr(args, x) for x in ("batch", "steps", "search", "layers", "seed")}
    )
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    encoder = encoder_from(start, mesh, config)
    pictures = clean_pictures(config, source, args.pictures, args.seed)
    classifier = text_classifier(encoder, measured.classes, measured.templates)
    result = invert_target(Scored(encoder, classifier), pictures, settings, target)
    facts = facts_of(result, measured, settings, start.identity, source)
    with folder_written_whole(output) as folder:
        Inverted(facts, result.mask, result.pattern, result.critical).save(folder)
        (folder / PICTURE).write_bytes(picture(result, pictures))
    print(
        f"target {facts['target']['name']!r} ({'found' if facts['found'] else 'given'}): the "
        f"trigger takes {result.landing:.1%} of {result.pictures[0]} other pictures there, with "
        f"{facts['mask_share']:.1%} of the mask\nwritten: {output}"
    )
    return 0


def facts_of(
    result: Result,
    measured: LabelledSet,
    settings: Settings,
    identity: dict[str, Any],
    source: Source,
) -> dict[str, Any]:
    """What target.json says."""
    index, shares = result.target.index, result.target.shares
    return {
        "target": {"index": index, "name": measured.classes[index]},
        "found": shares is not None,
        "smallest_patches": {measured.classes[i]: share for i, share in (shares or {}).items()},
        "landing": result.landing,
        "pictures": {"others": result.pictures[0], "target": result.pictures[1]},
        "mask_share": float(np.abs(result.mask).mean()),
        "impact": dict(result.impact),
        "critical": {
            layer: {"units": int(x.sum()), "of": x.size} for layer, x in result.critical.items()
        },
        "settings": vars(settings),
        "start": identity,
        "data": source.fingerprint,
    }


def picture(result: Result, pictures: UInt8[np.ndarray, "n s s 3"]) -> bytes:
    """The trigger, and some pictures without and with it."""
    some = pictures[:SHOWN] / np.float32(255)
    mask, triggered = result.mask, (some - MEAN) / STD
    triggered = mask * result.pattern + (1 - mask) * triggered
    return trigger_picture(mask, result.pattern * STD + MEAN, some, triggered * STD + MEAN)
