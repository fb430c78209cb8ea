"""The encoders compiled, and pictures for them: op by op a ResNet takes a minute."""

import jax
import jax.numpy as jnp
import numpy as np

from cleanclip_jax.models import clip

encode_image, encode_text, encode_image_train = (
    jax.jit(function, static_argnums=0)
    for function in (clip.encode_image, clip.encode_text, clip.encode_image_train)
)


def pictures(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 32, 32, 3)), jnp.float32)
