"""A run as a value: everything that the loop needs, built from a config and a workdir."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.data.stream.pipeline import Reading, train_batches
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.losses.terms import init_head
from cleanclip_jax.process import Preemption, agree_on, agreed, is_first, runtime_errors
from cleanclip_jax.run.checked import Checked, check_run
from cleanclip_jax.run.clock import Trace, note_start, peak_of
from cleanclip_jax.run.lengths import Cut
from cleanclip_jax.run.owner import Owner
from cleanclip_jax.run.recorder import BadRows, Boards, Recorder
from cleanclip_jax.run.settings import claim, facts_of, has_begun
from cleanclip_jax.run.stages import Stage
from cleanclip_jax.run.state import Fixed, State, fresh_state
from cleanclip_jax.sharding import copied_over, place_batch, place_state, placed_shapes
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.start.store import Store
from cleanclip_jax.workdir import CHECKPOINTS, Workdir

log = logging.getLogger(__name__)

# What of a batch goes to the device as it is.
IN_STEP = ("images", "tokens", "stamps")


@dataclass(frozen=True)
class Begun:
    """A stage that is open.

    Attributes:
      batches: gives (tokens a caption, batch), of the stream.
      step: gives, of a step's number, what takes it: (state, fixed, batch) to (state, metrics).
    """

    stream: Any
    batches: Cut
    step: Callable[[int], Any]


@dataclass(frozen=True, kw_only=True)
class Run(Checked):
    """All that the loop needs, beside what was checked; `build` opens it.

    Attributes:
      first: the step it stands at.
      state: at `first`; donated to the first step.
      begin: opens a stage, with the state that it begins or goes on with.
      place: puts what the step needs of a batch on the devices.
      flops: of a pair with captions of so many tokens.
      save: writes a checkpoint of a step.
    """

    workdir: Workdir
    first: int
    state: State
    fixed: Fixed
    begin: Callable[[Stage, State], AbstractContextManager[Begun]]
    place: Callable[[Mapping[str, Any]], dict[str, jax.Array]]
    flops: Callable[[int], float]
    recorder: Recorder
    bad_rows: BadRows
    trace: Trace
    preemption: Preemption
    save: Callable[[int, State], None]

    @property
    def stages(self) -> list[Stage]:
        """The stages that it has still to take, or to end."""
        return [stage for stage in self.rule.stages if stage.last > self.first]


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
        agree_on(facts_of(run.config, run.source, run.plan, run.start, run.suspects, run.artefacts))
        # Only now, when nothing of the config is left to be refused, is anything written.
        with agreed(), writing(path):
            if is_first():
                owner.take()
                if has_begun(workdir) != run.begun:
                    raise UserError(f"{path}: another run ended there just now: try again")
                inputs = (run.source, run.tokenizer, run.plan, run.start, run.suspects)
                claim(run.config, workdir, *inputs, begun=run.begun, artefacts=run.artefacts)
                if run.head is not None:
                    run.head.save(workdir)
        with _opened(run, workdir, owner, began, profile) as opened:
            yield opened


@contextmanager
def _opened(
    run: Checked, workdir: Workdir, owner: Owner, began: float, profile: int
) -> Iterator[Run]:
    """The run of a workdir that is this process's."""
    config, needs = run.config, run.objective.needs
    with (
        writing(workdir.path),
        runtime_errors(),
        Store(workdir / CHECKPOINTS, config.train.keep) as store,
    ):
        state = first_state(store, run)
        first = int(state.step)
        note_start(workdir, first, began)
        bad_rows = BadRows(workdir, jax.process_index())
        reading = Reading(
            config.train.batch_size,
            config.data.workers,
            config.data.timeout,
            config.data.max_bad_share,
            config.data.decode,
            captions="text" in needs,
            on_bad=bad_rows,
        )
        size, table, unreadable = config.model.image_size, None, None
        if config.data.resident:
            from cleanclip_jax.run.resident import load_pictures

            share = config.data.resident_share
            loaded = load_pictures(
                run.mesh, run.source, reading, image_size=size, share=share, plan=run.plan
            )
            table, unreadable = loaded or (None, None)
        frozen = None
        if "start" in needs:
            from cleanclip_jax.run.anchor import anchor

            frozen = anchor(workdir, run)
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
            if run.device_views is not None:
                arrays["index"] = batch["index"].astype(np.int32)
            if run.labels is not None:
                arrays["labels"] = run.labels[batch["index"]]
            if run.suspects is not None:
                arrays["suspects"] = run.suspects[batch["index"]]
            return place_batch(run.mesh, arrays)

        @contextmanager
        def begin(stage: Stage, state: State) -> Iterator[Begun]:
            step, split, records = max(first, stage.first), None, None
            if stage.split:
                from cleanclip_jax.run.splits import begin_split

                with recorder.paused():
                    split = begin_split(workdir, run, stage, state, step)
                records = stage.first, run.rule.order(split, stage)
            with train_batches(
                run.source,
                run.tokenizer,
                reading,
                image_size=size,
                seed=config.seed,
                plan=run.plan,
                views=run.views,
                step=step - stage.first,
                process=(jax.process_index(), jax.process_count()),
                unreadable=unreadable,
                stage=records,
            ) as stream:
                lengths, context = config.train.text_lengths, config.text.context_length
                batches = Cut(stream, lengths, context, run.mesh)
                resting = partial(run.rule.resting, stage=stage, split=split)
                yield Begun(stream, batches, lambda done: run.step(done, resting(done)))

        def save(done: int, state: State) -> None:
            owner.check()
            store.save(done, **parts(state))

        for term in run.objective.terms.values():
            if term.note:
                log.info("%s", term.note)
        with recorder, trace, Preemption() as preemption:
            yield Run(
                **vars(run),
                workdir=workdir,
                first=first,
                state=state,
                fixed=Fixed(frozen, table, _placed(run)),
                begin=begin,
                place=place,
                flops=_flops(run) if peak else lambda length: 0.0,
                recorder=recorder,
                bad_rows=bad_rows,
                trace=trace,
                preemption=preemption,
                save=save,
            )


def _placed(run: Checked) -> dict[str, Any]:
    """The arrays of its artefacts, on every device."""
    arrays = {name: artefact.arrays for name, artefact in run.artefacts.items()}
    return jax.device_put(arrays, copied_over(run.mesh))


def first_state(store: Store, run: Checked) -> State:
    """Returns the state to go on from: the newest checkpoint, else the run's start."""
    config, key = run.config, jax.random.key(run.config.seed)

    def fresh(variables: Mapping[str, Any]) -> State:
        params = dict(variables["params"])
        width = run.model.variant.features
        if run.head is not None:
            # Not the key that fresh towers are drawn with.
            head_key = jax.random.fold_in(key, 1)
            classes, dtype = len(run.head.classes), config.model.param_dtype
            params["head"] = init_head(head_key, width, classes, dtype)
        if run.device_views is not None:
            params |= run.device_views.parameters(config.model.image_size)
        return fresh_state({**variables, "params": params}, run.optimizer, run.objective, width)

    if store.latest is None:
        state = place_state(run.mesh, fresh(run.weights()))
        if config.optimizer.moments == "start":
            from cleanclip_jax.run.anchor import moments_of_start

            state.opt_state = moments_of_start(run, state.opt_state)
        return state
    shapes = jax.eval_shape(fresh, shapes_of(run.model))
    restored = store.load(**parts(placed_shapes(run.mesh, shapes)))
    return State(**restored["model"], **restored["progress"])


def parts(state: State) -> dict[str, Any]:
    """A state as the two parts of a checkpoint."""
    progress = {"step": state.step, "opt_state": state.opt_state}
    if state.memory:
        progress["memory"] = state.memory
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "progress": progress,
    }


def _flops(run: Checked) -> Callable[[int], float]:
    from cleanclip_jax.run.flops import flops_per_pair

    return cache(partial(flops_per_pair, run.model, run.objective))
