"""What a run takes of its start beside the weights: moments, and a frozen copy to compare with."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from cleanclip_jax.errors import UserError
from cleanclip_jax.run.checked import Checked
from cleanclip_jax.sharding import place_state, placed_shapes
from cleanclip_jax.start.model import shapes_of
from cleanclip_jax.start.store import Store
from cleanclip_jax.workdir import ANCHOR, Workdir


def moments_of_start(run: Checked, fresh: Any) -> Any:
    """The optimizer's state with Adam's moments and count as the start's run left them.

    The schedule begins anew ("fresh optimizer" in docs/fidelity.md).
    """
    start: Any = run.start
    started = start.optimizer_state(placed_shapes(run.mesh, fresh))
    return jax.tree.map(
        lambda ours, start: start if isinstance(ours, optax.ScaleByAdamState) else ours,
        fresh,
        started,
        is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState),
    )


def anchor(workdir: Workdir, run: Checked) -> Mapping[str, Any]:
    """The frozen start's variables, which the run keeps: its start may be moved or pruned."""
    with Store(workdir / ANCHOR, keep=1) as store:
        if store.latest is None:
            if run.config.start and run.start is None:
                raise UserError(
                    f"{workdir / ANCHOR} is gone, the start that this run compares with: bring it "
                    "back, or begin anew in another workdir"
                )
            variables = place_state(run.mesh, dict(run.weights()))
            whole = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
            store.save(0, model=whole, progress={"step": np.zeros((), np.int32)})
            return whole
        return store.load(model=placed_shapes(run.mesh, shapes_of(run.model)))["model"]
