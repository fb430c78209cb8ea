"""The captions of `cleanclip detect model`: read, held against controls, taken up again."""

import json

import numpy as np
import pytest

from cleanclip_jax.detect.decree import Patch
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs import detect_captions
from cleanclip_jax.jobs.detect_captions import Candidates, in_lines, invert_captions, listed

SOME = Candidates(("a cake", "a dog", "a cat"), 2, np.eye(3, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.txt", "a cake\n\n a dog \na cake\n"), ("c.csv", "size,caption\n9,a cake\n3,a dog\n")],
)
def test_captions_are_a_files_lines_or_a_column(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert listed(tmp_path / name) == ("a cake", "a dog")


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b" \n"), ("b.csv", b"text\na cake\n"), ("c.txt", b"\xff\xfe")]
)
def test_a_file_without_captions_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        listed(tmp_path / name)


def test_captions_that_are_done_stay(tmp_path, monkeypatch):
    searched = []

    def drawn(tower, units, targets, pictures, steps, batch):
        for target in targets:
            if len(searched) == 2:
                raise KeyboardInterrupt
            searched.append(target)
            rows = np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.float32)
            yield Patch([1.0, None, 5.0][target], *rows, steps)

    monkeypatch.setattr(detect_captions, "caption_patches", drawn)
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    given = (Tower.__new__(Tower), SOME, pictures, tmp_path, {"data": "x"}, 3, 2)
    with pytest.raises(KeyboardInterrupt):
        invert_captions(*given)
    searched[:] = searched[:1]
    rows = invert_captions(*given)
    assert searched == [0, 2]
    assert [row["control"] for row in rows] == [False, True, True]
    assert json.loads((tmp_path / "captions.json").read_text())["captions"] == rows
    assert in_lines(rows).splitlines()[0].startswith("2 of 3 captions")
    with pytest.raises(UserError, match="other models, captions or flags"):
        invert_captions(*given[:4], {"data": "y"}, 3, 2)
