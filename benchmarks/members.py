"""Several rates of the demo's finetuning at once, against one of them, in turns.

    python benchmarks/members.py [--rounds=3] [--rates=5e-3,2e-3,1e-3,5e-4]

The demo's poisoned model is trained once. Then `one` and `all`, each in a process of its own
without compiled programs from before, train from it by turns, and the last of the ways goes first
in every second round: what else the machine does hits both alike. A time is that of
`train_members`, with opening, compiling and saving, without starting Python. The ratio is the
median of the rounds' ratios. With --inturn the rates one after another are measured beside them.
Prints Markdown.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from turns import Player


class Way:
    """Trains the demo's finetuning at some rates."""

    def __init__(self, start: str, rates: Sequence[float], steps: int, at_once: bool):
        self._start, self._rates, self._steps, self._at_once = start, rates, steps, at_once

    def run(self, folder: str) -> float:
        """Seconds."""
        from cleanclip_jax.config import load
        from cleanclip_jax.run.members import train_members

        runs = {}
        for rate in self._rates:
            config = load("configs/demo.py:cleanclip")
            config.start = self._start
            config.optimizer.learning_rate = rate
            if self._steps:
                config.train.steps = self._steps
            runs[Path(folder) / f"{rate:g}"] = config
        parts = [runs] if self._at_once else [{path: runs[path]} for path in runs]
        began = time.perf_counter()
        for part in parts:
            if failures := train_members(part, together=self._at_once):
                raise SystemExit(str(failures))
        return time.perf_counter() - began


def poisoned(folder: Path) -> None:
    """Trains the demo's first stage."""
    from cleanclip_jax.config import load
    from cleanclip_jax.run.members import train_members

    if failures := train_members({folder: load("configs/demo.py:poisoned")}):
        raise SystemExit(str(failures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", default="5e-3,2e-3,1e-3,5e-4")
    parser.add_argument("--steps", type=int, default=0, help="of each; 0: the demo's")
    parser.add_argument("--inturn", action="store_true", help="also one rate after another")
    parser.add_argument("--start", type=Path, help="a demo's poisoned model, to be used again")
    args = parser.parse_args()
    rates = [float(rate) for rate in args.rates.split(",")]
    ways = {"one": (rates[:1], True), "all": (rates, True)}
    if args.inturn:
        ways["in turn"] = (rates, False)
    with tempfile.TemporaryDirectory() as scratch:
        start = args.start or Path(scratch) / "poisoned"
        if not start.is_dir():
            process = multiprocessing.get_context("spawn").Process(target=poisoned, args=(start,))
            process.start()
            process.join()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.rounds):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                some, at_once = ways[name]
                player = Player(Way, str(start), some, args.steps, at_once)
                seconds = player.ask("run", str(Path(scratch) / f"{number}-{name}"))
                player.end()
                if seconds is None:
                    raise SystemExit(f"{name}: {player.failed}")
                times[name].append(seconds)
                print(f"round {number + 1}, {name}: {seconds:.1f} s", flush=True)
    print(f"\n| {len(rates)} rates | seconds | against one |\n|---|---|---|")
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["one"], strict=True)]
        texts = ", ".join(f"{x:.1f}" for x in seconds)
        each = ", ".join(f"{x:.2f}" for x in ratios)
        print(f"| {name} | {texts} | {each}: {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
