"""`cleanclip poison`: writes the poison manifest of a config, and a sheet of pictures to look at.

OUTPUT/poison.parquet says what is poisoned and how; `cleanclip train` replays it with
--config.attack="{'manifest': 'OUTPUT/poison.parquet'}". OUTPUT/contact_sheet.png shows some
poisons, from the first to the last.
"""

from collections.abc import Sequence
from pathlib import Path

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.attacks.parts import NONE, parts_of
from cleanclip_jax.attacks.plan import Plan, make_plan
from cleanclip_jax.config import load
from cleanclip_jax.data.export import Exported, export_pairs, export_test
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.report.pictures import poison_sheet
from cleanclip_jax.run.settings import resolve
from cleanclip_jax.workdir import MANIFEST

SHEET = "contact_sheet.png"


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip poison", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/FILE.py[:arg]")
    parser.add_argument("--output", required=True, type=Path, help="a new folder")
    parser.add_argument("--rows", type=int, default=8, help="poisons on the contact sheet")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the poisoned pairs there, PNG and CSV"
    )
    parser.add_argument(
        "--clean", action="store_true", help="with --export: the clean pairs as well"
    )
    parser.add_argument(
        "--export_test",
        type=Path,
        metavar="DIR",
        help="write config.evaluation.data with the trigger on there, PNG and CSV",
    )
    args, overrides = parse(parser, argv)
    if args.rows < 1:
        raise UserError(f"--rows={args.rows}: it takes a whole number, 1 or more")
    if args.clean and args.export is None:
        raise UserError("--clean is for --export=DIR: give both, or neither")
    config = resolve(apply(load(args.config), overrides))
    if config.attack is None:
        raise UserError(f"{args.config} poisons nothing: set config.attack, as pretrain.py:badnet")
    if args.export_test is not None and not config.evaluation.data:
        raise UserError("--export_test: config.evaluation.data is not set: name a labelled source")
    source = open_source(config.data.train.to_dict())
    size, share = config.model.image_size, config.data.max_bad_share
    plan = make_plan(config.attack.to_dict(), source, size)
    write_plan(plan, args.output)
    write_whole(args.output / SHEET, poison_sheet(source, plan, args.rows)[0])
    print(
        f"{len(plan)} of {len(source)} pairs {plan}\n"
        f"written: {args.output / MANIFEST}, {args.output / SHEET}"
    )
    if args.export is not None:
        done = export_pairs(source, plan, args.export, clean=args.clean, max_bad_share=share)
        summarise(done, args.export / "pairs.csv")
    if args.export_test is not None:
        attack, test = config.evaluation.attack.to_dict(), config.evaluation.data.to_dict()
        for part in parts_of(attack, "evaluation.attack"):
            if part.trigger.name == NONE:
                continue  # its pictures are the clean ones
            folder = args.export_test / part.name
            geometry = attack.get("geometry", "crop")
            shown = (open_source(test), part.trigger, geometry, size, folder)
            summarise(export_test(*shown, max_bad_share=share), folder / "labels.csv")
    return 0


def write_plan(plan: Plan, folder: Path) -> None:
    """Writes the manifest into a new folder; one that holds this plan already is left alone."""
    path = folder / MANIFEST
    if path.is_file():
        if Plan.load(path) != plan:
            raise UserError(f"{path} is another plan: name a new folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty and holds no poison plan: name a new folder")
    else:
        plan.save(path)


def summarise(done: Exported, path: Path) -> None:
    """Prints what an export wrote, and what it had to leave out."""
    left_out = f", {done.bad} unreadable left out (bad_rows.jsonl)" if done.bad else ""
    print(f"written: {path}, {done.rows} pictures{left_out}")
