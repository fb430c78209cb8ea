"""The fashion products that come along."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import decode


def test_both_splits_have_the_same_classes_and_pictures_of_32_pixels():
    train, test = (
        open_source({"kind": "fashion", "split": split, "class_name": "class_name"})
        for split in ("train", "test")
    )
    assert (len(train), len(test)) == (7297, 1941)
    assert train.class_names == test.class_names and len(train.class_names or ()) == 28
    record = train[0]
    assert isinstance(record.image, bytes) and record.caption
    assert decode(record.image, record.where).shape == (32, 32, 3)
    assert (test.labels() >= 0).sum() == 1831


def test_a_file_of_ones_own_is_split_by_its_column(tmp_path):
    rows = {"image": [b"x"] * 3, "caption": ["a", "b", "c"], "split": ["train", "val", "test"]}
    pq.write_table(pa.table(rows), tmp_path / "own.parquet")
    options = {"kind": "fashion", "path": str(tmp_path / "own.parquet")}
    captions = {
        split: [source.caption(i) for i in range(len(source))]
        for split in ("train", "test")
        for source in [open_source({**options, "split": split})]
    }
    assert captions == {"train": ["a"], "test": ["b", "c"]}


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="split"):
        open_source({"kind": "fashion", "split": "tset"})
