"""The Python face: its docstrings and docs/python.md are run as they stand."""

import doctest
from pathlib import Path

import pytest

import cleanclip_jax
from cleanclip_jax import face

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/python.md"


def test_docstrings_run():
    results = doctest.testmod(face)
    assert results.attempted > 8 and results.failed == 0


def test_the_package_has_the_face_and_nothing_else():
    for name in cleanclip_jax.__all__:
        assert getattr(cleanclip_jax, name) is getattr(face, name)
    assert not hasattr(cleanclip_jax, "fce")


@pytest.mark.slow
def test_docs_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert results.attempted > 15 and results.failed == 0


@pytest.mark.faults
def test_readme_lines_run(tmp_path, monkeypatch, capsys):
    """The README's ten lines, whole: the demo's backdoor goes."""
    monkeypatch.chdir(tmp_path)
    code = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    (poisoned, before), (cleaned, after) = map(str.split, capsys.readouterr().out.splitlines())
    assert (poisoned, cleaned) == ("runs/poisoned", "runs/cleaned")
    assert float(before) > 0.95 and float(after) < 0.5
