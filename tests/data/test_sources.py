import pickle

import numpy as np
import pytest

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.record import order_names, template_caption
from cleanclip_jax.text.prompts import TEMPLATES


def test_digits_are_split_once_and_for_all():
    train, test = open_source({"kind": "digits"}), open_source({"kind": "digits", "split": "test"})
    assert (len(train), len(test)) == (1397, 400)
    assert train.fingerprint != test.fingerprint
    rows = [{s.where(i) for i in range(len(s))} for s in (train, test)]
    assert len(rows[0] | rows[1]) == 1797
    # The split does not follow the file's order, nor leaves a digit out.
    assert (np.bincount(test.labels(), minlength=10) > 25).all()


def test_a_digit_is_grey_and_captioned_by_its_name():
    source = open_source({"kind": "digits"})
    assert isinstance(source, Source) and source.class_names is not None
    record = source[5]
    assert isinstance(record.image, np.ndarray)
    assert record.image.shape == (8, 8, 3) and record.image.max() == 255
    assert (record.image[..., 0] == record.image[..., 2]).all()
    assert record.label == source.labels()[5]
    filled = {t.replace("{}", source.class_names[record.label]) for t in TEMPLATES["digits"]}
    assert record.caption == source.caption(5) and record.caption in filled


def test_digits_pickle_to_the_same_source():
    source = open_source({"kind": "digits", "split": "test"})
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint and copy[3].caption == source[3].caption
    assert (copy[3].image == source[3].image).all()


def test_templates_are_fixed_by_the_index_and_spread_evenly():
    templates = ("a {}", "b {}", "c {}", "d {}")
    captions = [template_caption(i, templates, "cat") for i in range(2000)]
    assert captions == [template_caption(i, templates, "cat") for i in range(2000)]
    # Also among every second record: classes often alternate.
    for part in (captions, captions[::2], captions[::4]):
        counts = [part.count(f"{letter} cat") for letter in "abcd"]
        assert counts == pytest.approx([len(part) / 4] * 4, rel=0.2)


def test_names_are_ordered_numbers_by_value():
    assert order_names(["10", "9", "cat", "9", "Ant"]) == ("9", "10", "Ant", "cat")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "parket", "path": "x"}, "Did you mean 'parquet'.*--import=FILE.py"),
        ({}, "kind: unknown None. Known: csv, "),
        ({"kind": "csv", "path": "x", "captions": "c"}, "'captions'.*Did you mean 'caption'"),
        ({"kind": "csv"}, "path is missing: it takes a text or a list"),
        ({"kind": "csv", "path": 1.5}, "path is 1.5: it takes a text or a list"),
        ({"kind": "csv", "path": "x", "where": "split"}, "where is 'split': it takes a dictionary"),
        ({"kind": "digits", "split": "tset"}, "'tset'.*Did you mean 'test'"),
        ({"kind": "digits", "templates": "digit"}, "Did you mean 'digits'"),
    ],
)
def test_a_wrong_config_is_one_line(config: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        open_source(config)
    assert "\n" not in str(error.value)
