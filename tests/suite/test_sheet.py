"""The page of made figures."""

import re

from cleanclip_jax.suite.cells import digest_of
from cleanclip_jax.suite.sheet import PAGE, write_sheet


def test_the_page_has_tables_curves_pictures_and_commands(store, put, cell, tmp_path):
    at = {"attack": "badnet", "seed": "0"}
    put(cell("poisoned", **at), ca=40, asr=99)
    for rate, ca in (("0.001", 55), ("0.003", 50)):
        put(cell("cleaned", **at, defence="mmcl", rate=rate), ca=ca, asr=2, pa=30)
    failed = cell("cleaned", **at, defence="roclip")
    store.rows[digest_of(failed)] = {"figures": {}, "cost": {}, "error": "no <disk>"}
    write_sheet(tmp_path, store, "cleanclip benchmark suite.py")
    text = (tmp_path / PAGE).read_text()
    assert text.count('class="sort"') == 3 and "script-src 'sha256-" in text
    assert re.search(r'<a href="#demo-mini-badnet">55.0</a>', text)
    assert '<details id="demo-mini-badnet">' in text and "<polyline" in text
    assert "mmcl 0.003: CA 50.0 %, ASR 2.0 %" in text
    assert "no &lt;disk&gt;" in text and "3 of 29" in text  # with a rebound
    assert "cleanclip benchmark suite.py" in text


def test_a_page_of_nothing(store, tmp_path):
    write_sheet(tmp_path, store, "cleanclip benchmark suite.py")
    assert "0 of 28" in (tmp_path / PAGE).read_text()
