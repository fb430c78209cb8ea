"""What a training step costs on many chips, on paper: docs/scaling.md is this program's output.

    python benchmarks/scaling.py [--variants=RN50,ViT-B/16]

Compiles CleanCLIP's step (two views) for eight fake devices and counts the collectives in the
compiled program, their number and their bytes on each device. FLOPs and memory traffic are the
model's: every operand of a matrix product or convolution is read, every result written once, in
bfloat16, three times for forward and backward, and what stands between them moves as much again.
Set against the chips' data sheets that gives a step's time; nothing is run, and nothing here was
measured on a chip.
"""

import argparse
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from touched import elements

from cleanclip_jax.config import defaults
from cleanclip_jax.models.clip import CLIP, build, init
from cleanclip_jax.run.flops import flops_per_pair
from cleanclip_jax.run.optimizer import make_optimizer
from cleanclip_jax.run.state import Fixed, Objective, fresh_state
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import make_mesh, split_over, state_shardings

DEVICES = 8
ROWS = 2  # pairs a device in the compiled program; it is compiled for twice as many too
ASKED = Objective({"cross_modal": 1.0, "in_modal": 1.0})
BATCHES = (8192, 32768)
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u8": 1, "pred": 1, "f64": 8, "u32": 4}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Chip:
    """Data-sheet numbers of one chip; `link` is what it sends to its neighbours, bytes/s."""

    flops: float
    memory: float
    capacity: float
    link: float
    latency: float  # seconds a collective takes however small it is: assumed
    counts: tuple[int, ...]


CHIPS = {
    "v5e": Chip(197e12, 819e9, 16e9, 200e9, 10e-6, (32, 64, 128, 256)),
    "v5p": Chip(459e12, 2765e9, 95e9, 600e9, 10e-6, (32, 64, 128, 256)),
    # Eight to a node at 450 GB/s, and 50 GB/s each between nodes: the slower counts.
    "H100": Chip(989e12, 3350e9, 80e9, 50e9, 30e-6, (32, 64, 128, 256)),
}
# Assumed: the share of the peak that matrix products reach, of the memory's rate, of the link's.
REACHED, STREAMED, SENT = 0.5, 0.7, 0.8
# And the traffic of norms, activations and the like beside that of the products between them.
BETWEEN = 2


@dataclass(frozen=True)
class Counted:
    """What the compiled step of a variant has.

    Attributes:
      flops: of a pair, forward and backward.
      touched: bytes of memory a pair, in bfloat16.
      embeddings: bytes a pair that the gather brings to every device.
      reduced: bytes that are summed over the devices, whatever the batch.
      collectives: how many of each kind.
    """

    parameters: int
    flops: float
    touched: float
    embeddings: float
    reduced: float
    collectives: dict[str, int]


def count(variant: str) -> Counted:
    """Counts in a variant's step, compiled at two batch sizes for what grows with the batch."""
    model = build(variant)
    small, large = (compiled(model, rows) for rows in (ROWS, 2 * ROWS))
    before, gathered = (
        sum(size for kind, size in found if kind == "all-gather") for found in (small, large)
    )
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    return Counted(
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])),
        flops_per_pair(model, ASKED),
        traffic(model, 2) - traffic(model, 1),
        (gathered - before) / (DEVICES * ROWS),
        sum(size for kind, size in small if kind == "all-reduce"),
        dict(Counter(kind for kind, _ in small)),
    )


def traffic(model: CLIP, pairs: int) -> float:
    """Bytes that the step of so many pairs with two views moves, the parameters' among them."""
    return 3 * BETWEEN * BYTES["bf16"] * elements(model, pairs)


def compiled(model: CLIP, rows: int) -> list[tuple[str, int]]:
    """The compiled step's collectives, with the bytes that each gives a device."""
    mesh = make_mesh(DEVICES)
    config = defaults()
    optimizer, schedule = make_optimizer(config.optimizer.to_dict(), 1000, 100)
    step = make_step(model, optimizer, schedule, ASKED, mesh=mesh)
    state = jax.eval_shape(lambda: fresh_state(init(model, jax.random.key(0)), optimizer))
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        state,
        state_shardings(mesh, state),
    )
    v, pairs = model.variant, rows * DEVICES
    batch = {
        "images": ((pairs, 2, v.image_size, v.image_size, 3), jnp.uint8),
        "tokens": ((pairs, 2, v.context_length), jnp.int32),
    }
    placed = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split_over(mesh))
        for name, (shape, dtype) in batch.items()
    }
    program: Any = jax.jit(step).lower(state, Fixed(), placed).compile()
    return collectives(program.as_text())


def collectives(text: str) -> list[tuple[str, int]]:
    """(kind, bytes of its result) of every collective in a compiled program."""
    found = []
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if match:
            sizes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            total = sum(
                BYTES.get(kind, 4) * int(np.prod([int(n) for n in shape.split(",") if n] or [1]))
                for kind, shape in sizes
            )
            found.append((match[2], total))
    return found


def step_seconds(found: Counted, chip: Chip, batch: int, chips: int) -> tuple[float, float]:
    """The least seconds of a step, (in computing, in collectives), none of it overlapped."""
    pairs = batch / chips
    share = (chips - 1) / chips
    # The contrastive terms: four products of own rows with everyone's, three times.
    comparing = 3 * 4 * 2 * pairs * batch * found.embeddings / 4 / 4
    computing = max(
        pairs * found.flops / (chip.flops * REACHED) + comparing / (chip.flops * REACHED / 6),
        pairs * found.touched / (chip.memory * STREAMED),
    )
    sent = share * (batch * found.embeddings + 2 * found.reduced)
    waits = sum(found.collectives.values()) * chip.latency
    return computing, sent / (chip.link * SENT) + waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="RN50,ViT-B/16")
    for variant in parser.parse_args().variants.split(","):
        found = count(variant)
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(found.collectives.items()))
        print(f"\n### {variant}\n")
        print(
            f"{found.parameters / 1e6:.0f} M parameters. A pair, two views: "
            f"{found.flops / 1e9:.0f} GFLOP, {found.touched / 1e6:.0f} MB of memory traffic, "
            f"{found.embeddings:.0f} bytes of embeddings to every device. A step: "
            f"{found.reduced / 1e6:.0f} MB summed over the devices. Collectives: {kinds}.\n"
        )
        print("| chip | batch | " + " | ".join(f"{n} chips" for n in CHIPS["v5e"].counts) + " |")
        print("|---|---|" + "---|" * len(CHIPS["v5e"].counts))
        for name, chip in CHIPS.items():
            for batch in BATCHES:
                cells = []
                for chips in chip.counts:
                    computing, sending = step_seconds(found, chip, batch, chips)
                    total = computing + sending
                    cells.append(
                        f"{1000 * total:.0f} ms, {batch / total / 1000:.1f} k/s, "
                        f"{sending / total:.0%}"
                    )
                print(f"| {name} | {batch:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
