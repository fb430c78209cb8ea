"""Where things lie: the mesh of devices, batches split over it, state copied onto it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cleanclip_jax.errors import UserError


def make_mesh(data: int = -1) -> Mesh:
    """Returns the mesh with its one axis `data`, over all devices or the first `data` of them.

    Raises:
      UserError: there are fewer devices than asked for.
    """
    devices = jax.devices()
    count = len(devices) if data == -1 else data
    if not 1 <= count <= len(devices):
        raise UserError(f"config.mesh.data is {data} but there are {len(devices)} devices")
    # Auto axes: XLA places the collectives of a loss that is written once for the whole batch.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices can't share evenly."""
    count = mesh.devices.size
    if batch_size % count:
        lower = batch_size - batch_size % count
        raise UserError(
            f"config.train.batch_size {batch_size} does not divide over {count} devices: "
            f"take {' or '.join(str(size) for size in (lower, lower + count) if size)}"
        )


def split_over(mesh: Mesh) -> NamedSharding:
    """Rows split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def copied_over(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes a global batch of this process's rows, split over the devices."""
    sharding = split_over(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


def place_state(mesh: Mesh, state: Any) -> Any:
    """Copies a tree of arrays onto every device of the mesh."""
    return jax.device_put(state, copied_over(mesh))
