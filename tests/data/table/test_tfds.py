import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_tfds import build_tfds
from PIL import Image

from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.views.decode import BadRecord


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs, nine of them to train on, as TFDS keeps them."""
    folder = tmp_path_factory.mktemp("tfds")
    rows = []
    for i in range(12):
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), i * 20, np.uint8)).save(stream, "png")
        (folder / f"{i}.png").write_bytes(stream.getvalue())
        texts = [{"text": f"{word} {i}", "id": i} for word in ("first", "second")[i == 3 :]]
        rows.append(
            {
                "image": str(folder / f"{i}.png"),
                "title": "" if i == 5 else f"title {i}",
                "texts": [] if i == 4 else texts,
                "label": i % 2,
            }
        )
    build_tfds(folder, {"train": rows[:9], "test": rows[9:]})
    return folder


def tiny(prepared: Path, **options: Any) -> Source:
    return open_source({"kind": "tfds", "name": str(prepared / "tiny/1.0.0")} | options)


def by_title(source: Source) -> dict[str, int]:
    return {source.caption(i): i for i in range(len(source))}


def test_a_split_is_pairs_of_the_files_bytes(prepared: Path):
    source = tiny(prepared, caption="title", class_name="label")
    assert len(source) == 9 and source.class_names == ("dog", "cat")
    index = by_title(source)["title 7"]
    record = source[index]
    assert record.image == (prepared / "7.png").read_bytes()
    assert record.caption == "title 7" and record.label == source.labels()[index] == 1
    assert index == 7 and record.where == source.where(7) == "tiny/1.0.0 train row 8"
    assert "" in by_title(source)


def test_captions_within_a_sequence_are_several_of_one_picture(prepared: Path):
    source = tiny(prepared, caption="texts/text")
    captions = [tuple(source.all_captions(i)) for i in range(5)]
    assert captions[2:] == [("first 2", "second 2"), ("second 3",), ("",)]
    assert source.has_lists() and source.caption(2) == "first 2"
    assert tuple(pickle.loads(pickle.dumps(source)).all_captions(2)) == captions[2]
    chosen = tiny(prepared, caption="texts/text", where={"texts/id": "3"})
    assert [tuple(chosen.all_captions(i)) for i in range(len(chosen))] == [("second 3",)]
    assert not tiny(prepared, caption="title").has_lists()


def test_rows_are_chosen_and_splits_sliced(prepared: Path):
    cats = tiny(prepared, caption="title", class_name="label", where={"label": "cat"})
    assert len(cats) == 4 and set(cats.labels()) == {1}
    index = by_title(cats)["title 3"]
    assert cats[index].image == (prepared / "3.png").read_bytes()
    whole, part = (
        tiny(prepared, caption="title"),
        tiny(prepared, split="train[2:5]", caption="title"),
    )
    assert [part.caption(i) for i in range(3)] == [whole.caption(i) for i in range(2, 5)]
    assert part[0].image == whole[2].image
    assert (
        tiny(prepared, split="test", class_name="label", templates=["a {}"]).caption(0)[:2] == "a "
    )


def test_pictures_alone_may_be_read(prepared: Path):
    source = tiny(prepared, rows=(2, 5))
    assert len(source) == 3 and source[0].image == (prepared / "2.png").read_bytes()
    assert source[0].label == -1 and source[0].caption == ""


def test_it_pickles_as_its_place(prepared: Path):
    source = tiny(prepared, caption="title")
    source[0]
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000 and pickle.loads(pickled)[3] == source[3]


def test_one_other_byte_changes_the_fingerprint(prepared: Path, tmp_path: Path):
    moved = tmp_path / "tiny/1.0.0"
    shutil.copytree(prepared / "tiny/1.0.0", moved)
    source = tiny(prepared, caption="title")
    same = open_source({"kind": "tfds", "name": str(moved), "caption": "title"})
    assert same.fingerprint == source.fingerprint
    assert tiny(prepared, split="test").fingerprint != source.fingerprint
    (shard,) = moved.glob("*train*")
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT")] ^= 1  # in a picture; nothing else is read here
    shard.write_bytes(data)
    modified = open_source({"kind": "tfds", "name": str(moved), "caption": "title"})
    assert modified.fingerprint != source.fingerprint and len(modified) == 9
    # A shard has checksums in it: what is broken is noticed where it is read.
    bad = []
    for i in range(9):
        try:
            assert modified[i] == source[i]
        except BadRecord as error:
            bad.append(str(error))
    assert bad and "\n" not in "".join(bad)
    assert bad[0].startswith("tiny/1.0.0 train row ")


def test_no_tensorflow_is_imported(prepared: Path, cache: Path):
    program = (
        "import sys\nfrom cleanclip_jax.data.sources import open_source\n"
        "s = open_source({'kind': 'tfds', 'name': sys.argv[1], 'class_name': 'label'})\n"
        "assert len(s[0].image) > 50\nassert 'tensorflow_datasets' in sys.modules\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(prepared / "tiny/1.0.0")], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption": "titel"}, "feature: unknown 'titel'.*Did you mean 'title'"),
        ({"split": "trian"}, "split 'trian': Unknown split"),
        ({"name": "minst"}, "tfds: minst: Dataset minst not found"),
        ({"name": "mnist"}, "tfds: mnist is not prepared in .*array_record"),
        ({"where": {"label": "dgo"}, "class_name": "label"}, "where label: unknown 'dgo'.* 'dog'"),
    ],
)
def test_a_mistake_is_one_line(prepared: Path, options: dict, message: str, tmp_path: Path):
    config = {"name": str(prepared / "tiny/1.0.0"), "data_dir": str(tmp_path)} | options
    with pytest.raises(UserError, match=message) as error:
        open_source({"kind": "tfds"} | config)
    assert "\n" not in str(error.value)
