"""A model's checkpoint written and read as NumPy arrays, in little more memory than they take."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from cleanclip_jax.start.store import MODEL, Store, open_store
from cleanclip_jax.start.torch.paging import give_back_memory
from cleanclip_jax.start.torch.tree import flattened, nested

_GROUP = 32 << 20  # bytes that are read at once


def _lean() -> ocp.Context:
    """Orbax's settings without copies: host arrays that are contiguous are written as they lie.

    So without compression, which would save a tenth of what weights take.
    """
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.pytree.loading.partial_load = True
    context.array.saving.use_compression = False
    return context


def save_host(workdir: Path, variables: dict[str, Any]) -> None:
    """Writes arrays of any types as the checkpoint of step 0 of a new workdir."""
    with _lean(), Store(workdir / "checkpoints") as store:
        store.save(0, variables, {"step": np.zeros((), np.int32)})


def newest_step(workdir: Path) -> int:
    """Returns the step of a run's newest checkpoint.

    Raises:
      UserError: the run has no checkpoint yet.
    """
    with open_store(workdir) as (step, _):
        return step


def load_host(workdir: Path) -> Iterator[dict[str, np.ndarray]]:
    """Gives the variables of a run's newest checkpoint as saved, by path, group after group.

    Raises:
      UserError: the run has no checkpoint yet.
    """
    with _lean(), open_store(workdir) as (step, store):
        group: dict[str, np.ndarray] = {}
        for path, like in flattened(store.saved(MODEL)).items():
            if group and sum(x.nbytes for x in group.values()) + like.nbytes > _GROUP:
                yield flattened(store.load(step, model=nested(group))[MODEL])
                give_back_memory()
                group = {}
            group[path] = like
        yield flattened(store.load(step, model=nested(group))[MODEL])
