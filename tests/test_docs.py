"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (ROOT, ROOT / "cleanclip_jax")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path):
    names = set(re.findall(r"\b[a-z_]+(?:/[a-z0-9_]+)+\.(?:py|sh)\b", page.read_text()))
    assert not {n for n in names if not any((folder / n).exists() for folder in FOLDERS)}
