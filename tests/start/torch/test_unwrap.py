"""A state dict below a key, behind prefixes, beside other things."""

from pathlib import Path

import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.torch.unwrap import unwrap

ONE = np.ones(2, np.float32)
NAMES = ("visual.proj", "logit_scale")
FILE = Path("a.pt")


def state(prefix=""):
    return {prefix + name: ONE for name in NAMES}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_wrappers_and_prefixes_of_training_programs(key, prefix):
    content = state(prefix) if key is None else {"epoch": 3, key: state(prefix), "scaler": {}}
    found = unwrap(FILE, content)
    assert list(found.tensors) == list(NAMES) and (found.key, found.prefix) == (key, prefix)
    assert dict(found.plain) == ({} if key is None else {"epoch": 3})
    assert found.left == (() if key is None else ("scaler",))


def test_another_state_dict_is_taken_by_its_key():
    content = {"state_dict": state("module."), "state_dict_ema": state(), "arch": "ViT"}
    assert unwrap(FILE, content).prefix == "module."
    assert unwrap(FILE, content).left[0] == "state_dict_ema (take it with --key=state_dict_ema)"
    assert unwrap(FILE, content, "state_dict_ema").prefix == ""
    with pytest.raises(UserError, match=r"key: unknown 'ema'\. Known: state_dict, state_"):
        unwrap(FILE, content, "ema")
    with pytest.raises(
        UserError, match=r"tensors below weights: name one, .* --key=weights, .*start_key=weights"
    ):
        unwrap(FILE, {"weights": state(), "epoch": 1})
    with pytest.raises(UserError, match="more is a list, not a tensor"):
        unwrap(FILE, {"state_dict": {**state(), "more": []}})
