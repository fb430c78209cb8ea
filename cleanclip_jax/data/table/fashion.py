"""The fashion products that come along: photographs of 32 pixels with titles that people wrote."""

from pathlib import Path

from cleanclip_jax.config import configs_folder
from cleanclip_jax.data.table.table import Table, open_table
from cleanclip_jax.errors import unknown

# Of the file with a column `split`; those that come along are a file each.
SPLITS = {"train": ["train"], "test": ["val", "test"]}


def open_fashion(
    split: str = "train", path: str | Path | None = None, class_name: str | None = None
) -> Table:
    """7,297 products to train on, or 1,941 to test on (configs/data/README.md).

    Args:
      split: train | test.
      path: one's own parquet of them, with a column split, in place of what comes along.
      class_name: the column of classes, class_name; None: none are read.
    """
    if split not in SPLITS:
        raise unknown("config.data (fashion).split", split, SPLITS)
    if path is not None:
        where = {"split": SPLITS[split]}
        return open_table("parquet", path, class_name=class_name, where=where)
    file = configs_folder() / "data" / f"fashion_{split}.parquet"
    return open_table("parquet", file, class_name=class_name)
