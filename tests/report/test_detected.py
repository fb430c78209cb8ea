"""The page's part about detectors, and the sheet of groups."""

import io

import numpy as np
from helpers.made_pairs import MadePairs, scan_of
from PIL import Image

from cleanclip_jax.config import defaults
from cleanclip_jax.measure.features import Reading
from cleanclip_jax.report.detected import detected, group_sheet
from cleanclip_jax.report.page import Picture, Section, Table, page
from cleanclip_jax.report.runs import Run
from cleanclip_jax.workdir import Workdir


def test_a_scans_part_of_the_page(tmp_path):
    source = MadePairs(600)
    rows = source.plant(np.arange(6) * 97 + 5, "a cake <b>with</b> candles", noise=8)
    folder = tmp_path / "detect"
    opened, groups = scan_of(source, folder, poisoned=np.isin(np.arange(600), rows))
    sheet = group_sheet(groups, opened.data, 16, Reading(64))
    (folder / "groups.png").write_bytes(sheet or b"")
    run, other = (Run(Workdir(path), defaults(), {}) for path in (tmp_path, tmp_path / "none"))
    blocks, files = detected({"mine": run, "other": other})
    tables = [block for block in blocks if isinstance(block, Table)]
    figures, found, top = tables
    assert [row[0] for row in figures.rows] == ["slof", "kdist"] and "6 poisons" in figures.caption
    assert found.rows[0][1] == "a cake <b>with</b> candles"
    assert len(top.rows) == 20 and "poisoned" in top.columns
    assert len([b for b in blocks if isinstance(b, Picture)]) == 2 and list(files) == [
        "scores_0.png"
    ]
    assert "a warning" in blocks
    html = page("title", "intro", [Section("Pairs", blocks)])
    assert "a cake &lt;b&gt;with&lt;/b&gt; candles" in html and "<b>with" not in html
    with Image.open(io.BytesIO(sheet or b"")) as picture:
        assert picture.height == 136 * min(20, len(groups)) + 6
        # The most suspicious group's first picture is the planted topic, as it is shown.
        small = np.asarray(picture.convert("RGB"))[24:136, 6:118].astype(int)
        expected = Image.fromarray(source.images[groups[0].ids[0]]).resize((112, 112))
        assert np.abs(small - np.asarray(expected)).max() == 0
    assert group_sheet([], opened.data, 16, Reading(64)) is None
    assert detected({"other": other}) == ([], {})
