"""What a run is made of: its state, what is fixed beside it, and what it minimises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.config_keys import keys_of
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.keys import of_signature, take
from cleanclip_jax.losses.terms import TERMS, Term, read_objective
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.run.clock import device_memory
from cleanclip_jax.start.model import shapes_of


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "batch_stats", "opt_state", "memory"],
    meta_fields=[],
)
@dataclass
class State:
    """All that training changes: arrays, or their shapes.

    Attributes:
      step: updates so far, int32[].
      memory: what terms keep between steps, by their names.
    """

    step: Any
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: Any
    memory: dict[str, Any] = field(default_factory=dict)


@partial(
    jax.tree_util.register_dataclass, data_fields=["start", "table", "artefacts"], meta_fields=[]
)
@dataclass
class Fixed:
    """What the step is given beside the state, and neither changes nor saves.

    Attributes:
      start: the variables that the run began with, where a term needs them.
      table: uint8[n, s, s, 3], all pictures, where they lie in device memory.
      artefacts: arrays that jobs have made, by the terms that need them.
    """

    start: Mapping[str, Any] | None = None
    table: jax.Array | None = None
    artefacts: Mapping[str, Any] = field(default_factory=dict)


SPLIT = "split"  # of a memory: the digest of the split that chose the records, uint8[32]
# Epochs in which any pattern of terms that rest shows itself.
SEVERAL = 13
# The top-level parts of a run's parameters; a run need not have the last two.
PARTS = ("visual", "text", "logit_scale", "head", "trigger")
# Short names for parts of the parameters that move together.
TRAINABLE = {
    "visual": ("visual", "head"),
    "towers": ("visual", "text"),
    "head": ("head",),
}


@dataclass(frozen=True)
class Objective:
    """What a run minimises, and by moving what.

    Attributes:
      weights: by term name; a term of weight 0 is left out.
      options: of terms, by their names.
      separate_views: a forward for each view instead of a joint one, so that batch norm sees
        originals and views apart ("joint forward" in docs/fidelity.md).
      trainable: "all", a name of `TRAINABLE`, or the top-level parts of the parameters that move;
        the others stay as they are, bit for bit. The image tower runs in evaluation mode unless
        it moves.
      chunks: parts that the batch is encoded in, one after another, for the memory of one.
      ring: whether the terms compare in a ring, for memory that grows with the batch and not
        with its square.
      seed: draws what memories begin with.
      resting: terms whose value does not count in this phase of the run.
      splits: whether splits choose the records of its stages (run.splits).
    """

    weights: Mapping[str, float]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    separate_views: bool = False
    trainable: str | tuple[str, ...] = "all"
    chunks: int = 1
    ring: bool = False
    seed: int = 0
    resting: frozenset[str] = frozenset()
    splits: bool = False

    @property
    def terms(self) -> dict[str, Term]:
        """The terms that have a weight, by name."""
        return {name: TERMS.find(name) for name, weight in self.weights.items() if weight}

    @property
    def needs(self) -> frozenset[str]:
        """What its terms need (losses.terms.NEEDS)."""
        return frozenset[str]().union(*(term.needs for term in self.terms.values()))

    def moves(self, part: str) -> bool:
        """Whether a top-level part of the parameters moves."""
        if self.trainable == "all":
            return True
        if isinstance(self.trainable, str):
            return part in TRAINABLE.get(self.trainable, (self.trainable,))
        return part in self.trainable

    def moving(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the parameters that moves."""
        return {name: part for name, part in params.items() if self.moves(name)}

    def resting_in(self, epoch: int) -> frozenset[str]:
        """The terms that do not count in an epoch, counted from 1."""
        terms = self.terms.items()
        rest = (term.resting(epoch, **self.options.get(name, {})) for name, term in terms)
        return frozenset[str]().union(*rest)

    def memory(self, width: int) -> dict[str, Any]:
        """The terms' memories at their beginning, for features of that width."""
        started = {}
        for name, term in self.terms.items():
            seed = {"seed": self.seed} if "seed" in signature(term.memory).parameters else {}
            started[name] = term.memory(width, **seed, **self.options.get(name, {}))
        if self.splits:
            started[SPLIT] = jnp.zeros(32, jnp.uint8)
        return {name: memory for name, memory in started.items() if memory is not None}


def fresh_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    objective: Objective | None = None,
    width: int = 0,
) -> State:
    """A state at step 0 with fresh optimizer moments and memories.

    Args:
      objective: None: everything moves, and no term keeps a memory.
      width: of the features.
    """
    objective = objective or Objective({})
    params = variables["params"]
    step = jnp.zeros((), jnp.int32)
    # One program in place of one a shape; on several devices each keeps its parameter's sharding.
    begin = optimizer.init if jax.device_count() > 1 else jax.jit(optimizer.init)
    moments = begin(objective.moving(params))
    memory = objective.memory(width)
    return State(step, dict(params), variables.get("batch_stats", {}), moments, memory)


def make_objective(config: ConfigDict) -> Objective:
    """Returns what a run minimises, and by moving what."""
    settings, trainable = config.objective, config.train.trainable
    weights, options = read_objective(settings.to_dict())
    if not any(weights.values()):
        raise UserError(f"every weight in config.objective is 0: {', '.join(weights)}")
    for name, given in options.items():
        # An option's range, where it is declared, beside its type.
        takes = of_signature(TERMS[name].loss, first=1) | keys_of(f"objective.{name}")
        filled = take(f"config.objective.{name}", given, takes)
        options[name] = {key: filled[key] for key in given}
    objective = Objective(
        weights,
        options,
        separate_views=settings.separate_views,
        trainable=trainable if isinstance(trainable, str) else tuple(trainable),
        chunks=config.train.chunks,
        ring=settings.ring,
        seed=config.seed,
        splits=config.safe is not None or config.removal is not None,
    )
    for name, term in objective.terms.items():
        term.check(config.train.batch_size, **options.get(name, {}))
    for epoch in range(1, SEVERAL):
        if objective.terms.keys() <= objective.resting_in(epoch):
            raise UserError(
                f"config.objective: no term counts in epoch {epoch}, in which "
                f"{', '.join(objective.terms)} rests: give another a weight, such as cross_modal"
            )
    if config.train.batch_size == 1 and objective.needs & {"text", "view"}:
        raise UserError(
            "config.train.batch_size is 1: a pair is compared with others of its batch, so it "
            "takes 2 or more"
        )
    if "start" in objective.needs and config.start is None:
        wanting = (name for name, term in objective.terms.items() if "start" in term.needs)
        raise UserError(
            f"config.objective.{next(wanting)} compares with the frozen start, and config.start is "
            "None: name a run or a PyTorch checkpoint"
        )
    known = ("all", *TRAINABLE, *PARTS)
    for name in (trainable,) if isinstance(trainable, str) else trainable:
        if name not in known:
            raise unknown("config.train.trainable", name, dict.fromkeys(known))
    moving = set(filter(objective.moves, PARTS))
    if moving == {"head"} and "head" not in objective.needs:
        raise UserError(
            f"config.train.trainable is {trainable}, which config.objective.classification has: "
            "give it a weight"
        )
    return objective


def check_memory(config: ConfigDict, model: CLIP, objective: Objective, mesh: Mesh) -> None:
    """Refuses what can't fit: the least that state and pictures take, against all memory."""

    def bytes_of(tree: Any) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    params = shapes_of(model)["params"]
    # Of what moves also a gradient and Adam's two moments.
    state = bytes_of(params) + 3 * bytes_of(objective.moving(params))
    state += bytes_of(jax.eval_shape(lambda: objective.memory(model.variant.features)))
    rows = config.train.batch_size // mesh.devices.size * (2 if "view" in objective.needs else 1)
    values = rows * config.model.image_size**2 * 3
    # As they come, and those that are encoded at once in the computation's type.
    pictures = values + values // config.train.chunks * jnp.dtype(config.model.dtype).itemsize
    needed = state / mesh.shape["fsdp"] + pictures
    there, _ = device_memory(mesh.local_devices[0])
    if needed > there:
        raise UserError(
            f"the parameters with their gradients, moments and pools take {state / 1e9:,.1f} GB "
            f"and a batch's pictures {pictures / 1e9:,.1f} GB of a device, which has "
            f"{there / 1e9:,.1f}: lower config.train.batch_size, config.model.image_size, "
            "config.text.vocab_size or the rows of a pool, raise config.train.chunks, or share "
            "them by config.mesh.fsdp"
        )
