"""interop.json: saved, read again, and refused where it is damaged."""

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.start.torch.origin import Origin, load_origin


def test_an_origin_is_saved_and_a_damaged_one_refused(tmp_path):
    assert load_origin(tmp_path) is None
    kinds = {"b": "float16", "a": "float32", "bn.num_batches_tracked": "int64"}
    origin = Origin("openai", "openai", "module.", kinds, {"bn.num_batches_tracked": 7})
    origin.save(tmp_path)
    again = load_origin(tmp_path)
    assert again is not None and again == origin and list(again.tensors) == list(origin.tensors)
    assert again.advanced(3).counters == {"bn.num_batches_tracked": 10}
    for content, message in (
        ('{"version": 1}', "damaged"),
        ("[]", "damaged"),
        ('{"version": 2}', "of another version"),
    ):
        (tmp_path / "interop.json").write_text(content)
        with pytest.raises(UserError, match=rf"interop\.json is {message}"):
            load_origin(tmp_path)
