"""What may be set of a model that is there."""

from pathlib import Path

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs.of_model import FREE, open_model

POISONED = Path(__file__).parents[1] / "golden/workdirs/poisoned"


def test_the_free_keys_are_set_and_no_others():
    _, config = open_model(POISONED, {"evaluation.batch_size": "7"})
    assert config.evaluation.batch_size == 7
    keys = {"data.workers": "1"}
    assert open_model(POISONED, keys, ("data.", *FREE))[1].data.workers == 1
    with pytest.raises(UserError, match=r"--config\.data\.workers belongs to the model"):
        open_model(POISONED, keys)


def test_a_place_in_a_checkpoint_is_for_checkpoints():
    with pytest.raises(UserError, match="is no PyTorch checkpoint, and has no key 'ema'"):
        open_model(POISONED, {"start_key": "'ema'"})
