"""Our training step, for benchmarks/train_step.py, and our weights under PyTorch's names."""

import gzip
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from turns import HELD, Job, batches

from cleanclip_jax.config import defaults
from cleanclip_jax.losses.compare import normalise_rows
from cleanclip_jax.models.clip import CLIP, build, encode_image_train, encode_text, init
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.process import keep_memory
from cleanclip_jax.run.clock import memory_in_use, peak_of
from cleanclip_jax.run.flops import flops_per_pair
from cleanclip_jax.run.optimizer import make_optimizer
from cleanclip_jax.run.state import Fixed, Objective, State, fresh_state
from cleanclip_jax.run.step import compute_loss, make_step
from cleanclip_jax.sharding import make_mesh, place_batch, place_state
from cleanclip_jax.start.torch.names import rules
from cleanclip_jax.start.torch.tensors import to_tensors
from cleanclip_jax.views.normalise import normalise

TRACED = 5  # steps


def objective_of(job: Job) -> Objective:
    """CleanCLIP's objective, or with one view MMCL's."""
    return Objective({"cross_modal": 1.0, "in_modal": float(job.views == 2)})


def model_of(job: Job, precision: str | None = None, tokens: int | None = None) -> CLIP:
    numbers = replace(job.numbers, context_length=tokens or job.numbers.context_length)
    # Options such as a fused attention are for the precision that is measured.
    options = job.options if precision in (None, job.precision) else {}
    return build(numbers, dtype=precision or job.precision, **options)


def start(model: CLIP, seed: int) -> dict[str, Any]:
    """Fresh variables, no two alike: norms and biases moved, and no block of a ResNet at 0."""
    variables = init(model, jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def moved(x: np.ndarray) -> np.ndarray:
        by = 0.1 * rng.standard_normal(x.shape) if x.ndim == 1 else 0.0
        return np.asarray(x + by, x.dtype)

    # On the host: a program for each shape would take as long as the step's own.
    host = jax.device_get(variables)
    return {**host, "params": jax.tree.map(moved, host["params"])}


def exported(v: Variant, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our variables by Hugging Face's names, and a ResNet's image tower by OpenAI's."""
    if v.patch:
        return to_tensors("huggingface", v, variables)
    flat = {path: np.asarray(x) for path, x in flatten_dict(variables, sep="/").items()}
    # Hugging Face has no CLIP with a ResNet; its text tower is the same beside any other.
    image = {path: x for path, x in flat.items() if path.split("/")[1] == "visual"}
    text = {path: x for path, x in flat.items() if path not in image}
    beside = replace(v, vision_layers=1, vision_width=64, patch=32)
    named = {
        rule.name: np.ascontiguousarray(rule.to_torch(tower[rule.path]))
        for tower, layout, numbers in ((image, "openai", v), (text, "huggingface", beside))
        for rule in rules(layout, numbers)
        if rule.path in tower
    }
    norms = [name for name in named if name.endswith(".running_var")]
    counters = {f"{name.removesuffix('running_var')}num_batches_tracked" for name in norms}
    return named | {name: np.asarray(0) for name in counters}


def look(
    model: CLIP, asked: Objective, params: Any, stats: Any, images: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss and unit embeddings [b, 2 views, d]: pictures, then texts."""
    loss, _ = compute_loss(model, asked, State(jnp.int32(0), params, stats, None), images, tokens)
    variables = {"params": params, "batch_stats": stats}
    pictures = normalise(images).reshape(-1, *images.shape[2:])
    image, _ = encode_image_train(model, variables, pictures)
    text = encode_text(model, variables, tokens.reshape(-1, tokens.shape[-1]))
    both = [x.reshape(*images.shape[:2], -1) for x in (image, text)]
    return loss, normalise_rows(jnp.concatenate(both, 1))


class Ours:
    """The step of run/step.py on one device. The weights are written to `job.weights`."""

    def __init__(self, job: Job):
        keep_memory()
        self.job, self.done = job, 0
        self.model = model_of(job)
        self.asked = objective_of(job)
        variables = start(self.model, job.seed)
        np.savez(job.weights, **exported(job.numbers, variables))
        mesh = make_mesh(1)
        config = {**defaults().optimizer.to_dict(), "warmup_steps": job.warmup_steps}
        optimizer, schedule = make_optimizer(config, 10**9, 10**3)  # its cosine never counts
        self.state = place_state(mesh, fresh_state(variables, optimizer))
        self.update = make_step(self.model, optimizer, schedule, self.asked, mesh=mesh)
        self.looked = jax.jit(partial(look, model_of(job, "float32"), self.asked))
        self.data = [
            place_batch(mesh, {"images": images, "tokens": tokens})
            for images, tokens in batches(job, job.batch, HELD, job.tokens)
        ]

    def check(self, images: np.ndarray, tokens: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and unit embeddings [b, 2 views, d] of a few pairs, in float32."""
        with jax.default_matmul_precision("highest"):
            found = self.looked(self.state.params, self.state.batch_stats, images, tokens)
        return float(found[0]), np.asarray(found[1])

    def step(self) -> jax.Array:
        """One update; its loss, not waited for."""
        batch = self.data[self.done % len(self.data)]
        self.state, metrics = self.update(self.state, Fixed(), batch)
        self.done += 1
        return metrics["loss"]

    def wait(self, loss: jax.Array) -> float:
        jax.block_until_ready(self.state)
        return float(loss)

    def first(self) -> dict[str, Any]:
        """Compiles and does the first step, and says what it took."""
        began = time.perf_counter()
        loss = self.wait(self.step())
        return {"compile_seconds": round(time.perf_counter() - began, 2), "first_loss": loss}

    def about(self) -> dict[str, Any]:
        """What it runs on and with, and the FLOPs of a pair: cut, and at the whole context."""
        kind = jax.devices()[0].device_kind
        cut, whole = (
            flops_per_pair(model_of(self.job, tokens=n), self.asked)
            for n in (self.job.tokens, self.job.numbers.context_length)
        )
        peak = peak_of(kind)
        return {"device": kind, "jax": jax.__version__, "flops": cut, "whole": whole, "peak": peak}

    def peak_bytes(self) -> int | None:
        """The most memory of the device that it has held; None where the device doesn't say."""
        return memory_in_use()

    def trace(self, folder: str) -> str:
        """A profile of a few steps, and as a table what took the most time."""
        self.wait(self.step())
        with jax.profiler.trace(folder):
            for _ in range(TRACED):
                loss = self.step()
            self.wait(loss)
        return costliest(Path(folder))


def costliest(folder: Path, rows: int = 25) -> str:
    """Operations of a profile by their time a step, as Markdown."""
    newest = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    events = json.loads(gzip.decompress(newest.read_bytes()))["traceEvents"]
    spent, often, where = Counter(), Counter(), {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("ph") == "X" and "hlo_op" in arguments:
            name = arguments["hlo_op"]
            spent[name] += event["dur"]
            often[name] += 1
            where[name] = str(arguments.get("tf_op", ""))[-70:]
    total = sum(spent.values())
    lines = [f"{total / TRACED / 1000:.2f} ms a step in {len(spent)} operations", ""]
    lines += ["| operation | ms a step | share | times | of |", "|---|---|---|---|---|"]
    for name, micros in spent.most_common(rows):
        each = f"{micros / TRACED / 1000:.3f} | {micros / total:.1%} | {often[name] // TRACED}"
        lines.append(f"| {name} | {each} | {where[name]} |")
    return "\n".join(lines)
