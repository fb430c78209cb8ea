"""How fast CleanCLIP's training step is: ours, and the same in PyTorch two ways.

    python benchmarks/train_step.py --variants=RN50,ViT-B/32 --batches=64,256,1024 \\
        --precisions=bfloat16,float32
    python benchmarks/train_step.py --variants=RN50 --input=host,device,resident --workers=8

The first trains on pictures and tokens that lie on the device already; before it times anything it
holds each way's loss and embeddings of a few pairs, in float32 with our weights, against ours. The
ways (torch_step.py says what the two of PyTorch are) have processes of their own, which stay and
take turns (turns.py). Printed is a JSON line for each way, then a table: medians over the rounds,
and of each round's ratio the median, least and most. A way that fails or has no room on the GPU
is a line of the table. --alone lets one way after another have the GPU to itself.

The second runs the real job, from JPEGs (train_job.py), for --rounds times --seconds.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import train_job
from turns import CHECKED, HELD, Job, Player, batches

from cleanclip_jax.models.variants import VARIANTS, Variant

# Of the loss, and of the embeddings' largest: in float32, with the same weights.
ALLOWED = 1e-3


def our_way(job: Job) -> Any:
    """Runs in the way's own process: only there is JAX loaded."""
    from our_step import Ours

    return Ours(job)


def torch_way(job: Job, way: str, timm: bool) -> Any:
    """The same with torch."""
    from torch_step import Step

    length = job.tokens if way == "best" else job.numbers.context_length
    with np.load(job.weights) as weights:
        given = None if timm else dict(weights)
    return Step(job, way, batches(job, job.batch, HELD, length), given, timm)


def play(job: Job, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each way, ours first."""
    attentions = asked.attention.split(",") if asked.attention else [None]
    names = ["ours", *(f"ours {each}" for each in attentions[1:])]
    options = dict(zip(names, ({"attention": x} if x else {} for x in attentions), strict=True))
    ways = [*names, *asked.torch]
    players: dict[str, Player] = {}
    found: dict[str, dict[str, Any]] = {way: {"way": way} for way in ways}
    turns: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    few = batches(job, min(CHECKED, job.batch), 1, job.numbers.context_length)[0]
    truth = None
    for way in ways:
        # One after another, so that none compiles while another does.
        timm = way == "best" and asked.timm and job.variant == "RN50"
        own = replace(job, options=options.get(way, {}))
        player = Player(our_way, own) if way in options else Player(torch_way, job, way, timm)
        players[way] = player
        if timm:
            found[way]["tower"] = "timm's, not checked"
        elif (checked := player.ask("check", *few)) is not None:
            truth = truth or checked
            found[way] |= difference(way, truth, checked)
        found[way] |= (player.ask("about") or {}) | (player.ask("first") or {})
        if asked.alone:
            for _ in range(asked.rounds):
                turns[way].append(player.ask("turn", asked.seconds))
            finish(player, way, asked)
    for _ in range(0 if asked.alone else asked.rounds):
        for way, player in players.items():
            turns[way].append(player.ask("turn", asked.seconds))
    for way, player in players.items():
        if not asked.alone:
            finish(player, way, asked)
    jobs = {way: replace(job, options=options.get(way, {})) for way in ways}
    return [line(jobs[way], way, found, turns, players[way].failed) for way in ways]


def finish(player: Player, way: str, asked: argparse.Namespace) -> None:
    if way == "ours" and asked.trace:
        print(player.ask("trace", asked.trace) or f"no trace: {player.failed}")
    player.end()


def difference(way: str, ours: tuple, theirs: tuple) -> dict[str, float]:
    """How far a way is from ours before anything is trained; too far ends the benchmark."""
    loss = abs(theirs[0] - ours[0]) / abs(ours[0])
    rows = float(np.abs(theirs[1] - ours[1]).max() / np.abs(ours[1]).max())
    if not max(loss, rows) <= ALLOWED:
        sys.exit(f"{way} is not the same step: loss {loss:.1e} from ours, embeddings {rows:.1e}")
    return {"checked_loss": ours[0], "loss_difference": loss, "embedding_difference": rows}


def line(
    job: Job,
    way: str,
    found: dict[str, dict[str, Any]],
    turns: dict[str, list[dict[str, Any]]],
    failed: str | None,
) -> dict[str, Any]:
    """What is printed of a way: medians over the rounds, and our ratio to it."""
    own = dict(found[way])
    ours = found["ours"]
    flops = ours.get("whole" if way == "original" else "flops")
    for name in ("flops", "whole", "peak"):
        own.pop(name, None)
    own |= {"variant": job.variant, "batch": job.batch, "precision": job.precision}
    own |= {"views": job.views, "tokens": job.tokens if way != "original" else None}
    own["tokens"] = own["tokens"] or job.numbers.context_length
    if job.options:
        own["options"] = job.options
    if failed is not None:
        return {**own, "failed": failed}
    seconds = [turn["seconds"] for turn in turns[way]]
    rate = job.batch / statistics.median(seconds)
    own |= {"pairs_per_second": round(rate, 1), "step_ms": round(1000 * job.batch / rate, 3)}
    own["rounds"] = [round(job.batch / each, 1) for each in seconds]
    peak = ours.get("peak")
    own["model_flops_utilisation"] = round(flops * rate / peak, 4) if peak and flops else None
    own["flops_per_pair"] = flops
    memory = turns[way][-1]
    own["peak_gib"] = round((memory["peak_bytes"] or memory["process_bytes"]) / 2**30, 2)
    own["peak_of"] = "device" if memory["peak_bytes"] else "process"
    own["last_loss"] = round(memory["loss"], 4)
    if way != "ours" and all(turns["ours"]):
        theirs = zip(seconds, (turn["seconds"] for turn in turns["ours"]), strict=True)
        ratios = sorted(each / mine for each, mine in theirs)
        own["ours_is_faster"] = round(statistics.median(ratios), 3)
        own["least"], own["most"] = round(ratios[0], 3), round(ratios[-1], 3)
    return own


def table(lines: Sequence[dict[str, Any]]) -> str:
    """All measurements as Markdown."""
    out = [
        "| model | batch | precision | way | pairs/s | ms a step | of peak | GiB | first step s |"
        " ours is faster |",
        "|" + "---|" * 10,
    ]
    for one in lines:
        head = f"| {one['variant']} | {one['batch']} | {one['precision']} | {shown(one)} |"
        if "failed" in one:
            out.append(f"{head} {one['failed']} | | | | | |")
            continue
        used = one["model_flops_utilisation"]
        cells = [f"{one['pairs_per_second']:,.0f}", f"{one['step_ms']:.1f}"]
        cells += ["" if used is None else f"{used:.1%}", f"{one['peak_gib']:.1f}"]
        cells.append(f"{one['compile_seconds']:.0f}")
        ratio = one.get("ours_is_faster")
        cells.append(f"{ratio:.2f} ({one['least']:.2f} to {one['most']:.2f})" if ratio else "")
        out.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(out)


def shown(one: dict[str, Any]) -> str:
    """A way's name, with what sets it apart."""
    said = [str(value) for value in one.get("options", {}).values()]
    if one["way"] == "best":
        said.append("eager" if one.get("compile") == "none" else f"compiled {one.get('compile')}")
    return f"{one['way']} ({', '.join(said)})" if said else one["way"]


def numbers_of(variant: str, asked: argparse.Namespace) -> Variant:
    """A variant's numbers, with another vocabulary or context where one is asked for."""
    found = VARIANTS.find(variant)
    changed = {"vocab_size": asked.vocabulary, "context_length": asked.context}
    return replace(found, **{name: value for name, value in changed.items() if value})


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", default="RN50,ViT-B/32")
    parser.add_argument("--batches", default="64,256,1024", help="pairs")
    parser.add_argument("--precisions", default="bfloat16,float32")
    parser.add_argument("--objective", default="cleanclip", choices=("cleanclip", "mmcl"))
    parser.add_argument("--tokens", type=int, help="the longest caption; else the whole context")
    parser.add_argument("--vocabulary", type=int, help="in place of the variant's")
    parser.add_argument("--context", type=int, help="in place of the variant's")
    parser.add_argument("--torch", default="best,original", help="of these, or none")
    parser.add_argument("--compile", default="auto", help="of torch: auto, none or a mode")
    parser.add_argument("--timm", action="store_true", help="timm's tower as best's RN50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--alone", action="store_true", help="one way after another, no turns")
    parser.add_argument("--attention", help="model.attention of ours, one or several")
    parser.add_argument("--trace", help="a folder for a profile of ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", help="the real job: of host, device, resident")
    parser.add_argument("--data", help="a CSV of pictures and captions, in place of made ones")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--keys", default="", help="KEY=VALUE,...: other keys of the job's config")
    asked = parser.parse_args(words)
    torch = [] if asked.torch == "none" else asked.torch.split(",")
    asked.torch = [way for way in torch if find_spec("torch") and find_spec("transformers")]
    if torch != asked.torch:
        print("PyTorch or transformers is not installed: ours alone", file=sys.stderr)
    return asked


def main() -> None:
    asked = arguments()
    command = shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]])
    stamp = {"seed": asked.seed, "command": command, "cores": os.cpu_count()}
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for variant in asked.variants.split(","):
            numbers = numbers_of(variant, asked)
            for precision in asked.precisions.split(","):
                for batch in map(int, asked.batches.split(",")):
                    if asked.input:
                        job = (variant, batch, precision, Path(scratch))
                        measured = train_job.measure(*job, asked)
                    else:
                        job = Job(
                            variant,
                            numbers,
                            batch,
                            precision,
                            views=2 if asked.objective == "cleanclip" else 1,
                            tokens=asked.tokens or numbers.context_length,
                            weights=f"{scratch}/weights.npz",
                            compile=asked.compile,
                            seed=asked.seed,
                        )
                        measured = play(job, asked)
                    for one in measured:
                        now = datetime.now().astimezone().isoformat(timespec="seconds")
                        print(json.dumps({**one, **stamp, "date": now}), flush=True)
                        lines.append(one)
    print("\n" + (train_job.table(lines) if asked.input else table(lines)))


if __name__ == "__main__":
    main()
