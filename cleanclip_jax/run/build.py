"""A run as a value: everything that the loop needs, built from a config and a workdir."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.data.stream.pipeline import Reading, train_batches
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.process import Preemption, agree_on, agreed, is_first, runtime_errors
from cleanclip_jax.run.checked import Checked, check_run
from cleanclip_jax.run.clock import Trace, note_start, peak_of
from cleanclip_jax.run.first_state import anchor, first_state, parts
from cleanclip_jax.run.lengths import Cut
from cleanclip_jax.run.owner import Owner
from cleanclip_jax.run.recorder import BadRows, Boards, Recorder
from cleanclip_jax.run.settings import claim, facts_of, has_begun
from cleanclip_jax.run.state import Fixed, Objective, State
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import place_batch
from cleanclip_jax.start.store import Store
from cleanclip_jax.workdir import CHECKPOINTS, Workdir

# What of a batch goes to the device as it is.
IN_STEP = ("images", "tokens", "stamps")


@dataclass(frozen=True)
class Run:
    """All that the loop needs; `build` opens it.

    Attributes:
      config: with everything filled in, as it lies in the workdir.
      first, total: the step it stands at, and its last.
      state: at `first`; donated to the first step.
      step: (state, fixed, batch) to (state, metrics), jitted.
      batches: gives (tokens a caption, batch).
      place: puts what the step needs of a batch on the devices.
      flops: of a pair with captions of so many tokens.
      save: writes a checkpoint of a step.
    """

    config: ConfigDict
    workdir: Workdir
    mesh: Mesh
    model: CLIP
    objective: Objective
    first: int
    total: int
    state: State
    fixed: Fixed
    step: Callable[..., Any]
    stream: Any
    batches: Cut
    place: Callable[[Mapping[str, Any]], dict[str, jax.Array]]
    flops: Callable[[int], float]
    recorder: Recorder
    trace: Trace
    preemption: Preemption
    save: Callable[[int, State], None]


@contextmanager
def build(config: ConfigDict, path: Path, profile: int = 0) -> Iterator[Run]:
    """Opens the run of a config in a workdir, at its newest checkpoint or its start.

        with build(config, path) as run:
            train(run)

    Args:
      profile: steps that are traced into WORKDIR/profile, after some that warm up.

    Raises:
      UserError: whatever the user can mend, in one line.
      StartAgain: the run has lost a process; the same call goes on.
    """
    began, workdir = time.time(), Workdir(path)
    if profile < 0:
        raise UserError(f"--profile={profile}: it takes a number of steps, or nothing for 5")
    with Owner(workdir) as owner:
        with agreed():
            if is_first():
                owner.look()
            run = check_run(config, workdir)
            step = make_step(
                *(run.model, run.optimizer, run.schedule, run.objective),
                mesh=run.mesh,
                views=run.device_views,
            )
            labels = None
            if "label" in run.objective.needs:
                labels = run.source.labels().astype(np.int32)
        agree_on(facts_of(run.config, run.source, run.plan, run.start))
        # Only now, when nothing of the config is left to be refused, is anything written.
        with agreed(), writing(path):
            if is_first():
                owner.take()
                if has_begun(workdir) != run.begun:
                    raise UserError(f"{path}: another run ended there just now: try again")
                inputs = (run.source, run.tokenizer, run.plan, run.start)
                claim(run.config, workdir, *inputs, begun=run.begun)
                if run.head is not None:
                    run.head.save(workdir)
        with _opened(run, step, labels, workdir, owner, began, profile) as opened:
            yield opened


@contextmanager
def _opened(
    run: Checked,
    step: Callable[..., Any],
    labels: np.ndarray | None,
    workdir: Workdir,
    owner: Owner,
    began: float,
    profile: int,
) -> Iterator[Run]:
    """The run of a workdir that is this process's."""
    config, path, needs, views = run.config, workdir.path, run.objective.needs, run.device_views
    with (
        writing(path),
        runtime_errors(),
        Store(workdir / CHECKPOINTS, config.train.keep) as store,
    ):
        state = first_state(store, run)
        first = int(state.step)
        note_start(workdir, first, began)
        reading = Reading(
            config.train.batch_size,
            config.data.workers,
            config.data.timeout,
            config.data.max_bad_share,
            config.data.decode,
            captions="text" in needs,
            on_bad=BadRows(workdir, jax.process_index()),
        )
        size, table, unreadable = config.model.image_size, None, None
        if config.data.resident:
            from cleanclip_jax.run.resident import load_pictures

            share = config.data.resident_share
            loaded = load_pictures(
                run.mesh, run.source, reading, image_size=size, share=share, plan=run.plan
            )
            table, unreadable = loaded or (None, None)
        frozen = anchor(workdir, run) if "start" in needs else None
        stream = train_batches(
            run.source,
            run.tokenizer,
            reading,
            image_size=size,
            seed=config.seed,
            plan=run.plan,
            views=run.views,
            step=first,
            process=(jax.process_index(), jax.process_count()),
            unreadable=unreadable,
        )
        peak = peak_of(run.mesh.devices.flat[0].device_kind)
        recorder = Recorder(
            workdir,
            first,
            run.total,
            log_every=config.train.log_every,
            batch_size=config.train.batch_size,
            boards=partial(Boards, workdir, first, config.train.wandb, config.to_dict()),
            peak=peak and peak * run.mesh.devices.size,
            began=began,
        )
        trace = Trace(workdir, first + 1, profile)

        def place(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            arrays = {name: batch[name] for name in IN_STEP if name in batch}
            if views is not None:
                arrays["index"] = batch["index"].astype(np.int32)
            if labels is not None:
                arrays["labels"] = labels[batch["index"]]
            return place_batch(run.mesh, arrays)

        def save(done: int, state: State) -> None:
            owner.check()
            store.save(done, **parts(state))

        with stream, recorder, trace, Preemption() as preemption:
            yield Run(
                config=config,
                workdir=workdir,
                mesh=run.mesh,
                model=run.model,
                objective=run.objective,
                first=first,
                total=run.total,
                state=state,
                fixed=Fixed(frozen, table),
                step=step,
                stream=stream,
                batches=Cut(
                    stream, config.train.text_lengths, config.text.context_length, run.mesh
                ),
                place=place,
                flops=_flops(run) if peak else lambda length: 0.0,
                recorder=recorder,
                trace=trace,
                preemption=preemption,
                save=save,
            )


def _flops(run: Checked) -> Callable[[int], float]:
    from cleanclip_jax.run.flops import flops_per_pair

    return cache(partial(flops_per_pair, run.model, run.objective))
