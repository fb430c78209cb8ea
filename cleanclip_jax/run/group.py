"""Runs that differ in their optimizers alone, trained side by side over one stream of batches.

Pictures are read, decoded, augmented and put on the devices once for all of them. Each has the
step, the checkpoints and the metrics that it has alone: its program is the same, so its figures are
the same bit for bit. One that fails leaves the others whole. Between steps of one member the others
run, so a member's seconds a step are those of all.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.process import runtime_errors
from cleanclip_jax.run.build import Run, build
from cleanclip_jax.run.clock import device_memory
from cleanclip_jax.run.recorder import Done
from cleanclip_jax.run.settings import facts_of

# Of a device's memory, for the states of a group: the rest is for activations and pictures.
STATES_SHARE = 0.5


def groups_of(runs: Mapping[Path, ConfigDict]) -> list[dict[Path, ConfigDict]]:
    """Parts runs into those that can be trained together, in the order of their first ones.

    Together go runs of equal configs but for the optimizer's table. Alone go those whose model
    chooses their records, whose pictures lie in device memory, that log to Weights & Biases, which
    has one run a process, and all where there are several processes.
    """
    groups: dict[str, dict[Path, ConfigDict]] = {}
    for path, config in runs.items():
        same = {name: table for name, table in config.to_dict().items() if name != "optimizer"}
        key = json.dumps(same, sort_keys=True, default=repr)
        chosen = config.safe is not None or config.removal is not None
        alone = chosen or config.data.resident or config.train.wandb is not None
        if alone or jax.process_count() > 1:
            key = str(path)
        groups.setdefault(key, {})[path] = config
    return list(groups.values())


def train_group(group: Mapping[Path, ConfigDict]) -> dict[Path, UserError]:
    """Trains runs of a group to their last steps, as many at once as memory has room for.

    Returns:
      The failures by workdir; the other runs are whole.
    """
    failures: dict[Path, UserError] = {}
    waiting = list(group.items())
    while waiting:
        with ExitStack() as opened:
            runs: dict[Path, Run] = {}
            while waiting and (not runs or len(runs) < most_beside(next(iter(runs.values())))):
                path, config = waiting.pop(0)
                try:
                    runs[path] = opened.enter_context(build(config, path))
                except UserError as error:
                    failures[path] = error
            together: dict[str, dict[Path, Run]] = {}
            for path, run in runs.items():
                together.setdefault(_stream_of(run), {})[path] = run
            for members in together.values():
                failures |= train_together(members)
    return failures


def most_beside(run: Run) -> int:
    """How many runs like this one fit: each has a state and, for what moves, gradients."""
    size = 2 * sum(x.nbytes for x in jax.tree.leaves(run.state)) / run.mesh.shape["fsdp"]
    there, _ = device_memory(run.mesh.local_devices[0])
    return max(1, int(min(there * STATES_SHARE / max(size, 1), 10**6)))


def _stream_of(run: Run) -> str:
    """What members have the same: the step that they stand at, and all that the batches hang on."""
    inputs = (run.source, run.plan, run.start, run.suspects, run.artefacts)
    facts = facts_of(run.config, *inputs)
    same = {key: fact for key, fact in facts.items() if not key.startswith("config.optimizer.")}
    return json.dumps([run.first, run.total, same], sort_keys=True)


def train_together(runs: Mapping[Path, Run]) -> dict[Path, UserError]:
    """The loop of several runs that stand at the same step of the same stream.

    Raises:
      StartAgain: SIGTERM or Ctrl-C has come: each member has saved the step.
    """
    failures: dict[Path, UserError] = {}
    lead, members = next(iter(runs.values())), list(runs.values())
    lead.bad_rows.beside.extend(run.bad_rows for run in members[1:])
    states = {path: run.state for path, run in runs.items()}
    for stage in lead.stages:
        with lead.begin(stage, lead.state) as begun:
            for done in range(max(lead.first, stage.first) + 1, stage.last + 1):
                if not states:
                    return failures
                try:
                    length, batch = next(begun.batches)
                except UserError as error:  # of the data, which each would have met
                    return failures | dict.fromkeys(states, error)
                placed, steps = lead.place(batch), {}
                for path in states:  # all are dispatched before any is waited for
                    run = runs[path]
                    step = run.step(done, run.rule.resting(done, stage, None))
                    states[path], steps[path] = step(states[path], run.fixed, placed)
                leaving = done < lead.total and _left(members, done)
                saving = done % lead.config.train.checkpoint_every == 0 or done == stage.last
                waited, flops = begun.stream.wait_seconds, lead.flops(length)
                for path in list(states):
                    run = runs[path]
                    try:
                        with writing(run.workdir.path), runtime_errors():
                            metrics = steps[path]
                            run.recorder.take(Done(done, metrics, waited, batch["index"], flops))
                            if saving or leaving:
                                run.recorder.catch_up()
                                with run.recorder.paused():
                                    run.save(done, states[path])
                    except UserError as error:
                        failures[path] = error
                        del states[path]
                if leaving:
                    raise leaving.preemption.stop(
                        f"saved step {done} of {lead.total} in {len(states)} runs beside "
                        f"{lead.workdir}; the same command goes on from there"
                    )
    return failures


def _left(runs: Sequence[Run], done: int) -> Run | None:
    """The member that has noticed a signal to leave: the one that was opened last."""
    return next((run for run in runs if run.preemption.reached(done)), None)
