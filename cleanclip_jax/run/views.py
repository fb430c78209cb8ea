"""What the training step makes of a batch's pictures: the trigger, and the views."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int, Key, UInt8
from ml_collections import ConfigDict

from cleanclip_jax.attacks.device_triggers import LEARNED, put, version
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.attacks.triggers import Trigger
from cleanclip_jax.data.stream.example import Views
from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import split_over
from cleanclip_jax.views.device_autoaugment import augment

# Tells the light view's draws from AutoAugment's: no step has this number.
_LIGHT = 2**32 - 1


@dataclass(frozen=True)
class DeviceViews:
    """The pictures that a batch shows, made on the device.

    As the host makes them of pictures of their final size: first the trigger, on poisoned pairs,
    then the augmented view of what that gave; or the host has made both. Last, where `first` is
    'light', the first picture's light view takes its place. A view is drawn from (seed, step, index
    of the record), so it does not depend on which device has the pair.

    Attributes:
      triggers: of the plan's parts; (): no pair is poisoned.
      image: 'autoaugment' or 'none', of the second view.
      second: whether there is a second view.
      first: 'light' or 'none'.
      on_host: whether trigger and second view are in the batch's pictures already.
    """

    seed: int
    triggers: tuple[Trigger, ...]
    image: str
    second: bool
    first: str = "none"
    on_host: bool = False

    def __post_init__(self):
        for trigger in self.triggers:
            version(trigger)
        learned = [trigger.name for trigger in self.triggers if trigger.name in LEARNED]
        if learned and self.image != "none":
            raise UserError(
                f"config.views.image: a learned trigger ({learned[0]}) has no augmented view: set "
                "it to none"
            )
        if len(learned) > 1:
            raise UserError("config.attack.parts: two triggers are learned: one may be")

    @property
    def learned(self) -> Trigger | None:
        """The trigger that is a parameter, if one is."""
        return next((trigger for trigger in self.triggers if trigger.name in LEARNED), None)

    def parameters(self, side: int) -> dict[str, jax.Array]:
        """What views add to the parameters of a run: a learned trigger, as it begins."""
        if (trigger := self.learned) is None:
            return {}
        return {"trigger": LEARNED[trigger.name](trigger, side)}

    def __call__(
        self,
        params: Mapping[str, Any],
        step: Int[Array, ""],
        batch: Mapping[str, jax.Array],
        table: UInt8[Array, "n s s 3"] | None,
        mesh: Mesh | None,
    ) -> UInt8[Array, "b views s s 3"] | Float32[Array, "b views s s 3"]:
        """Inside jit: [b, views, s, s, 3] of a batch as `run.step.make_step` has it."""
        given = (params, step, batch, table, mesh)
        made = batch["images"] if self.on_host else self._made(*given)
        if self.first == "none":
            return made
        from cleanclip_jax.views.device_light import lighten

        key = jax.random.fold_in(jax.random.key(self.seed), _LIGHT)
        light = lighten(made[:, 0], _of_records(key, step, batch["index"]))
        return made.astype(light.dtype).at[:, 0].set(light)

    def _made(
        self,
        params: Mapping[str, Any],
        step: Int[Array, ""],
        batch: Mapping[str, jax.Array],
        table: UInt8[Array, "n s s 3"] | None,
        mesh: Mesh | None,
    ) -> UInt8[Array, "b views s s 3"] | Float32[Array, "b views s s 3"]:
        index = batch["index"]
        images = batch["images"][:, 0] if table is None else table[index]
        if mesh is not None:
            images = jax.lax.with_sharding_constraint(images, split_over(mesh))
        if self.triggers:
            images = put(self.triggers, images, batch["stamps"], params.get("trigger"))
        if not self.second:
            return images[:, None]
        view = images
        if self.image == "autoaugment":
            view = augment(images, _of_records(jax.random.key(self.seed), step, index))
        return jnp.stack([images, view], 1)


def _of_records(
    key: Key[Array, ""], step: Int[Array, ""], index: Int[Array, " b"]
) -> Key[Array, " b"]:
    """A key for each record of a step."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)


def device_views_of(config: ConfigDict, views: Views, plan: Plan | None) -> DeviceViews:
    """What the step makes of its pictures."""
    first = "light" if config.views.first == "light" else "none"  # a strong one is the host's
    on_host = views.on == "host"
    triggers = () if plan is None or on_host else plan.triggers
    return DeviceViews(config.seed, triggers, views.image, views.any, first, on_host)
