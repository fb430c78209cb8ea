"""`cleanclip mix`: measures (1 - alpha) · FROM + alpha · TO, the weights of two models mixed.

Both are workdirs or PyTorch checkpoints of one architecture and one tokenizer. What is measured is
FROM's config.evaluation (TO's where FROM has none), so that alpha 0 and 1 give the two models'
figures; alpha below 0 or above 1 goes beyond them. A mix that was stopped goes on where it was. The
figures lie in sweep.json and sweep.csv, CA against ASR in sweep.png, each mixture under
WORKDIR/runs; `cleanclip report WORKDIR` shows them. --save keeps a mixture's weights: a workdir, to
be trained, measured and converted like any other.

Of a ResNet running statistics are taken anew, for every alpha but 0 and 1, on clean pictures of
config.data.train: TO's, unless it is set here.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import check, defaults, to_json
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.jobs.of_model import FREE, OPEN, base_of
from cleanclip_jax.jobs.sweep import run_name
from cleanclip_jax.measure.batch_statistics import drawn_pictures, fresh_statistics
from cleanclip_jax.measure.encoder import encoder_of
from cleanclip_jax.measure.features import reading_of
from cleanclip_jax.process import add_flags, begin, is_first
from cleanclip_jax.report.evaluation import check_measured, measure_run
from cleanclip_jax.report.sweeps import Sweep, markdown, write_sweep
from cleanclip_jax.report.tables import Row, values_of
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.combine import mixed
from cleanclip_jax.start.mixing import MixedStart, common_dtype, common_tokenizer, variables_of
from cleanclip_jax.start.model import make_model
from cleanclip_jax.start.start import RunStart, open_start
from cleanclip_jax.start.store import newest_whole, save_first
from cleanclip_jax.workdir import (
    CHECKPOINTS,
    CONFIG,
    EVALUATION,
    MIX,
    TOKENIZER,
    Workdir,
    workdir_path,
)

ALPHAS = "0,0.1,...,1"
MOST = 1000  # mixtures
BEYOND = 1000  # the largest alpha


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code: 1 if a mixture couldn't be measured."""
    parser = Parser(prog="cleanclip mix", description=__doc__)
    for flag in ("from", "to"):
        parser.add_argument(
            f"--{flag}", dest=f"{flag}_", required=True, type=workdir_path, metavar="WORKDIR",
            help="a run's folder, or a PyTorch checkpoint",
        )  # fmt: skip
    parser.add_argument("--workdir", required=True, type=workdir_path, help="the mix's folder")
    parser.add_argument("--alpha", default=ALPHAS, help=f"numbers, as {ALPHAS} (the default)")
    parser.add_argument("--save", metavar="ALPHA", help="of which of them the weights stay")
    parser.add_argument(
        "--pictures", type=int, default=2048, help="for a ResNet's running statistics (2048)"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws these pictures")
    add_flags(parser)
    args, overrides = parse(parser, argv)
    alphas = read_alphas("--alpha", args.alpha)
    saved = read_alphas("--save", args.save) if args.save else []
    if others := set(saved) - set(alphas):
        raise UserError(f"--save={min(others)} is none of --alpha: add it there")
    if args.pictures < 2 or args.seed < 0:
        raise UserError("--pictures takes a whole number, 2 or more, and --seed one, 0 or more")
    joined = {key: text for key, text in overrides.items() if key == "mesh.heartbeat"}
    begin(args, apply(defaults(), joined).mesh.heartbeat)
    mix = Mix(args, overrides, alphas)
    rows: list[Row] = []
    command = shlex.join(["cleanclip", "mix", *argv])
    with writing(args.workdir):
        mix.claim()
        for alpha in alphas:
            rows.append(mix.point(alpha, alpha in saved))
            if is_first():
                write_sweep(args.workdir, Sweep({"alpha": alphas}, rows), command)
    if is_first():
        print(markdown(Sweep({"alpha": alphas}, rows)))
        print(f"written: {args.workdir}/sweep.json, sweep.csv, sweep.png")
    return 1 if any("error" in row for row in rows) else 0


def read_alphas(flag: str, given: str) -> list[str]:
    """The numbers of '0,0.1,...,1' as texts without superfluous digits; `…` is '...' as well."""
    numbers: list[Decimal] = []
    words = [word.strip() for word in given.replace("…", "...").split(",")]
    try:
        for i, word in enumerate(words):
            if word != "...":
                numbers.append(Decimal(word))
                continue
            end, step = Decimal(words[i + 1]), numbers[-1] - numbers[-2]
            if not step or not 0 <= (end - numbers[-1]) / step <= MOST:
                raise UserError(f"{flag}={given}: {word} leads from {numbers[-1]} nowhere")
            while abs(end - numbers[-1]) > abs(step):
                numbers.append(numbers[-1] + step)
    except (InvalidOperation, IndexError):
        raise UserError(f"{flag}={given}: it takes numbers, as {ALPHAS}") from None
    if not all(number.is_finite() and abs(number) <= BEYOND for number in numbers):
        raise UserError(f"{flag}={given}: it takes numbers between -{BEYOND} and {BEYOND}")
    texts = [format(number.normalize() + 0, "f") for number in numbers]
    if len(set(texts)) < len(texts) or len(texts) > MOST:
        raise UserError(f"{flag}={given}: a number is named twice, or there are over {MOST}")
    return texts


class Mix:
    """A mix of two models, of which nothing is left to be refused.

    Args:
      args: the flags.
      overrides: keys of what is measured, and of the clean pictures.
    """

    def __init__(self, args: Any, overrides: Mapping[str, str], alphas: Sequence[str]):
        self.folder: Path = args.workdir
        ours = not self.folder.exists() or Workdir(self.folder).has(MIX)
        # What a kill leaves of a write that wasn't done begins with a point.
        if not ours and not (self.folder.is_dir() and all(map(_hidden, self.folder.iterdir()))):
            raise UserError(f"{self.folder} is not empty and no mix's: name a new folder")
        base = base_of(overrides)
        starts = [open_start(path, base) for path in (args.from_, args.to_)]
        runs = [start for start in starts if isinstance(start, RunStart)]
        for key in overrides:
            if not key.startswith((*FREE, "data.train", *(OPEN if len(runs) < 2 else ()))):
                raise UserError(f"--config.{key} belongs to the models and can't be set here")
        self.config = _config(starts, runs, overrides)
        self.tokenizer = common_tokenizer(*starts)
        self.origin = next(filter(None, (start.origin() for start in starts)), None)
        self.mesh = make_mesh(self.config.mesh.data, self.config.mesh.fsdp)
        self.model = make_model(self.config, self.tokenizer.vocab_size)
        check_measured(self.config, self._workdir(alphas[0]) / EVALUATION)
        self._models = [variables_of(start, self.mesh) for start in starts]
        statistics, self._draw = None, None
        if self._models[0]["batch_stats"] and {*alphas} - {"0", "1"}:
            if not self.config.data.train.get("kind"):
                raise UserError(
                    "a ResNet's running statistics are taken anew, on clean pictures: name them "
                    "with --config.data.train"
                )
            source = open_source(self.config.data.train.to_dict())
            statistics = {"fingerprint": source.fingerprint}
            statistics |= {"pictures": args.pictures, "seed": args.seed}
            drawn = (source, args.pictures, args.seed, self.model.variant.image_size)
            self._draw = cache(partial(drawn_pictures, *drawn, reading_of(self.config)))
        identities = [start.identity for start in starts]
        self.facts = {"from": identities[0], "to": identities[1], "statistics": statistics}

    def _workdir(self, alpha: str) -> Workdir:
        return Workdir(self.folder / "runs" / run_name({"alpha": alpha}))

    def claim(self) -> None:
        """Makes the folder this mix's, unless it is another's."""
        workdir = Workdir(self.folder)
        before = workdir.read_json(MIX) if workdir.has(MIX) else dict.fromkeys(self.facts)
        for key, now in self.facts.items():
            then = before[key]  # statistics: None where they were not needed
            if then is not None and now is not None and _identity(now) != _identity(then):
                raise UserError(
                    f"{workdir} is another mix's: its '{key}' is {then}, and this is {now}; name "
                    "another folder"
                )
        if is_first():
            statistics = self.facts["statistics"] or before["statistics"]
            workdir.write_json(MIX, {**self.facts, "statistics": statistics})

    def point(self, alpha: str, save: bool) -> Row:
        """Measures a mixture, unless that was done, and keeps its weights; a failure is its row's.

        Args:
          save: whether its weights are to lie in its workdir.
        """
        workdir, row = self._workdir(alpha), {"alpha": alpha, "workdir": str(self._workdir(alpha))}
        print(f"mix: alpha={alpha}", file=sys.stderr)
        try:
            evaluation = workdir.read_json(EVALUATION) if workdir.has(EVALUATION) else {}
            settings = json.loads(json.dumps(self.config.evaluation.to_dict()))
            measured = evaluation.get("evaluation") == settings
            saved = (workdir / CHECKPOINTS).is_dir() and newest_whole(workdir / CHECKPOINTS) == 0
            if not measured or (save and not saved):
                variables = self._mixture(float(alpha))
                self._write(workdir, alpha)
                if save and not saved:
                    save_first(workdir.path, variables)
                if not measured:
                    start = MixedStart(workdir.path, self.config, self.tokenizer, variables)
                    evaluation = measure_run(start, self.config)
        except UserError as error:
            if jax.process_count() > 1:
                raise  # the other processes may be elsewhere
            print(f"mix: alpha={alpha} failed: {error}", file=sys.stderr)
            return {**row, "error": str(error)}
        return row | values_of(evaluation["figures"])

    def _mixture(self, alpha: float) -> dict[str, Any]:
        variables = jax.tree.map(np.asarray, mixed(self._models[0], self._models[1], alpha))
        if self._draw is not None and alpha not in (0, 1):
            start = MixedStart(self.folder, self.config, self.tokenizer, variables)
            placed = start.restore(self.model, self.mesh)[1]
            encoder = encoder_of(self.model, placed, self.tokenizer, self.mesh)
            variables["batch_stats"] = fresh_statistics(encoder, self._draw())
        return variables

    def _write(self, workdir: Workdir, alpha: str) -> None:
        """All of a mixture's workdir but its weights and figures."""
        if is_first():
            workdir.write_json(MIX, {**self.facts, "alpha": float(alpha)})
            workdir.write(CONFIG, to_json(self.config))
            self.tokenizer.save(workdir / TOKENIZER)
            if self.origin is not None:
                self.origin.save(workdir.path)


def _identity(fact: Mapping[str, Any] | None) -> Any:
    """What tells a model, wherever it lies, or the statistics' pictures."""
    return (fact or {}).get("digest") or fact


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _config(
    starts: Sequence[Any], runs: Sequence[RunStart], overrides: Mapping[str, str]
) -> ConfigDict:
    """The config of the mixtures: FROM's, with TO's pairs; neither start nor attack is theirs."""
    config = (*runs, *starts)[0].config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        if isinstance(starts[1], RunStart):
            config.data.train = starts[1].config.data.train
        config.start, config.attack = None, None
        config.start_change = defaults().start_change
        config.model.param_dtype = common_dtype(*starts)
    apply(config, dict(overrides))
    check(config)
    return config
