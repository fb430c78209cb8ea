"""The one training loop: pretraining, poisoned pretraining and every finetuning defence.

What it keeps to: the stream of batches is a function of (seed, step) alone; a checkpoint is
written only when the loss of the step that made it is known to be finite; metrics are fetched
after the next step is dispatched, so that the device never waits for them.
"""

import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.stream.pipeline import Views, every_picture, train_batches
from cleanclip_jax.data.subset import Labelled
from cleanclip_jax.errors import StartAgain, UserError, near
from cleanclip_jax.files import local_folder, writing
from cleanclip_jax.losses.classification import init_head
from cleanclip_jax.losses.compare import NEEDS_VIEWS, TERMS
from cleanclip_jax.measure.sets import open_sets
from cleanclip_jax.models.clip import CLIP, init
from cleanclip_jax.process import agreed, is_first, runtime_errors
from cleanclip_jax.run.boards import Boards
from cleanclip_jax.run.build import (
    check_workdir,
    claim,
    make_model,
    make_tokenizer,
    poison_plan,
    resolve,
    start_variables,
)
from cleanclip_jax.run.clock import flops_per_pair, peak_of
from cleanclip_jax.run.head import Head
from cleanclip_jax.run.launches import note_start
from cleanclip_jax.run.lengths import Cut
from cleanclip_jax.run.optimizer import make_optimizer
from cleanclip_jax.run.preemption import Preemption
from cleanclip_jax.run.record import BadRows, Done, Recorder
from cleanclip_jax.run.resident import BATCH as RESIDENT_BATCH
from cleanclip_jax.run.resident import load_pictures
from cleanclip_jax.run.step import TRAINABLE, Objective, State, fresh_state, make_step
from cleanclip_jax.run.trace import Trace
from cleanclip_jax.run.views import DeviceViews
from cleanclip_jax.sharding import (
    check_batch,
    make_mesh,
    place_batch,
    place_state,
    state_shardings,
)
from cleanclip_jax.start.store import Store
from cleanclip_jax.views.eda import load_synonyms

# What of a batch goes to the device.
IN_STEP = ("images", "tokens", "stamps")


def train(config: ConfigDict, workdir: Path, profile: int = 0) -> ConfigDict:
    """Trains what `config` says into `workdir`, or takes up there where it stopped.

    Args:
      profile: steps that are traced into WORKDIR/profile, after some that warm up.

    Returns:
      the config with everything filled in, as it lies in the workdir.

    Raises:
      UserError: whatever the user can mend, in one line.
      StartAgain: the run was told to leave, or has lost a process; the same call goes on.
    """
    began = time.time()
    with agreed():
        config = resolve(config)
        asked = make_objective(config)
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        check_whole(mesh)
        check_batch(config.train.batch_size, mesh, config.train.chunks)
        source = open_source(config.data.train.to_dict())
        if asked.supervised:
            source = Labelled(source)
        open_sets(config.evaluation)
        views = make_views(config, bool(NEEDS_VIEWS & asked.contrastive.keys()))
        check_workdir(config, workdir)
        tokenizer = make_tokenizer(config, workdir, source)
        plan = poison_plan(config, workdir, source)
        model = make_model(config, tokenizer.vocab_size)
        batch_size = config.train.batch_size
        steps_per_epoch = len(source) // batch_size
        if not steps_per_epoch:
            raise UserError(
                f"config.train.batch_size {batch_size} is larger than the data: {len(source)} pairs"
            )
        total = config.train.steps
        if total is None:
            total = config.train.epochs * steps_per_epoch
        optimizer, schedule = make_optimizer(config.optimizer.to_dict(), total, steps_per_epoch)
        in_step = device_views(config, views, plan)
        step = make_step(model, optimizer, schedule, asked, mesh=mesh, views=in_step)
        head = None
        if asked.supervised:
            assert source.class_names is not None
            head = Head(source.class_names, asked.normalised_head)
        labels = source.labels().astype(np.int32)

    # Only now, when nothing of the config is left to be refused, is anything written.
    with agreed(), writing(workdir):
        if is_first():
            claim(config, workdir, source, tokenizer, plan)
            if head is not None:
                head.save(workdir)
    with (
        writing(workdir),
        runtime_errors(),
        Store(workdir / "checkpoints", config.train.keep) as store,
    ):
        state = first_state(store, config, model, optimizer, mesh, head)
        first = int(state.step)
        if is_first():
            note_start(workdir, first, began)
        reading: dict[str, Any] = {
            "plan": plan,
            "image_size": config.model.image_size,
            "workers": config.data.workers,
            "timeout": config.data.timeout,
            "max_bad_share": config.data.max_bad_share,
            "decode": config.data.decode,
            "captions": bool(asked.contrastive),
            "on_bad": BadRows(workdir, jax.process_index()),
        }
        table = unreadable = None
        if config.data.resident:
            pictures = partial(every_picture, source, batch_size=RESIDENT_BATCH, **reading)
            share = config.data.resident_share
            found = load_pictures(mesh, len(source), config.model.image_size, share, pictures)
            table, unreadable = found or (None, None)
        stream = train_batches(
            source,
            tokenizer,
            views=views,
            batch_size=batch_size,
            seed=config.seed,
            step=first,
            process=(jax.process_index(), jax.process_count()),
            unreadable=unreadable,
            **reading,
        )
        batches = Cut(stream, config.train.text_lengths, config.text.context_length, mesh)
        flops = cache(partial(flops_per_pair, model, asked))
        peak = peak_of(mesh.devices.flat[0].device_kind)
        recorder = Recorder(
            workdir,
            first,
            total,
            log_every=config.train.log_every,
            batch_size=batch_size,
            boards=partial(Boards, workdir, first, config.train.wandb, config.to_dict()),
            peak=peak and peak * mesh.devices.size,
            began=began,
        )
        trace = Trace(local_folder(workdir / "profile"), first + 1, profile)
        with stream, recorder, trace, Preemption() as preemption:
            late: Done | None = None
            for done in range(first + 1, total + 1):
                length, batch = next(batches)
                arrays = {name: batch[name] for name in IN_STEP if name in batch}
                if in_step is not None:
                    arrays["index"] = batch["index"].astype(np.int32)
                if asked.supervised:
                    arrays["labels"] = labels[batch["index"]]
                trace.before(done)
                placed = place_batch(mesh, arrays)
                if table is not None:
                    placed["table"] = table
                state, metrics = step(state, placed)
                if late is not None:
                    recorder.record(late)
                waited = stream.wait_seconds
                late = Done(done, metrics, waited, batch["index"], flops(length))
                leaving = preemption.reached(done) and done < total
                if done % config.train.checkpoint_every == 0 or done == total or leaving:
                    recorder.record(late)
                    late = None
                    with recorder.paused():
                        store.save(done, **parts(state))
                if leaving:
                    raise StartAgain(
                        f"told to leave (SIGTERM): saved step {done} of {total} in {workdir}; the "
                        "same command goes on from there",
                        together=True,
                    )
    return config


def check_whole(mesh: Mesh) -> None:
    """Refuses a mesh that leaves devices out where several processes have some."""
    if jax.process_count() > 1 and mesh.devices.size < jax.device_count():
        raise UserError(
            f"config.mesh takes {mesh.devices.size} of {jax.device_count()} devices; with "
            f"{jax.process_count()} processes it has to be all: leave config.mesh.data at -1"
        )


def make_objective(config: ConfigDict) -> Objective:
    """Returns what the run minimises, and by moving what.

    Raises:
      UserError: no term has a weight, or nothing that moves has one.
    """
    o, trainable = config.objective, config.train.trainable
    weights = {name: float(o[name]) for name in (*TERMS, "classification")}
    if not any(weights.values()):
        raise UserError(f"every weight in config.objective is 0: {', '.join(weights)}")
    if trainable not in TRAINABLE:
        raise UserError(
            f"config.train.trainable is {trainable!r}; known: {', '.join(TRAINABLE)}."
            + near(str(trainable), TRAINABLE)
        )
    if trainable == "head" and not weights["classification"]:
        raise UserError("config.train.trainable is head, which config.objective.classification has")
    return Objective(
        weights,
        separate_views=o.separate_views,
        normalised_head=o.normalise_features,
        trainable=trainable,
        chunks=config.train.chunks,
        ring=o.ring,
    )


def make_views(config: ConfigDict, second: bool) -> Views:
    """Returns how augmented views are made; without a `second` view only where the first is."""
    v = config.views
    if not second:
        return Views(on=v.on)
    synonyms = load_synonyms(v.synonyms, v.wordnet)
    return Views(v.image, v.text, synonyms, v.strength, v.per, v.on)


def device_views(config: ConfigDict, views: Views, plan: Plan | None) -> DeviceViews | None:
    """Returns what the step makes of its pictures; None where they come as they are shown."""
    if views.on == "host":
        return None
    trigger = None if plan is None else plan.trigger
    return DeviceViews(config.seed, trigger, views.image, views.any)


def first_state(
    store: Store,
    config: ConfigDict,
    model: CLIP,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    head: Head | None = None,
) -> State:
    """Returns the state to go on from: the newest checkpoint, else the run's start."""
    key, trainable = jax.random.key(config.seed), config.train.trainable

    def fresh(variables: Mapping[str, Any]) -> State:
        params = dict(variables["params"])
        if head is not None:
            width, dtype = model.variant.features, config.model.param_dtype
            # Not the key that fresh towers are drawn with.
            head_key = jax.random.fold_in(key, 1)
            params["head"] = init_head(head_key, width, len(head.classes), dtype)
        return fresh_state({**variables, "params": params}, optimizer, trainable)

    if store.latest is None:
        return place_state(mesh, fresh(start_variables(config, model, mesh)))
    shapes = jax.eval_shape(lambda: fresh(init(model, key)))
    placed = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        state_shardings(mesh, shapes),
    )
    found = store.load(**parts(placed))
    return State(**found["model"], **found["progress"])


def parts(state: State) -> dict[str, Any]:
    """A state as the two parts of a checkpoint."""
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "progress": {"step": state.step, "opt_state": state.opt_state},
    }
