"""The Python face: its docstrings and docs/python.md are run as they stand."""

import doctest
from pathlib import Path

import cleanclip_jax

PAGE = Path(__file__).parent.parent / "docs/python.md"


def test_docstrings_run():
    results = doctest.testmod(cleanclip_jax)
    assert results.attempted > 8 and results.failed == 0


def test_docs_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert results.attempted > 15 and results.failed == 0
