"""Where things lie: the mesh of devices, batches split over it, state copied or split."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cleanclip_jax.errors import UserError

AXES = ("data", "fsdp")
# Elements. Smaller arrays (norms, biases) are copied: together they are next to nothing, and each
# that is split costs a collective.
SMALLEST = 4096


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """Returns the mesh of `data` x `fsdp` devices, the first of all there are.

    The batch is split over both axes. Parameters and optimizer state are copied over `data` and
    split over `fsdp`.

    Args:
      data: -1: as many as there are, over `fsdp`.
    """
    devices = jax.devices()
    if data == -1:
        if len(devices) % fsdp:
            raise UserError(
                f"config.mesh.fsdp {fsdp} does not divide the {len(devices)} devices: "
                "take one that does, or set config.mesh.data too"
            )
        data = len(devices) // fsdp
    if data * fsdp > len(devices):
        wanted = f"config.mesh.data is {data}"
        if fsdp > 1:
            wanted += f" and config.mesh.fsdp {fsdp}, together {data * fsdp},"
        raise UserError(f"{wanted} but there are {len(devices)} devices")
    # Auto axes: XLA places the collectives of a loss that is written once for the whole batch.
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, fsdp), AXES, axis_types=types, devices=devices[: data * fsdp])


def check_batch(batch_size: int, mesh: Mesh, chunks: int = 1) -> None:
    """Refuses a global batch that the devices, each in `chunks` parts, can't share evenly."""
    devices = mesh.devices.size
    count = devices * chunks
    if batch_size % count:
        lower = batch_size - batch_size % count
        parts = f", each in config.train.chunks {chunks} parts" if chunks > 1 else ""
        raise UserError(
            f"config.train.batch_size {batch_size} does not divide over {devices} devices{parts}: "
            f"take {' or '.join(str(size) for size in (lower, lower + count) if size)}"
        )


def split_over(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows, which dimension `axis` counts, split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def copied_over(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Returns where each array of a state lies, as a tree of shardings.

    Each is split over `fsdp` along its largest dimension that divides, or copied if it has none
    or is small. An array's place depends on its shape alone, so that a parameter and its moments
    lie together and a checkpoint can be placed before it is read.

    Args:
      state: a tree of arrays or of `jax.ShapeDtypeStruct`.
    """
    count = mesh.shape["fsdp"]

    def place(x: Any) -> NamedSharding:
        sizes = [size if size % count == 0 else 0 for size in x.shape]
        if count == 1 or x.size < SMALLEST or not any(sizes):
            return copied_over(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * sizes.index(max(sizes)), "fsdp"))

    return jax.tree.map(place, state)


def placed_shapes(mesh: Mesh, shapes: Any) -> Any:
    """Shapes of a state with the places of their arrays."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        state_shardings(mesh, shapes),
    )


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes a global batch of this process's rows, split over the devices."""
    sharding = split_over(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


def place_state(mesh: Mesh, state: Any) -> Any:
    """Puts a tree of arrays where `state_shardings` says."""
    return jax.device_put(state, state_shardings(mesh, state))


def gather(mesh: Mesh | None, tree: Any) -> Any:
    """Inside jit: copies to compute with of arrays that lie split over `fsdp`."""
    if mesh is None or mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, copied_over(mesh))


def scatter(mesh: Mesh | None, tree: Any) -> Any:
    """Inside jit: each device keeps its part of a tree, as `state_shardings` says."""
    if mesh is None or mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, state_shardings(mesh, tree))
