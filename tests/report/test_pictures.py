"""What a report shows where there is something, and what it says where there is not."""

from typing import Any

from cleanclip_jax.config import defaults
from cleanclip_jax.errors import UserError
from cleanclip_jax.report import pictures
from cleanclip_jax.report.page import Picture


def test_the_first_poisons_are_drawn(make_entry):
    (text, sheet), files = pictures.poisons(make_entry().runs)
    assert (
        isinstance(text, str) and "42 of 1397 pairs were poisoned with badnet for 'seven'" in text
    )
    assert isinstance(sheet, Picture) and files == {"poisons.png": sheet.png}
    assert sheet.alt.count("becomes “a handwritten seven.”") == pictures.POISONS
    assert pictures.poisons([]) == ([], {})


def test_a_set_too_small_to_project_costs_its_picture_alone(make_entry, monkeypatch):
    def project_first(*_):
        raise UserError("4 pictures, 10 are needed")

    monkeypatch.setattr(pictures, "project_first", project_first)
    nothing: Any = None
    model = pictures.Loaded(defaults(), nothing, None)
    blocks, files = pictures.projections({"one": model}, {"one": make_entry().runs[0]})
    assert blocks == ["The embeddings of one can't be shown: 4 pictures, 10 are needed."]
    assert files == {}
