"""All pictures of a set in device memory: decoded once, and no file is read any more."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from tqdm import tqdm

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.stream.in_order import PictureBatch, every_picture
from cleanclip_jax.data.stream.pipeline import Batches, Reading
from cleanclip_jax.errors import UserError
from cleanclip_jax.process import agreed, is_first, largest
from cleanclip_jax.record import Source
from cleanclip_jax.run.clock import device_memory
from cleanclip_jax.sharding import split_over

log = logging.getLogger(__name__)

BATCH = 256  # pictures that are written at a time


def load_pictures(
    mesh: Mesh,
    source: Source,
    reading: Reading,
    *,
    image_size: int,
    share: float,
    plan: Plan | None = None,
) -> tuple[UInt8[Array, "n s s 3"], frozenset[int]] | None:
    """Decodes a source's pictures into the devices' memory, each device its part of them.

    Args:
      reading, image_size, plan: as in `train_batches`.
      share: of each device's free memory that may be taken.

    Returns:
      the table, its rows split over all devices, with zeros for records that could not be read and
      beyond the last; and those records. None where memory is short, which is logged.
    """
    count = len(source)
    rows = math.ceil(count / mesh.devices.size)
    shape, sharding = (rows * mesh.devices.size, *[image_size] * 2, 3), split_over(mesh)
    firsts = {
        device: place[0].start or 0
        for device, place in sharding.addressable_devices_indices_map(shape).items()
        if place is not None
    }
    needed = rows * image_size**2 * 3
    free = min(device_memory(device)[1] for device in firsts)
    parts = None
    if needed <= share * free:
        parts = allocate(list(firsts), (rows, *shape[1:]))
    # One answer for all: the step is one program.
    short = largest(float(parts is None))[0]
    if short or parts is None:
        log.warning(
            "config.data.resident: %d pictures take %.1f GB of each device, of whose %.1f free GB "
            "config.data.resident_share lets them have %.1f: the host decodes each batch instead",
            *(count, needed / 1e9, free / 1e9, share * free / 1e9),
        )
        return None
    wanted = np.concatenate(
        [np.arange(first, min(first + rows, count)) for first in firsts.values()]
    )
    with agreed():
        unreadable: set[int] = set()
        if len(wanted):
            reading = replace(reading, batch_size=BATCH)
            pictures = every_picture(source, wanted, reading, image_size=image_size, plan=plan)
            unreadable = fill(parts, list(firsts.values()), len(wanted), pictures)
    if jax.process_count() > 1:
        unreadable = _everyones(unreadable, count)
    if len(unreadable) == count:
        raise UserError(f"none of the {count} pictures can be read: look at bad_rows.jsonl")
    return jax.make_array_from_single_device_arrays(shape, sharding, parts), frozenset(unreadable)


def allocate(devices: Sequence[Any], shape: tuple[int, ...]) -> list[jax.Array] | None:
    """An array of zeros on each device; None where there is no room after all."""
    try:
        parts = [jnp.zeros(shape, jnp.uint8, device=device) for device in devices]
        return [part.block_until_ready() for part in parts]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def fill(
    parts: list[jax.Array], firsts: list[int], count: int, pictures: Batches[PictureBatch]
) -> set[int]:
    """Writes `count` pictures, of the records from each of `firsts` on, into `parts`, in place.

    Returns:
      the records that could not be read.
    """
    rows = len(parts[0])
    with pictures, tqdm(total=count, unit="picture", disable=not is_first()) as bar:
        for batch in pictures:
            index = batch["index"]
            for part, first in enumerate(firsts):
                if np.any((index >= first) & (index < first + rows)):
                    parts[part] = _write(parts[part], *_padded(batch["images"], index - first))
            bar.update(len(index))
    return set(pictures.unreadable)


def _padded(images: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and their rows, filled up to one size: for another the write compiles again."""
    short = BATCH - len(images)
    at = np.pad(at, (0, short), constant_values=-1).astype(np.int32)
    return np.pad(images, [(0, short), (0, 0), (0, 0), (0, 0)]), at


def _scatter(part: jax.Array, images: jax.Array, at: jax.Array) -> jax.Array:
    # Rows before the first and after the last are another device's, or none.
    return part.at[jnp.where(at < 0, len(part), at)].set(images, mode="drop")


# In place: there is no room for the table twice.
_write: Any = jax.jit(_scatter, donate_argnums=0)


def _everyones(ours: set[int], count: int) -> set[int]:
    mask = np.zeros(count, bool)
    mask[list(ours)] = True
    every = np.asarray(multihost_utils.process_allgather(mask)).reshape(-1, count)
    return set(np.flatnonzero(every.any(0)).tolist())
