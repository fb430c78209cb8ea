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

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.stream.pipeline import Reading, Views, train_batches
from cleanclip_jax.files import writing
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.process import Preemption, agree_on, agreed, is_first, runtime_errors
from cleanclip_jax.run.checked import check_run
from cleanclip_jax.run.claim import claim, facts_of
from cleanclip_jax.run.clock import Trace, flops_per_pair, note_start, peak_of
from cleanclip_jax.run.first_state import anchor, first_state, parts
from cleanclip_jax.run.lengths import Cut
from cleanclip_jax.run.recorder import BadRows, Boards, Recorder
from cleanclip_jax.run.state import Fixed, Objective, State
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import (
    place_batch,
)
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
    began = time.time()
    workdir = Workdir(path)
    with agreed():
        run = check_run(config, workdir)
        config = run.config
        device_views = _device_views(config, run.views, run.plan)
        step = make_step(
            run.model,
            run.optimizer,
            run.schedule,
            run.objective,
            mesh=run.mesh,
            views=device_views,
        )
        needs = run.objective.needs
        labels = run.source.labels().astype(np.int32) if "label" in needs else None
    agree_on(facts_of(config, run.source, run.plan, run.start))
    # Only now, when nothing of the config is left to be refused, is anything written.
    with agreed(), writing(path):
        if is_first():
            claim(config, workdir, run.source, run.tokenizer, run.plan, run.start)
            if run.head is not None:
                run.head.save(workdir)
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
            if device_views is not None:
                arrays["index"] = batch["index"].astype(np.int32)
            if labels is not None:
                arrays["labels"] = labels[batch["index"]]
            return place_batch(run.mesh, arrays)

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
                flops=cache(partial(flops_per_pair, run.model, run.objective)),
                recorder=recorder,
                trace=trace,
                preemption=preemption,
                save=lambda done, state: store.save(done, **parts(state)),
            )


def _device_views(config: ConfigDict, views: Views, plan: Plan | None) -> Any:
    """What the step makes of its pictures; None where they come as they are shown."""
    if views.on == "host":
        return None
    from cleanclip_jax.run.views import DeviceViews

    trigger = None if plan is None else plan.trigger
    return DeviceViews(config.seed, trigger, views.image, views.any)
