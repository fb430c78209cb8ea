"""The list of keys."""

from pathlib import Path

from cleanclip_jax.config_keys import KEYS
from cleanclip_jax.key_list import document, listing


def test_the_document_lists_the_keys_of_today():
    """Made anew by: python -m cleanclip_jax.key_list > docs/config.md"""
    document_file = Path(__file__).parent.parent / "docs" / "config.md"
    assert document_file.read_text() == document()
    assert all(key.meaning and key.takes for key in KEYS.values())
    assert all(f"config.{name}" in listing() for name in KEYS)
