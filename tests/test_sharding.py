"""The mesh, and where arrays lie on it. Eight fake devices (tests/conftest.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cleanclip_jax.errors import UserError
from cleanclip_jax.sharding import check_batch, make_mesh, place_batch, split_over, state_shardings


@pytest.mark.parametrize(
    ("asked", "shape"),
    [((), (8, 1)), ((4,), (4, 1)), ((-1, 8), (1, 8)), ((-1, 2), (4, 2)), ((2, 2), (2, 2))],
)
def test_the_mesh_has_two_axes(asked, shape):
    assert tuple(make_mesh(*asked).shape.items()) == (("data", shape[0]), ("fsdp", shape[1]))


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ((9,), "config.mesh.data is 9 but there are 8 devices"),
        ((3, 4), "config.mesh.data is 3 and config.mesh.fsdp 4, together 12, but there are 8"),
        ((-1, 3), "config.mesh.fsdp 3 does not divide the 8 devices: take one that does, or set"),
        ((-1, 16), "config.mesh.fsdp 16 does not divide the 8 devices"),
    ],
)
def test_devices_that_are_not_there_are_one_line(asked, line):
    with pytest.raises(UserError, match=line):
        make_mesh(*asked)


def test_a_batch_that_does_not_divide_is_one_line():
    with pytest.raises(UserError, match="12 does not divide over 8 devices: take 8 or 16"):
        check_batch(12, make_mesh(8))
    with pytest.raises(UserError, match=r"config.train.chunks 3 parts: take 24 or 48"):
        check_batch(32, make_mesh(4, 2), 3)
    check_batch(48, make_mesh(2, 4), 3)


def test_state_is_split_by_size():
    shapes = {
        "wide": (64, 256),
        "tall": (512, 64),
        "even": (64, 64),  # a tie: the first
        "conv": (3, 3, 64, 32),
        "odd": (77, 511),  # nothing divides
        "largest_odd": (49409, 64),
        "small": (63, 64),
        "scale": (),
        "empty": (0, 64),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = {name: s.spec for name, s in state_shardings(make_mesh(2, 4), tree).items()}
    assert found == {
        "wide": P(None, "fsdp"),
        "tall": P("fsdp"),
        "even": P("fsdp"),
        "conv": P(None, None, "fsdp"),
        "odd": P(),
        "largest_odd": P(None, "fsdp"),
        "small": P(),
        "scale": P(),
        "empty": P(),
    }
    assert all(s.spec == P() for s in state_shardings(make_mesh(8), tree).values())


def test_rows_are_split_over_both_axes():
    mesh = make_mesh(2, 4)
    placed = place_batch(mesh, {"x": np.arange(16.0, dtype=np.float32).reshape(16, 1)})["x"]
    assert placed.sharding == split_over(mesh)
    rows = [shard.data.ravel().tolist() for shard in placed.addressable_shards]
    assert rows == [[2.0 * i, 2.0 * i + 1] for i in range(8)]
