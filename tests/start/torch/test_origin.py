"""interop.json: saved, read again, and refused where it is damaged."""

import json

import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.torch.names import rules
from cleanclip_jax.start.torch.origin import Origin, load_origin


def test_an_origin_is_saved_and_a_damaged_one_refused(tmp_path):
    assert load_origin(tmp_path) is None
    kinds = {"b": "float16", "a": "float32", "bn.num_batches_tracked": "int64"}
    origin = Origin("openai", "openai", "module.", kinds, {"bn.num_batches_tracked": 7})
    origin.save(tmp_path)
    again = load_origin(tmp_path)
    assert again is not None and again == origin and list(again.tensors) == list(origin.tensors)
    assert again.advanced(3).counters == {"bn.num_batches_tracked": 10}
    whole = json.loads((tmp_path / "interop.json").read_text())
    for changes, message in (
        ({"version": 2}, "is of another version"),
        ({"layout": "foo"}, "layout: unknown 'foo'"),
        ({"tensors": {"a": "string"}}, "tensors is .*: it takes types by name"),
        ({"counters": {"a": "7"}}, "counters is"),
        ({"files": {"config.json": []}}, "files is"),
        ({"prefix": None}, "prefix is missing"),
        ({"more": 1}, "unknown 'more'"),
    ):
        (tmp_path / "interop.json").write_text(json.dumps(whole | changes))
        with pytest.raises(UserError, match=rf"interop\.json.*{message}"):
            load_origin(tmp_path)
    (tmp_path / "interop.json").write_text("[" * 10**6)
    with pytest.raises(UserError, match=r"interop\.json is nested too deep"):
        load_origin(tmp_path)


def test_an_origin_of_another_model_is_refused(tmp_path):
    v = VARIANTS["ViT-test"]
    kinds = {rule.name: "float32" for rule in rules("openai", v)}
    Origin("openai", "openai", "", kinds | {"vocab_size": "int64"}).check(tmp_path, v)
    for wrong in ({**kinds, "more": "float32"}, {"logit_scale": "float32"}):
        with pytest.raises(UserError, match=r"interop\.json is of another model"):
            Origin("openai", "openai", "", wrong).check(tmp_path, v)
