"""The model that is measured: what its digest covers."""

import jax
import jax.numpy as jnp

from cleanclip_jax.measure.encoder import encoder_of
from cleanclip_jax.sharding import make_mesh


def test_parameters_in_bfloat16_have_a_digest(make_encoder, tokenizer):
    """Such a model could not be evaluated with the cache on."""
    one = make_encoder()

    def cast(dtype, seed=0):
        variables = jax.tree.map(lambda x: (x + seed).astype(dtype), one.variables)
        return encoder_of(one.model, variables, tokenizer, make_mesh(1)).digest

    digests = {cast(jnp.bfloat16), cast(jnp.bfloat16, 1), cast(jnp.float32)}
    assert len(digests) == 3 and cast(jnp.float32) == one.digest
    assert cast(jnp.bfloat16) in digests
