"""`cleanclip detect model`: how small a patch makes an image encoder take all pictures for alike.

DECREE (CVPR 2023), with several seeds, on config.data.train's pictures. A backdoored encoder needs
a smaller patch than a clean one, but by how much depends on the architecture: give a clean model of
the same with --floor. A warp or a faint blend is no patch, and may stay hidden. OUTPUT gets
model.json, triggers.npz and trigger.png; seeds that are done there are not searched again.
--captions says how small a patch to each of some captions is, which tells the target.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.arrays import read_arrays, write_arrays
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.detect.decree import smallest_patch
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json, write_whole
from cleanclip_jax.jobs.detect_captions import CLASSES, candidates, in_lines, invert_captions
from cleanclip_jax.jobs.of_model import FREE, base_of, open_model
from cleanclip_jax.measure.clean_pictures import clean_pictures
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.report.trigger_picture import trigger_picture
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import open_start
from cleanclip_jax.workdir import workdir_path

FOLDER = "detect"
FIGURES, TRIGGERS, PICTURE = "model.json", "triggers.npz", "trigger.png"
SHOWN = 4  # pictures with the trigger on
_SEARCH = {"of": {"model", "floor"}, "seed": int, "size": float | None, "share": float | None}
_SHAPE = {"settings": dict, "searches": [{**_SEARCH, "steps": int}]}


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser("cleanclip detect model", description=__doc__)
    parser.add_argument(
        "--workdir", required=True, type=workdir_path, help="a run, or a PyTorch checkpoint"
    )
    parser.add_argument("--floor", type=workdir_path, help="a clean model of that architecture")
    parser.add_argument("--output", type=workdir_path, help=f"a folder; default: WORKDIR/{FOLDER}")
    parser.add_argument(
        "--captions",
        metavar=f"FILE|{CLASSES}",
        help="a patch to each caption of a .csv or a text file, or to each class, too",
    )
    for name, default, what in (
        ("control", 20, "captions of config.data.train beside those of the file"),
        ("seeds", 3, "searches of each model"),
        ("steps", 2000, "of a search, at most"),
        ("pictures", 1000, "of config.data.train, at most"),
        ("batch", 32, "pictures a step"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    args, overrides = parse(parser, argv)
    for name in ("control", "seeds", "steps", "pictures", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)}: it takes a whole number, 1 or more")
    start, config = open_model(args.workdir, overrides, ("data.", *FREE))
    starts = {"model": start}
    if args.floor is not None:
        starts["floor"] = open_start(args.floor, base_of(overrides))
    if args.output is None and not args.workdir.is_dir():
        raise UserError(f"{args.workdir} is no workdir: name a folder with --output=FOLDER")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    towers = {of: Tower(encoder_from(start, mesh)) for of, start in starts.items()}
    variants = [tower.encoder.model.variant for tower in towers.values()]
    if len({(v.image_size, v.vision_layers, v.vision_width, v.patch) for v in variants}) > 1:
        raise UserError(f"--floor={args.floor} is of another architecture: sizes do not compare")
    source = open_source(config.data.train.to_dict())
    some = None
    if args.captions is not None:
        some = candidates(towers["model"], config, source, args.captions, args.control)
    folder: Path = args.output or args.workdir / FOLDER
    settings = {
        **{name: getattr(args, name) for name in ("steps", "pictures", "batch")},
        **{of: start.identity["digest"] for of, start in starts.items()},
        "data": source.fingerprint,
    }
    searches = earlier(folder, settings)
    pictures = clean_pictures(config, source, args.pictures, 0)
    arrays = read_arrays(folder / TRIGGERS) if searches else {}
    for of, tower in towers.items():
        for seed in range(args.seeds):
            if any((one["of"], one["seed"]) == (of, seed) for one in searches):
                continue
            patch = smallest_patch(tower, pictures, args.steps, args.batch, seed)
            arrays |= {f"{of}_{seed}_mask": patch.mask, f"{of}_{seed}_pattern": patch.pattern}
            sizes = {"size": patch.size, "share": patch.share, "steps": patch.steps}
            searches.append({"of": of, "seed": seed, **sizes})
            write_arrays(folder / TRIGGERS, arrays)
            write_figures(folder, settings, searches)
            print(f"  {of}, seed {seed}: {in_words(patch.share)}, {patch.steps} steps")
    write_whole(folder / PICTURE, picture(searches, arrays, pictures))
    print(summary(write_figures(folder, settings, searches)))
    if some is not None:
        given = (towers["model"], some, pictures, folder, settings, args.steps, args.batch)
        print(in_lines(invert_captions(*given)))
    print(f"written: {folder / FIGURES}, {folder / TRIGGERS}, {folder / PICTURE}")
    return 0


def earlier(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The searches that are done there, of the same settings."""
    if not (folder / FIGURES).is_file():
        return []
    content = read_json(folder / FIGURES, _SHAPE, "remove it, or name another --output")
    if content["settings"] != settings:
        raise UserError(
            f"{folder / FIGURES} is of other models, pictures or flags: name another --output"
        )
    return content["searches"]


def write_figures(
    folder: Path, settings: dict[str, Any], searches: list[dict[str, Any]]
) -> dict[str, Any]:
    """Writes model.json; returns its content."""
    median = {}
    for of in dict.fromkeys(one["of"] for one in searches):
        shares = [one["share"] for one in searches if one["of"] == of]
        reached = [share for share in shares if share is not None]
        median[of] = float(np.median(reached)) if reached else None
    model, floor = median.get("model"), median.get("floor")
    ratio = None if model is None or not floor else model / floor
    content = {"settings": settings, "searches": searches, "median": median, "ratio": ratio}
    write_whole(folder / FIGURES, json.dumps(content, indent=2) + "\n")
    return content


def in_words(share: float | None) -> str:
    """A patch's size."""
    return "no patch that succeeds" if share is None else f"{share:.2%} of the picture"


def summary(content: dict[str, Any]) -> str:
    """What was measured; never a verdict."""
    text = f"smallest patch, the median of its seeds: {in_words(content['median']['model'])}"
    if "floor" not in content["median"]:
        return f"{text}; without --floor that says little: sizes differ between architectures"
    ratio = "" if content["ratio"] is None else f", a ratio of {content['ratio']:.2f}"
    return f"{text}; of the floor model: {in_words(content['median']['floor'])}{ratio}"


def picture(
    searches: list[dict[str, Any]],
    arrays: dict[str, np.ndarray],
    pictures: UInt8[np.ndarray, "n s s 3"],
) -> bytes:
    """The model's smallest patch, and some pictures without and with it."""
    of_model = [one for one in searches if one["of"] == "model"]
    best = min(of_model, key=lambda one: np.inf if one["size"] is None else one["size"])
    names = (f"model_{best['seed']}_{part}" for part in ("mask", "pattern"))
    mask, pattern = (arrays[name] for name in names)
    mask, clean = mask[..., None], pictures[:SHOWN] / np.float32(255)
    return trigger_picture(mask, pattern, clean, (1 - mask) * clean + mask * pattern)
