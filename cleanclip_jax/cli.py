"""The command `cleanclip`: names the jobs and imports each only when it is run."""

import importlib
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence

from cleanclip_jax.errors import INTERRUPTED, StartAgain, UserError, printable, reason, unknown

JOBS = {
    "demo": "poison a small CLIP on photographs, find the poisons, clean it: in a few minutes",
    "poison": "write a config's poison manifest, a contact sheet, and pictures for other tools",
    "patch": "optimise a patch on a surrogate, as BadCLIP does, to be a trigger",
    "prepare": "write any source as ArrayRecord shards, which training reads fast",
    "train": "pretrain, poison or finetune: one run of one config",
    "evaluate": "measure a run: clean accuracy, attack success and the other figures",
    "invert": "find the trigger and the units of a backdoor, which configs/invertune.py removes",
    "decompose": "write the prototypes of a ViT's parts, by which evaluate repairs it",
    "detect": "look for poisoned pairs, triggered pictures and backdoored models",
    "clean": "clean a model whose trigger nobody knows, and hand it back in its format",
    "persist": "try to bring a cleaned backdoor back, beside a never poisoned model",
    "convert": "convert PyTorch checkpoints to workdirs and back, bit for bit",
    "report": "write a page of tables, curves and pictures of one run or several",
    "mix": "measure the models between two, and beyond them: their weights, mixed",
    "benchmark": "run attacks, defences and detectors of a suite, and rank them on a page",
    "sweep": "train and measure a config over values of its keys, and draw CA against ASR",
}
PIPE_CLOSED = 128 + signal.SIGPIPE  # as a shell has it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cleanclip JOB ...`; returns the exit code.

    2 for a mistake of the user's; 75 where the same command goes on later.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        try:
            print(usage(), flush=True)
        except BrokenPipeError:
            if not _nobody_reads():
                raise
        return 0 if arguments else 2
    # What is half written goes also when the machine is wanted back; a run saves its step first.
    if threading.current_thread() is threading.main_thread():  # others may set no handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("cleanclip: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("cleanclip_jax").setLevel(logging.INFO)
    code, together = run(arguments[0], arguments[1:])
    if (distributed := sys.modules.get("cleanclip_jax.process")) is not None:
        distributed.leave(code, together)
    return code


def usage() -> str:
    """What `cleanclip --help` prints."""
    width = max(map(len, JOBS))
    table = "\n".join(f"  {name:<{width}}  {what}" for name, what in JOBS.items())
    head = "usage: cleanclip JOB ...\n\nPoison, measure and clean CLIP models."
    return f"{head}\n\njobs:\n{table}\n\n`cleanclip JOB --help` lists what a job takes."


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def run(job: str, arguments: Sequence[str]) -> tuple[int, bool]:
    """Runs a job; returns its exit code, and whether the run's other processes end with it."""
    try:
        if job not in JOBS:
            raise unknown("cleanclip", job, JOBS)
        return importlib.import_module(f"cleanclip_jax.jobs.{job}").main(arguments), True
    except UserError as error:
        print(f"cleanclip: {error}", file=sys.stderr)
        return 2, False
    except StartAgain as error:
        print(f"cleanclip: {error}", file=sys.stderr)
        return error.code, error.together
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return PIPE_CLOSED, False
        if error.filename is None:
            raise
        # A path that is too long, that loops, that nobody may read: any job may meet one.
        print(f"cleanclip: {printable(str(error.filename))}: {reason(error)}", file=sys.stderr)
        return 2, False
    except KeyboardInterrupt:
        print("cleanclip: stopped; the same command goes on with the run", file=sys.stderr)
        return INTERRUPTED, False


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has ended, as `head` does; then drops it."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors alone
        if not poll.poll(0):
            return False
    except (AttributeError, OSError, ValueError):  # no poll here, or no file
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    sys.exit(main())
