"""The first picture's light view in the step, whoever made the second."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cleanclip_jax.run.views import DeviceViews
from cleanclip_jax.sharding import make_mesh, place_batch

RNG = np.random.default_rng(0)
BATCH = {
    "images": RNG.integers(0, 256, (8, 2, 16, 16, 3), dtype=np.uint8),
    "index": np.arange(8, dtype=np.int32),
}


@pytest.fixture(scope="module")
def shown():
    """What a step shows of a batch: of (views on the host, step, batch, mesh)."""

    @partial(jax.jit, static_argnums=(0, 3))
    def show(on_host, step, batch, mesh=None):
        views = DeviceViews(7, (), "none", second=True, first="light", on_host=on_host)
        return views({}, step, batch, None, mesh)

    return show


@pytest.mark.slow
def test_the_first_view_is_light_and_the_second_as_it_was(shown):
    batch = {name: jnp.asarray(values) for name, values in BATCH.items()}
    made = np.asarray(shown(True, jnp.int32(3), batch))
    assert made.dtype == np.float32 and made.shape == BATCH["images"].shape
    np.testing.assert_array_equal(made[:, 1], BATCH["images"][:, 1])
    differ = (made[:, 0] != BATCH["images"][:, 0]).any((1, 2, 3))
    assert 2 <= differ.sum() <= 8
    again, other = (np.asarray(shown(True, jnp.int32(step), batch)) for step in (3, 4))
    np.testing.assert_array_equal(again, made)
    assert (other != made).any()
    # Of a picture that the device makes both views of, the second is made of it as it is.
    one = {**batch, "images": batch["images"][:, :1]}
    on_device = np.asarray(shown(False, jnp.int32(3), one))
    np.testing.assert_array_equal(on_device[:, 0], made[:, 0])
    np.testing.assert_array_equal(on_device[:, 1], BATCH["images"][:, 0])
    # Or of pictures that lie in device memory, without any in the batch.
    views = DeviceViews(7, (), "none", second=True, first="light")
    bare = {"index": batch["index"]}
    resident = jax.jit(views, static_argnums=4)({}, jnp.int32(3), bare, batch["images"][:, 0], None)
    np.testing.assert_array_equal(resident, on_device)


def test_the_light_view_does_not_depend_on_the_device_that_has_the_pair(shown):
    mesh = make_mesh(8)
    split = shown(True, jnp.int32(3), place_batch(mesh, BATCH), mesh)
    whole = shown(True, jnp.int32(3), {name: jnp.asarray(x) for name, x in BATCH.items()})
    np.testing.assert_array_equal(np.asarray(split), np.asarray(whole))
