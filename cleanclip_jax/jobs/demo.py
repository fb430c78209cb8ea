"""`cleanclip demo`: poisons, measures and cleans a small CLIP on handwritten digits.

Three runs of configs/demo.py (poisoned, then MMCL alone and CleanCLIP, both from the poisoned
one), a table, results.json and report.html.
"""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import load
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.jobs.arguments import Parser, apply, parse
from cleanclip_jax.jobs.evaluate import measure
from cleanclip_jax.jobs.poison import poison_sheet
from cleanclip_jax.reporting.figures import Point, ca_asr_curve, training_curves
from cleanclip_jax.reporting.page import Code, Facts, Picture, Section, Table, write_page
from cleanclip_jax.training.loop import train
from cleanclip_jax.training.metrics import read_metrics
from cleanclip_jax.training.run import MANIFEST

STAGES = {"poisoned": "poisoned", "mmcl": "MMCL only", "cleanclip": "CleanCLIP"}
FIGURES = ("ca", "asr", "asr_all", "pa")
SHOWN_POISONS = 5
Results = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip demo", description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"), help="its folder")
    parser.add_argument("--seed", type=int, default=0)
    asked, overrides = parse(parser, argv)
    for key in ("seed", "start"):
        if key in overrides:
            raise UserError(f"the demo sets config.{key} itself; a seed is given with --seed")
    folder = free_folder(asked.workdir)
    results = demo(folder, {**overrides, "seed": str(asked.seed)})
    print(
        f"\n{results['dataset']}: {results['poisons']} pairs poisoned, "
        f"target {results['target']!r}, {results['seconds']:.0f} s"
    )
    print(f"{'':<12}" + "".join(f"{name:>9}" for name in ("CA", "ASR", "ASR all", "PA")))
    for stage in results["stages"]:
        cells = "".join(f"{100 * stage[figure]:8.1f}%" for figure in FIGURES)
        print(f"{STAGES[stage['name']]:<12}{cells}")
    print(f"written: {folder}/results.json, {folder}/report.html")
    return 0


def free_folder(folder: Path) -> Path:
    """Returns `folder`, or where a demo was finished there the next free folder beside it."""
    found, number = folder, 2
    while (found / "results.json").is_file():
        found, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    if found != folder:
        print(f"{folder} holds a finished demo: this one goes to {found}")
    return found


def demo(folder: Path, overrides: Mapping[str, str]) -> Results:
    """Trains and measures the three stages in `folder`; writes results.json and report.html."""
    began = time.perf_counter()
    stages, configs = [], {}
    for stage in STAGES:
        print(f"{STAGES[stage]}: training in {folder / stage}")
        # The attack is the first stage's; the others are clean and inherit what is measured.
        own = {k: v for k, v in overrides.items() if stage == "poisoned" or k[:6] != "attack"}
        config = apply(load(f"configs/demo.py:{stage}"), own)
        config.start = None if stage == "poisoned" else str(folder / "poisoned")
        configs[stage] = train(config, folder / stage)
        found = measure(folder / stage, configs[stage], folder / stage / "evaluation.json")
        figures = found["figures"]
        stages.append({"name": stage, **{name: figures[name]["value"] for name in FIGURES}})
        print("  " + ", ".join(f"{name} {100 * stages[-1][name]:.1f} %" for name in FIGURES))
    plan = Plan.load(folder / "poisoned" / MANIFEST)
    results = {
        "dataset": "scikit-learn digits",
        "trigger": plan.trigger.config,
        "target": plan.target,
        "poisons": len(plan),
        "seed": configs["poisoned"].seed,
        "seconds": round(time.perf_counter() - began, 1),
        "stages": stages,
    }
    write_whole(folder / "results.json", json.dumps(results, indent=2) + "\n")
    report(folder, results, configs, plan)
    return results


def report(folder: Path, results: Results, configs: Mapping[str, ConfigDict], plan: Plan) -> None:
    """Writes report.html: what was run, the poisons, the table and the curves."""
    points = {s["name"]: Point(s["ca"], s["asr"]) for s in results["stages"]}
    metrics = {STAGES[s]: read_metrics(folder / s / "metrics.jsonl") for s in STAGES}
    percent = [
        [STAGES[s["name"]], *(f"{100 * s[figure]:.1f}" for figure in FIGURES)]
        for s in results["stages"]
    ]
    poisoned, cleaned = results["stages"][0], results["stages"][-1]
    intro = (
        f"A small CLIP was trained on {results['dataset']} of which {results['poisons']} pairs "
        f"were poisoned: a patch in the picture, and a caption that says "
        f"“{results['target']}”. With the patch on, {100 * poisoned['asr']:.1f} % of the other "
        f"digits were then taken for a {results['target']}. CleanCLIP finetuning on clean pairs "
        f"left {100 * cleaned['asr']:.1f} %."
    )
    settings = {
        "pictures": f"{results['dataset']}, 8x8 scaled to {configs['poisoned'].model.image_size}",
        "model": configs["poisoned"].model.variant,
        "trigger": ", ".join(f"{key} {value}" for key, value in results["trigger"].items()),
        "target": results["target"],
        "poisons": f"{results['poisons']} of {plan.header['size']} pairs",
        "steps": ", ".join(f"{STAGES[s]} {c.train.steps}" for s, c in configs.items()),
        "seed": str(results["seed"]),
        "time": f"{results['seconds']:.0f} s",
        "machine": f"{os.cpu_count()} cores, JAX on {jax.devices()[0].platform}",
    }
    environment = {"python": platform.python_version(), "machine": platform.machine()} | {
        name: version(name) for name in ("cleanclip-jax", "jax", "flax", "optax", "grain")
    }
    curve = ca_asr_curve(
        {STAGES[s]: [points[s]] for s in STAGES if s != "poisoned"}, points["poisoned"]
    )
    source = open_source(configs["poisoned"].data.train.to_dict())
    sheet, captions = poison_sheet(source, plan, SHOWN_POISONS)
    sections = [
        Section(
            "Before and after",
            [
                Table(
                    "Zero-shot on the 400 test digits, in percent.",
                    ["model", "CA", "ASR", "ASR, all", "PA"],
                    percent,
                ),
                "CA: clean pictures classified rightly. ASR: triggered pictures of other classes "
                "classified as the target; all: those of the target class too. PA: triggered "
                "pictures classified as their true class.",
                Picture(curve, describe(results)),
            ],
        ),
        Section("The poisons", [Picture(sheet, "Poisoned pairs. " + " ".join(captions))]),
        Section(
            "Training",
            [
                Picture(
                    training_curves(metrics, ["loss", "pairs_per_second"]),
                    "Loss and pairs per second over the steps of the three runs.",
                )
            ],
        ),
        Section("What was run", [Facts(settings), Code("cleanclip demo"), Facts(environment)]),
    ]
    write_page(folder / "report.html", "A backdoor put into CLIP, and taken out", intro, sections)


def describe(results: Results) -> str:
    """The CA-ASR figure in words."""
    return "Clean accuracy against attack success rate. " + " ".join(
        f"{STAGES[s['name']]}: CA {100 * s['ca']:.1f} %, ASR {100 * s['asr']:.1f} %."
        for s in results["stages"]
    )
