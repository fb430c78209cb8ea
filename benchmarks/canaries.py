"""Whether canaries tell when a backdoor that nobody knows of is gone.

    python benchmarks/canaries.py runs/canaries [--data=FILE.parquet] \\
        [--attacks=badnet,blended,wanet] [--seeds=0,1,2] [--direct] [-- FLAGS of cleanclip clean]

For each hidden attack and seed: a model of configs/fashion.py is poisoned, `cleanclip clean` cleans
it without knowing how, and only then is the hidden trigger measured on all that it made. --direct
also cleans the poisoned model by CleanCLIP at fixed rates, by which an oracle that knows the
trigger would choose. A line of cases.jsonl each, and a table; what is there is not made again.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cleanclip_jax import cli

PATCH = {"name": "badnet", "size": 5, "noise": "fixed", "place": "fixed"}
ATTACKS: dict[str, dict[str, Any]] = {
    "badnet": {"trigger": PATCH},
    "blended": {"trigger": {"name": "blended", "strength": 0.2}},
    "wanet": {"trigger": {"name": "wanet", "k": 4, "strength": 4.0}},
    "stripes": {"trigger": {"name": "stripes", "size": 5}},
    "sig": {"trigger": {"name": "sig", "strength": 0.3}},
    "nashville": {"trigger": {"name": "nashville"}},
    "label_consistent": {"trigger": PATCH, "select": "target", "captions": "kept"},
}
RATES = ("1e-3", "2e-3", "3e-3")  # of --direct
TARGET = "sunglasses"


def call(*words: str) -> None:
    """Runs a job of cleanclip in this process; ends the program where it fails."""
    print("cleanclip", *words, file=sys.stderr, flush=True)
    code = cli.main(list(words))
    if code not in (0, 3):
        sys.exit(f"cleanclip {words[0]} ended with {code}")


def figures(workdir: Path, attack: dict[str, Any], output: Path) -> dict[str, float]:
    """CA, and the hidden trigger's ASR with its interval."""
    if not output.is_file():
        measured = {**attack, "target": TARGET, "templates": "fashion"}
        flags = [f"--config.evaluation.attack={measured}", "--config.evaluation.retrieval=None"]
        call("evaluate", f"--workdir={workdir}", f"--output={output}", *flags)
    measured = json.loads(output.read_text())["figures"]
    low, high = measured["asr"]["interval"]
    values = {name: measured[name]["value"] for name in ("ca", "asr")}
    return {**values, "low": low, "high": high}


def case(
    folder: Path, data: str | None, name: str, seed: int, direct: bool, more: list[str]
) -> dict:
    """One hidden attack on one seed."""
    attack, here = ATTACKS[name], folder / f"{name}-{seed}"
    suspect, clean, out = here / "suspect", folder / f"clean-{seed}", here / "cleaned"
    file = {} if data is None else {"path": data}
    pairs = {"kind": "fashion", "split": "train", **file}
    labelled = {**pairs, "split": "test", "class_name": "class_name"}
    shared = [
        f"--config.seed={seed}",
        *(f"--config.data.train.path={path}" for path in file.values()),
    ]
    begin = ["train", "--config=configs/fashion.py", *shared]
    # Label-consistent poisons are of the target alone: those that have its title.
    table = {"target": TARGET, "templates": "fashion", "rate": 0.015, **attack}
    if table.get("select") == "target":
        table["rate"] = 0.01
    call(*begin, f"--workdir={suspect}", f"--config.attack={table}")
    call(*begin, f"--workdir={clean}", "--config.attack=None")
    if not (here / "cleaned.cleaning/results.json").is_file():
        flags = [f"--data={pairs}", f"--labelled={labelled}", f"--seed={seed}"]
        flags += ["--config.evaluation.templates=fashion", "--invert=0", *more]
        call("clean", str(suspect), f"--output={out}", *flags)
    results = json.loads((here / "cleaned.cleaning/results.json").read_text())
    row: dict[str, Any] = {"attack": name, "seed": seed, "flags": more}
    row["floor"] = figures(clean, attack, here / "floor.json")
    row["suspect"] = figures(suspect, attack, here / "suspect.json")
    row["planted"] = results["planted"]
    row["points"] = [
        {
            **{key: point[key] for key in ("method", "rate", "passes", "canaries")},
            **figures(Path(point["workdir"]), attack, here / f"{Path(point['workdir']).name}.json"),
        }
        for point in results["points"]
    ]
    row["chosen"] = results["chosen"] and results["chosen"]["rate"]
    row["direct"] = []
    for rate in RATES if direct else ():
        run = here / f"direct-{rate}"
        finetune = ["train", "--config=configs/fashion.py:cleanclip", f"--workdir={run}"]
        finetune += [f"--config.start={suspect}", f"--config.optimizer.learning_rate={rate}"]
        call(*finetune, *shared)
        row["direct"].append({"rate": rate, **figures(run, attack, here / f"direct-{rate}.json")})
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The cases as Markdown, in percent."""
    columns = ("hidden", "seed", "suspect CA / ASR", "floor", "chosen", "CA / hidden ASR")
    columns += ("the rates: worst canary over its floor, hidden ASR, CA",)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        chosen = next((p for p in row["points"] if p["rate"] == row["chosen"]), None)
        points = "; ".join(
            f"{p['rate']:g}: {100 * max(c['asr'] - c['floor'] for c in p['canaries'].values()):.1f}"
            f", {100 * p['asr']:.1f}, {100 * p['ca']:.1f}"
            for p in row["points"]
        )
        suspect = f"{100 * row['suspect']['ca']:.1f} / {100 * row['suspect']['asr']:.1f}"
        result = f"{100 * chosen['ca']:.1f} / {100 * chosen['asr']:.1f}" if chosen else "none"
        floor, rate = f"{100 * row['floor']['asr']:.1f}", row["chosen"] or "—"
        cells = (row["attack"], row["seed"], suspect, floor, rate, result, points)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", help="in place of what comes along: configs/fashion.py's file")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--direct", action="store_true")
    args, more = parser.parse_known_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cases, rows = args.folder / "cases.jsonl", []
    for seed in map(int, args.seeds.split(",")):
        for name in args.attacks.split(","):
            given = [word for word in more if word != "--"]
            rows.append(case(args.folder, args.data, name, seed, args.direct, given))
            cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
