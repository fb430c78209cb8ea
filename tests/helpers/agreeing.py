"""One of two processes that meet mistakes: prints a line for each, `PART: what UserError said`.

python -m helpers.agreeing --coordinator=localhost:PORT --processes=2 --process=I FOLDER
"""

import argparse
import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from cleanclip_jax.errors import UserError
from cleanclip_jax.process import add_flags, agree_on, agreed, join
from cleanclip_jax.run.clock import note_start
from cleanclip_jax.run.recorder import BadRows, Recorder
from cleanclip_jax.workdir import Workdir


def refuse() -> Any:
    raise UserError("Weights & Biases refuses")


def full(folder: Path) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "tensorboard"))


def main() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    join(args, 30)
    first, workdir = jax.process_index() == 0, Workdir(args.folder)

    def one_alone() -> None:
        with agreed():
            if not first:
                raise UserError("é" * 3000 + " of one")

    def recorder(boards: Callable[[], Any]) -> None:
        Recorder(workdir, 0, 9, log_every=1, batch_size=8, boards=boards)

    seed = "0" if first else "1"
    same = {"config.seed": "0", "the plan": "none"}
    parts: dict[str, Callable[[], object]] = {
        "same facts": lambda: agree_on(same),
        "another seed": lambda: agree_on({**same, "config.seed": seed}),
        "a fact more": lambda: agree_on(same if first else {**same, "the start": "81f3"}),
        "one alone": one_alone,
        "boards": lambda: recorder(refuse),
        "a full disk": lambda: recorder(partial(full, args.folder)),
        # Process 1's bad_rows.1.jsonl and the starts.jsonl that process 0 reads are folders.
        "bad rows": lambda: BadRows(workdir, jax.process_index()),
        "starts": lambda: note_start(workdir, 0, 0.0),
        "same again": lambda: agree_on(same),
    }
    for name, part in parts.items():
        try:
            part()
            print(f"{name}: -", flush=True)
        except UserError as error:
            print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    main()
