"""The state that a run goes on from, and the start that it compares with."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from cleanclip_jax.errors import UserError
from cleanclip_jax.losses.terms import init_head
from cleanclip_jax.models.clip import init
from cleanclip_jax.run.checked import Checked
from cleanclip_jax.run.state import State, fresh_state
from cleanclip_jax.sharding import place_state, state_shardings
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.start.store import Store
from cleanclip_jax.workdir import ANCHOR, Workdir


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
        state = place_state(run.mesh, fresh(_start_variables(run)))
        if config.optimizer.moments == "start":
            state.opt_state = _moments_of_start(run, state.opt_state)
        return state
    shapes = jax.eval_shape(fresh, shapes_of(run.model))
    restored = store.load(**parts(_placed(run, shapes)))
    return State(**restored["model"], **restored["progress"])


def _moments_of_start(run: Checked, fresh: Any) -> Any:
    """The optimizer's state with Adam's moments and count as the start's run left them.

    The schedule begins anew ("fresh optimizer" in docs/fidelity.md).
    """
    from cleanclip_jax.start.start import RunStart

    if not isinstance(run.start, RunStart):
        raise UserError(
            "config.optimizer.moments is start, but config.start is no run's workdir, which "
            "alone has moments: leave it at fresh"
        )
    started = run.start.optimizer_state(_placed(run, fresh))
    return jax.tree.map(
        lambda ours, start: start if isinstance(ours, optax.ScaleByAdamState) else ours,
        fresh,
        started,
        is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState),
    )


def _start_variables(run: Checked) -> Mapping[str, Any]:
    """The weights that a run begins with: fresh by its seed, or its start's."""
    if run.start is None:
        return init(run.model, jax.random.key(run.config.seed))
    return run.start.restore(run.model, run.mesh)[1]


def anchor(workdir: Workdir, run: Checked) -> Mapping[str, Any]:
    """The frozen start's variables, which the run keeps: its start may be moved or pruned."""
    with Store(workdir / ANCHOR, keep=1) as store:
        if store.latest is None:
            if run.config.start and run.start is None:
                raise UserError(
                    f"{workdir / ANCHOR} is gone, the start that this run compares with: bring it "
                    "back, or begin anew in another workdir"
                )
            variables = place_state(run.mesh, dict(_start_variables(run)))
            whole = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
            store.save(0, model=whole, progress={"step": np.zeros((), np.int32)})
            return whole
        return store.load(model=_placed(run, shapes_of(run.model)))["model"]


def _placed(run: Checked, shapes: Any) -> Any:
    """Shapes with the places of their arrays."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        state_shardings(run.mesh, shapes),
    )


def parts(state: State) -> dict[str, Any]:
    """A state as the two parts of a checkpoint."""
    progress = {"step": state.step, "opt_state": state.opt_state}
    if state.memory:
        progress["memory"] = state.memory
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "progress": progress,
    }
