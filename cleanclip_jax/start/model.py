"""The model that a resolved config describes."""

import logging
from functools import cache
from typing import Any

import jax
from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP, build, init

log = logging.getLogger(__name__)


def make_model(config: ConfigDict, vocab_size: int) -> CLIP:
    """Returns the model of a resolved config, for a tokenizer of so many ids."""
    m = config.model
    if "float64" in (m.dtype, m.param_dtype) and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model: float64 needs JAX_ENABLE_X64=1 in the environment")
    return build(
        m.variant,
        vocab_size=vocab_size,
        context_length=config.text.context_length,
        image_size=m.image_size,
        activation=m.activation,
        dtype=m.dtype,
        param_dtype=m.param_dtype,
        bn_groups=m.bn_groups,
        bn_frozen=m.bn_frozen,
        attention=attention_here(m.attention),
        scan=m.scan,
        remat=m.remat,
    )


def attention_here(attention: str) -> str:
    """Returns which attention is used: config.model.attention, where this machine has it."""
    if attention == "cudnn" and jax.default_backend() != "gpu":
        log.warning("config.model.attention=cudnn needs a GPU: attention is computed by XLA")
        return "xla"
    return attention


def shapes_of(model: CLIP) -> dict[str, Any]:
    """The shapes and types of a model's params and batch_stats."""
    shapes = _shapes(model.computed(attention="xla"))  # the same ones; cuDNN is on GPUs alone
    return {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}


_shapes: Any = cache(lambda model: jax.eval_shape(lambda: init(model, jax.random.key(0))))
