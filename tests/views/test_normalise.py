"""Normalisation against the original's values."""

import jax.numpy as jnp
import numpy as np
from helpers.openai_layout import relative

from cleanclip_jax.views.normalise import normalise


def test_normalisation(golden):
    g = golden("normalise")
    ours = np.asarray(normalise(jnp.asarray(g["x"])[None])[0])
    assert relative(ours, g["y"].transpose(1, 2, 0)) <= 1e-6
