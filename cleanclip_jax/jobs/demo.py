"""`cleanclip demo`: poisons a small CLIP on photographs, finds the poisons, and cleans it.

Three runs of configs/fashion_demo.py (poisoned, then MMCL alone and CleanCLIP, both from the
poisoned one), a look for the poisoned pairs, a table, results.json, report.html, and the cleaned
model as a file for PyTorch. --digits takes handwriting in their place (configs/demo.py).
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import load
from cleanclip_jax.detect.findings import DETECT
from cleanclip_jax.detect.opened import open_scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs import convert
from cleanclip_jax.process import keep_compiled, keep_memory
from cleanclip_jax.report.detected import FOLDER
from cleanclip_jax.report.document import PAGE, write_report
from cleanclip_jax.report.evaluation import check_measured, measure_run
from cleanclip_jax.report.pair_scan import scan_pairs
from cleanclip_jax.report.runs import gather
from cleanclip_jax.run.build import build
from cleanclip_jax.run.loop import train
from cleanclip_jax.start.start import Start, open_start
from cleanclip_jax.workdir import EVALUATION, MANIFEST, Workdir, workdir_path

STAGES = {"poisoned": "poisoned", "mmcl": "MMCL only", "cleanclip": "CleanCLIP"}
FIGURES = ("ca", "asr", "asr_all", "pa")
RESULTS, CLEANED = "results.json", "cleaned.safetensors"
DATASETS = {"configs/demo.py": "scikit-learn digits", "configs/fashion_demo.py": "fashion products"}
# By the first, its highest share. More neighbours than the poisons and the pictures of their target
# are among the references: between them poisons hide.
DETECTORS, NEIGHBOURS, DROP = ("kdist", "slof", "clip_high"), 256, 0.05
SHOWN_PICTURES = 4  # of those that the trigger changes most
Results = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip demo", description=__doc__)
    parser.add_argument(
        "--workdir", type=workdir_path, default=Path("runs/demo"), help="its folder"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--digits", action="store_true", help="on handwriting, in half the time")
    args, overrides = parse(parser, argv)
    keep_compiled()
    keep_memory()
    for key in ("seed", "start"):
        if key in overrides:
            raise UserError(f"the demo sets config.{key} itself; a seed is given with --seed")
    folder = free_folder(args.workdir)
    spec = list(DATASETS)[not args.digits]
    results = demo(folder, {**overrides, "seed": str(args.seed)}, spec)
    poisons, seen = results["poisons"], results["found"]
    print(
        f"\n{results['dataset']}: {poisons} pairs poisoned, "
        f"target {results['target']!r}, {results['seconds']:.0f} s"
    )
    print(
        f"of the {poisons} poisons {seen['poisons']} are among the {seen['pairs']} pairs that are "
        f"most suspicious to {seen['by']}"
    )
    print(f"{'':<12}" + "".join(f"{name:>9}" for name in ("CA", "ASR", "ASR all", "PA")))
    for stage in results["stages"]:
        cells = "".join(f"{100 * stage[figure]:8.1f}%" for figure in FIGURES)
        print(f"{STAGES[stage['name']]:<12}{cells}")
    print(f"written: {folder / RESULTS}, {folder / PAGE}, {folder / CLEANED}")
    return 0


def free_folder(folder: Path) -> Path:
    """Returns `folder`, or where a demo was finished there the next free folder beside it."""
    free, number = folder, 2
    while Workdir(free).has(RESULTS):
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    if free != folder:
        print(f"{folder} holds a finished demo: this one goes to {free}")
    return free


def demo(folder: Path, overrides: Mapping[str, str], spec: str) -> Results:
    """Trains and measures the three stages of a config in `folder`, and writes all files there."""
    began = time.perf_counter()
    stages, seed, seen = [], 0, {}
    for stage, title in STAGES.items():
        print(f"{title}: training in {folder / stage}")
        # The attack is the first stage's; the others are clean and inherit what is measured.
        first = stage == "poisoned"
        keys = {k: v for k, v in overrides.items() if first or not k.startswith("attack")}
        config = apply(load(f"{spec}:{stage}"), keys)
        config.start = None if first else str(folder / "poisoned")
        with build(config, folder / stage) as run:
            check_measured(run.config, folder / stage / EVALUATION)
            train(run)
        start = open_start(folder / stage)
        figures, seed = measure_run(start, run.config)["figures"], config.seed
        stages.append({"name": stage, **{name: figures[name]["value"] for name in FIGURES}})
        print("  " + ", ".join(f"{name} {100 * stages[-1][name]:.1f} %" for name in FIGURES))
        if first:
            seen = find_poisons(start, run.config)
    if not (folder / CLEANED).exists():
        convert.main([str(folder / "cleanclip"), str(folder / CLEANED)])
    plan = Plan.load(folder / "poisoned" / MANIFEST)
    results = {
        "dataset": DATASETS[spec],
        "trigger": plan.trigger.config,
        "target": plan.target,
        "poisons": len(plan),
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "found": seen,
        "stages": stages,
    }
    Workdir(folder).write_json(RESULTS, results)
    report(folder, results)
    return results


def find_poisons(start: Start, config: ConfigDict) -> dict[str, Any]:
    """Scores a run's pairs; returns how many of its poisons are among the most suspicious."""
    settings = Settings(DETECTORS, NEIGHBOURS)
    folder = start.path / FOLDER
    print(f"looking for the poisoned pairs: {', '.join(DETECTORS)}")
    scan_pairs(folder, open_scan(start, config, settings), settings, DETECTORS[0], DROP)
    results = json.loads((folder / DETECT).read_text())
    seen = {"by": DETECTORS[0], "pairs": results["dropped"], "poisons": results["dropped_poisons"]}
    print(f"  {seen['poisons']} of {results['poisons']} are among {seen['pairs']} pairs")
    return seen


def report(folder: Path, results: Results) -> None:
    """Writes report.html: `cleanclip report` of the three stages, and what they show."""
    poisoned, cleaned = results["stages"][0], results["stages"][-1]
    names = {folder / stage: title for stage, title in STAGES.items()}
    write_report(
        folder,
        gather(list(names), names),
        "cleanclip demo",
        pictures=SHOWN_PICTURES,
        title="A backdoor put into CLIP, and taken out",
        intro=(
            f"A small CLIP was trained on {results['dataset']} of which {results['poisons']} pairs "
            f"were poisoned: a patch in the picture, and a caption that says "
            f"“{results['target']}”. With the patch on, {100 * poisoned['asr']:.1f} % of the other "
            f"pictures were then taken for “{results['target']}”. Of the poisoned pairs "
            f"{results['found']['poisons']} are among the {results['found']['pairs']} that look "
            f"most suspicious to {results['found']['by']}. After finetuning by CleanCLIP "
            f"on clean pairs it was {100 * cleaned['asr']:.1f} %: {CLEANED}, for PyTorch."
        ),
        facts={"time": f"{results['seconds']:.0f} s"},
    )
