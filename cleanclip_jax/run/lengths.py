"""Captions cut to what the longest of the global batch needs.

The text tower is causal and pooled at the end of text: what follows that changes nothing, and takes
time. A few lengths only, as the step is compiled for each.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from cleanclip_jax.process import in_turn
from cleanclip_jax.sharding import copied_over, place_batch

Batch = TypeVar("Batch", bound=Mapping[str, Any])

# Batches whose length several processes compare ahead of the one that they train on: the result
# has been there since the step before the last, so that none waits for it.
AHEAD = 2


def longest(tokens: Int[np.ndarray, "*b n"]) -> int:
    """Places that the features of these captions depend on: up to the row's end of text."""
    return int(tokens.argmax(-1).max()) + 1


class Cut:
    """Iterates over (length, batch), the same length in every process.

    Args:
      batches: with `tokens` [b, views, context].
      lengths: that captions are cut to; what is longer keeps the whole context.
      mesh: of all processes.
    """

    def __init__(self, batches: Iterable[Batch], lengths: Iterable[int], context: int, mesh: Mesh):
        self._batches = iter(batches)
        self._lengths = (*sorted(length for length in lengths if length < context), context)
        self._mesh = mesh
        self._ahead: deque[tuple[Mapping[str, Any], Any]] = deque()
        self._depth = AHEAD if jax.process_count() > 1 and len(self._lengths) > 1 else 0
        # The first dimension has one row a device.
        self._largest = in_turn(jax.jit(jnp.max, out_shardings=copied_over(mesh)))

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[int, dict[str, Any]]:
        while len(self._ahead) <= self._depth:
            if (batch := next(self._batches, None)) is None:
                break
            self._ahead.append((batch, self._over_all(longest(batch["tokens"]))))
        if not self._ahead:
            raise StopIteration
        batch, needed = self._ahead.popleft()
        length = min(length for length in self._lengths if length >= int(needed))
        return length, {**batch, "tokens": batch["tokens"][..., :length]}

    def _over_all(self, here: int) -> Any:
        """The largest of all processes' numbers, perhaps still under way."""
        if not self._depth:
            return here
        rows = np.full(self._mesh.local_mesh.devices.size, here, np.int32)
        return self._largest(place_batch(self._mesh, {"longest": rows})["longest"])
