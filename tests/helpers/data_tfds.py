"""A small dataset prepared by TensorFlow Datasets, for tests; run as a script, it prepares it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def build_tfds(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    """Prepares `tiny/1.0.0` in a folder: rows of image (a path), title, texts and label, in order.

    In a process of its own: TFDS keeps every builder class that it sees.
    """
    (folder / "rows.json").write_text(json.dumps(splits))
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]


def main() -> None:
    import numpy as np
    import tensorflow_datasets as tfds

    folder = Path(sys.argv[1])
    splits = json.loads((folder / "rows.json").read_text())
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "texts": tfds.features.Sequence(
            {"text": tfds.features.Text(), "id": tfds.features.Scalar(np.int64)}
        ),
        "title": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["dog", "cat"]),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {name: enumerate(rows) for name, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError  # the splits are generators already

    Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()


if __name__ == "__main__":
    main()
