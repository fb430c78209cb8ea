"""The real job, from JPEGs to updates, for benchmarks/train_step.py --input.

    host       pictures are decoded, poisoned and augmented on the host
    device     decoded on the host, augmented in the step
    resident   decoded once into the device's memory, augmented in the step

Each in a process of its own. A short run first, which compiles and shows how many steps the asked
seconds are; of the second run the lines after the first steps count. Captions are cut and the
vocabulary is trained as in a run of one's own; the published one is --keys=text.tokenizer=clip.
"""

import argparse
import csv
import json
import multiprocessing
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

INPUTS = {
    "host": ("views.on=host",),
    "device": ("views.on=device",),
    "resident": ("views.on=device", "data.resident=True"),
}
LOG_EVERY, WARM = 5, 10  # steps
FINETUNING = 10 * 100_000  # pairs: the paper's ten epochs


def measure(
    variant: str, batch: int, precision: str, scratch: Path, asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """A line for each input."""
    table = asked.data or made(scratch, batch)
    lines = []
    for name in asked.input.split(","):
        if name not in INPUTS:
            raise SystemExit(f"--input={name}: known: {', '.join(INPUTS)}")
        keys = {
            "model.variant": variant,
            "model.dtype": precision,
            "data.train.path": str(table),
            "data.workers": asked.workers,
            "train.batch_size": batch,
            "train.log_every": LOG_EVERY,
            "train.checkpoint_every": 10**9,
            "objective.in_modal": float(asked.objective == "cleanclip"),
            "seed": asked.seed,
        }
        own = {key: str(value) for key, value in keys.items()}
        given = [*INPUTS[name], *filter(None, asked.keys.split(","))]
        own |= dict(item.split("=", 1) for item in given)
        folder = scratch / f"{name}-{variant.replace('/', '_')}-{batch}-{precision}"
        found = alone(own, folder, asked.seconds * asked.rounds)
        said = {"input": name, "variant": variant, "batch": batch, "precision": precision}
        lines.append({**said, "workers": asked.workers, **found})
    return lines


def made(scratch: Path, batch: int) -> Path:
    """A CSV of a few JPEGs of 500 x 375, over and over, enough for several batches."""
    from input_pipeline import SIZES, write_pictures

    folder = scratch / "pictures"
    if not folder.is_dir():
        write_pictures(folder, 48, *SIZES["500x375"])
    with (folder / "pairs.csv").open(newline="") as stream:
        head, *rows = csv.reader(stream)
    path = folder / f"pairs-{batch}.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *(rows * -(-4 * batch // len(rows)))])
    return path


def alone(keys: dict[str, str], folder: Path, seconds: float) -> dict[str, Any]:
    """Runs a job in a process of its own."""
    context = multiprocessing.get_context("spawn")
    pipe, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, keys, folder, seconds))
    process.start()
    there.close()
    try:
        found = pipe.recv()
    except EOFError:
        found = {"failed": "its process ended"}
    process.join()
    return found


def _answer(pipe: Connection, *arguments: Any) -> None:
    try:
        pipe.send(job(*arguments))
    except Exception as error:
        traceback.print_exc()
        pipe.send({"failed": f"{type(error).__name__}: {error}".splitlines()[0]})


def job(keys: dict[str, str], folder: Path, seconds: float) -> dict[str, Any]:
    """Runs a job twice, a short and a long one, and returns what the long one wrote of itself."""
    import jax

    from cleanclip_jax.args import apply
    from cleanclip_jax.config import defaults
    from cleanclip_jax.run.loop import train

    # So that the second run finds what the first has compiled.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    rows: list[dict[str, Any]] = []
    for name in ("short", "long"):
        steps = WARM + 2 * LOG_EVERY
        if rows:
            steps = WARM + max(round(seconds / rows[-1]["step_seconds"]), 2 * LOG_EVERY)
        config = defaults()
        with config.unlocked():
            config.data.train.kind = "csv"
            config.text.tokenizer = "trained"
        config = apply(config, {**keys, "train.steps": str(steps)})
        train(config, folder / name)
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        if name == "short":
            startup = rows[0].get("startup_seconds")
    device = jax.devices()[0].device_kind
    return {**summary(rows), "startup_seconds": startup, "device": device, "jax": jax.__version__}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the lines of metrics.jsonl after the first steps: rates over their whole time."""
    rows = [row for row in rows if row["step"] > WARM]
    seconds = sum(row["step_seconds"] for row in rows)
    rate = sum(row["pairs_per_second"] * row["step_seconds"] for row in rows) / seconds
    waited = sum(row["data_wait_share"] * row["step_seconds"] for row in rows) / seconds
    used = [row["model_flops_utilisation"] for row in rows if "model_flops_utilisation" in row]
    memory = max((row.get("device_memory_bytes", 0) for row in rows), default=0)
    return {
        "steps": rows[-1]["step"] - WARM,
        "pairs_per_second": round(rate, 1),
        "data_wait_share": round(waited, 3),
        "model_flops_utilisation": round(sum(used) / len(used), 4) if used else None,
        "peak_gib": round(memory / 2**30, 2) if memory else None,
        "finetuning_minutes": round(FINETUNING / rate / 60, 1),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """All measurements as Markdown."""
    out = [
        "| model | batch | precision | input | workers | pairs/s | waits for data | of peak |"
        " ten epochs of 100,000 pairs |",
        "|" + "---|" * 9,
    ]
    for one in lines:
        head = f"| {one['variant']} | {one['batch']} | {one['precision']} | {one['input']}"
        head += f" | {one['workers']} |"
        if "failed" in one:
            out.append(f"{head} {one['failed']} | | | |")
            continue
        used = one["model_flops_utilisation"]
        share = "" if used is None else f"{used:.1%}"
        out.append(
            f"{head} {one['pairs_per_second']:,.0f} | {one['data_wait_share']:.0%} | {share} | "
            f"{one['finetuning_minutes']:.0f} min |"
        )
    return "\n".join(out)
