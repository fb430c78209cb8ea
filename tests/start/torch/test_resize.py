"""Position tables for pictures of another size."""

import numpy as np
import pytest
from helpers.torch_files import by_path, random_values

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.resize import resize_positions
from cleanclip_jax.start.torch.tensors import to_variables

VIT, RN = VARIANTS["ViT-test"], VARIANTS["RN-test"]


@pytest.mark.parametrize(("v", "old", "new"), [(VIT, 32, 48), (VIT, 32, 16), (RN, 64, 96)])
def test_positions_are_interpolated_as_torch_does(v, old, new):
    torch = pytest.importorskip("torch")
    tree = to_variables("it", "openai", v, random_values("openai", v))
    resized = by_path(resize_positions(tree, v, new))
    before = by_path(tree)
    path = "params/visual/positions" if v.patch else "params/visual/attnpool/positions"
    table, step = before[path], v.patch or 32
    grid = torch.from_numpy(table[1:].reshape(1, old // step, old // step, -1).copy())
    wanted = torch.nn.functional.interpolate(
        grid.permute(0, 3, 1, 2), (new // step, new // step), mode="bicubic", antialias=True
    )
    wanted = wanted.permute(0, 2, 3, 1).reshape((new // step) ** 2, -1).numpy()
    assert resized[path].dtype == table.dtype
    np.testing.assert_array_equal(resized[path][0], table[0])
    np.testing.assert_allclose(resized[path][1:], wanted, atol=1e-6)
    assert all(resized[p] is before[p] for p in before if p != path)
    with pytest.raises(UserError, match="is not a multiple of"):
        resize_positions(tree, v, new + 1)
