"""What the training step asks of one H200, on paper: FLOPs and memory traffic, and which binds.

    python benchmarks/costs.py [--variants=RN50,ViT-B/16] [--batch=64] [--tokens=77,48,32,16]

Compiles CleanCLIP's step (two views, bfloat16) for this machine's CPU and doesn't run it. Beside
what XLA counts in that program stands the floor: the model's own FLOPs
(run/clock.py), and the least memory traffic: every operand of a product or convolution
is read and its result written once, in bfloat16, three times for forward and backward, and AdamW
reads and writes what it keeps, in float32. Norms and activations, which may be fused into
products, are not in it; attention's weights are, which a fused attention never writes.

XLA's code for a CPU is not its code for a GPU: it fuses otherwise, and computes bfloat16 in
float32. Nothing here was measured. Prints Markdown.
"""

import argparse
import math
import os
from dataclasses import dataclass
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from touched import elements

from cleanclip_jax.config import defaults
from cleanclip_jax.models.clip import CLIP, build, init
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.run.flops import flops_per_pair
from cleanclip_jax.run.optimizer import make_optimizer
from cleanclip_jax.run.state import Fixed, Objective, fresh_state
from cleanclip_jax.run.step import make_step

ASKED = Objective({"cross_modal": 1.0, "in_modal": 1.0})
FLOPS, MEMORY = 989e12, 4.8e12  # H200's data sheet: dense bfloat16 FLOP/s, bytes/s
# The backward pass writes gradients; AdamW reads weights, gradients and both moments, and writes
# all but the gradients: 4 bytes each.
PER_PARAMETER = 4 * (1 + 4 + 3)


@dataclass(frozen=True)
class Floor:
    """The least that a step can cost: FLOPs, and bytes of products and of the parameters."""

    flops: float
    products: float
    parameters: float

    @property
    def seconds(self) -> tuple[float, float]:
        """In computing alone, in memory traffic alone, at the data sheet's rates."""
        return self.flops / FLOPS, (self.products + self.parameters) / MEMORY

    @property
    def binds(self) -> str:
        """The slower of the two."""
        computing, moving = self.seconds
        return "FLOPs" if computing > moving else "memory"


def floor(model: CLIP, pairs: int) -> Floor:
    """Counts in the model as it is written; `scaling.py` counts twice these products' bytes."""
    shapes: Any = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"]))
    flops = pairs * flops_per_pair(model, ASKED)
    return Floor(flops, 3 * 2 * elements(model, pairs), PER_PARAMETER * parameters)


def compiled(model: CLIP, pairs: int) -> tuple[float, float, float]:
    """FLOPs, bytes read and written, and bytes of temporary memory of the CPU's program."""
    optimizer, schedule = make_optimizer(defaults().optimizer.to_dict(), 1000, 100)
    step: Any = make_step(model, optimizer, schedule, ASKED)
    state = jax.eval_shape(lambda: fresh_state(init(model, jax.random.key(0)), optimizer))
    v = model.variant
    batch = {
        "images": jax.ShapeDtypeStruct((pairs, 2, v.image_size, v.image_size, 3), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((pairs, 2, v.context_length), jnp.int32),
    }
    program = step.lower(state, Fixed(), batch).compile()
    counted, memory = program.cost_analysis(), program.memory_analysis()
    return counted["flops"], counted["bytes accessed"], memory.temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", default="RN50,ViT-B/32,ViT-B/16")
    parser.add_argument("--batch", type=int, default=64, help="pairs")
    parser.add_argument("--tokens", default="77,48,32,16", help="of a caption")
    parser.add_argument("--floor", action="store_true", help="compile nothing")
    asked = parser.parse_args()
    batch = asked.batch
    print(f"Batch {batch}, two views, bfloat16; H200: 989 TFLOP/s, 4.8 TB/s (data sheet).\n")
    if not asked.floor:
        print("XLA's program for the CPU, which is not the GPU's, against the floor:\n")
        print(
            "| model | FLOPs, XLA's | the model's | bytes, XLA's | the floor's | temporary memory |"
        )
        print("|---|---|---|---|---|---|")
        for variant in asked.variants.split(","):
            # Blocks in one loop compile in a tenth of the time, but then XLA counts one of them.
            model = build(variant, dtype="bfloat16")
            flops, touched, temporary = compiled(model, batch)
            least = floor(model, batch)
            print(
                f"| {variant} | {flops / 1e12:.2f} T | {least.flops / 1e12:.2f} T | "
                f"{touched / 1e9:.0f} GB | {(least.products + least.parameters) / 1e9:.1f} GB | "
                f"{temporary / 2**30:.1f} GiB |",
                flush=True,
            )
        print()
    print("The floor, on one H200:\n")
    print(
        "| model | tokens | TFLOP a step | GB a step (of them parameters) | ms, FLOPs alone | "
        "ms, memory alone | binds | pairs/s at 100 % | at 50 % |"
    )
    print("|" + "---|" * 9)
    for variant in asked.variants.split(","):
        for tokens in map(int, asked.tokens.split(",")):
            if tokens > VARIANTS.find(variant).context_length:
                continue
            least = floor(build(variant, context_length=tokens, dtype="bfloat16"), batch)
            computing, moving = least.seconds
            rate = batch / max(computing, moving)
            print(
                f"| {variant} | {tokens} | {least.flops / 1e12:.2f} | "
                f"{(least.products + least.parameters) / 1e9:.1f} ({least.parameters / 1e9:.1f}) | "
                f"{1000 * computing:.2f} | {1000 * moving:.2f} | {least.binds} | {rate:,.0f} | "
                f"{rate / 2:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
