"""Whether canaries tell when a backdoor that nobody knows of is gone.

    python benchmarks/canaries.py runs/canaries [--data=FILE.parquet] \\
        [--attacks=badnet,none] [--seeds=0,1,2] [--left=25] [--direct] [-- FLAGS of cleanclip clean]

For each hidden attack and seed: a model of configs/fashion.py is poisoned, `cleanclip clean` cleans
it without knowing how, and only then is the hidden trigger measured on all that it made. The attack
`none` cleans the model that was never poisoned, to see what that costs. --left=N leaves N poisons
of the same attack among the pairs that are cleaned on, and counts those that the look finds.
--direct also cleans the poisoned model by CleanCLIP at fixed rates, by which an oracle that knows
the trigger would choose. A line of cases.jsonl each, and a table; what is there is not made again.
"""

import argparse
import csv
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
    "none": {},
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
    """CA, and the hidden trigger's ASR with its interval; of no attack CA alone."""
    if not output.is_file():
        measured = {**attack, "target": TARGET, "templates": "fashion"} if attack else None
        flags = [f"--config.evaluation.attack={measured}", "--config.evaluation.retrieval=None"]
        call("evaluate", f"--workdir={workdir}", f"--output={output}", *flags)
    measured = json.loads(output.read_text())["figures"]
    if not attack:
        return {"ca": measured["ca"]["value"]}
    low, high = measured["asr"]["interval"]
    values = {name: measured[name]["value"] for name in ("ca", "asr")}
    return {**values, "low": low, "high": high}


def poisons(here: Path, table: dict[str, Any], count: int) -> dict[str, str]:
    """A source of so many poisons of an attack, other pairs than those that the suspect saw."""
    out = here / f"left{count}"
    if not (out / "pictures/pairs.csv").is_file():
        attack = {key: value for key, value in table.items() if key != "rate"} | {"count": count}
        flags = [f"--config.attack={attack}", "--config.seed=77", f"--export={out / 'pictures'}"]
        call("poison", "--config=configs/fashion.py", f"--output={out}", *flags)
    return {"kind": "csv", "path": str(out / "pictures/pairs.csv")}


def seen(look: Path, left: int) -> int | None:
    """How many of the poisons that are left, the last ids of all, the look set aside."""
    if not (left and (look / "drop.csv").is_file()):
        return None
    pairs = json.loads((look / "detect.json").read_text())["data"]["pairs"]
    with (look / "drop.csv").open() as lines:
        return sum(int(row["id"]) >= pairs - left for row in csv.DictReader(lines))


def case(
    folder: Path, data: str | None, name: str, seed: int, direct: bool, left: int, more: list[str]
) -> dict:
    """One hidden attack on one seed."""
    attack, here = ATTACKS[name], folder / f"{name}-{seed}{f'-left{left}' if left else ''}"
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
    call(*begin, f"--workdir={clean}", "--config.attack=None")
    if attack:
        call(*begin, f"--workdir={suspect}", f"--config.attack={table}")
    else:
        suspect = clean
    if left:
        pairs = {"kind": "mixture", "sources": {"clean": pairs, "left": poisons(here, table, left)}}
    if not (here / "cleaned.cleaning/results.json").is_file():
        flags = [f"--data={pairs}", f"--labelled={labelled}", f"--seed={seed}"]
        flags += ["--config.evaluation.templates=fashion", "--invert=0", *more]
        call("clean", str(suspect), f"--output={out}", *flags)
    results = json.loads((here / "cleaned.cleaning/results.json").read_text())
    row: dict[str, Any] = {"attack": name, "seed": seed, "flags": more, "left": left}
    row["seen"] = seen(here / "cleaned.cleaning/look", left)
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
    for rate in RATES if direct and attack else ():
        run = here / f"direct-{rate}"
        finetune = ["train", "--config=configs/fashion.py:cleanclip", f"--workdir={run}"]
        finetune += [f"--config.start={suspect}", f"--config.optimizer.learning_rate={rate}"]
        call(*finetune, *shared)
        row["direct"].append({"rate": rate, **figures(run, attack, here / f"direct-{rate}.json")})
    return row


def percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """The cases as Markdown, in percent."""
    columns = ("hidden", "seed", "left, seen", "suspect CA / ASR", "floor", "chosen")
    columns += ("CA / hidden ASR", "the rates: worst canary over its floor, hidden ASR, CA")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        chosen = next((p for p in row["points"] if p["rate"] == row["chosen"]), None)
        points = "; ".join(
            f"{p['rate']:g}: {percent(max(c['asr'] - c['floor'] for c in p['canaries'].values()))}"
            f", {percent(p.get('asr'))}, {percent(p['ca'])}"
            for p in row["points"]
        )

        def both(figures: dict[str, float]) -> str:
            return f"{percent(figures['ca'])} / {percent(figures.get('asr'))}"

        left = f"{row['left']}, {row['seen']}" if row.get("left") else "—"
        cells = (row["attack"], row["seed"], left, both(row["suspect"]))
        cells += (percent(row["floor"].get("asr")), row["chosen"] or "—")
        cells += (both(chosen) if chosen else "none", points)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", help="in place of what comes along: configs/fashion.py's file")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--left", type=int, default=0)
    args, more = parser.parse_known_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cases, rows = args.folder / "cases.jsonl", []
    for seed in map(int, args.seeds.split(",")):
        for name in args.attacks.split(","):
            given = [word for word in more if word != "--"]
            rows.append(case(args.folder, args.data, name, seed, args.direct, args.left, given))
            cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
