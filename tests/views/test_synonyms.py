import gc
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cleanclip_jax.errors import UserError
from cleanclip_jax.views import synonyms as module
from cleanclip_jax.views.eda import eda, load_synonyms

DEBIAN = Path("/usr/share/wordnet")
SYNSETS = {"noun": [["dog", "Domestic_Dog"], ["dog", "hound"], ["cat"]], "adj": [["small", "wee"]]}
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


def write_wordnet(folder: Path) -> Path:
    """Writes a tiny WordNet in its format, as Debian's: without the file `lexnames`."""
    folder.mkdir()
    for part, letter in PARTS.items():
        data, index = "  1 a line of the licence\n", {}
        for words in SYNSETS.get(part, []):
            for word in words:
                index.setdefault(word.lower(), []).append(len(data))
            lemmas = " ".join(f"{word} 0" for word in words)
            data += f"{len(data):08d} 05 {letter} {len(words):02x} {lemmas} 000 | a gloss\n"
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(
            "".join(
                f"{word} {letter} {len(at)} 0 {len(at)} 0 {' '.join(f'{i:08d}' for i in at)}  \n"
                for word, at in sorted(index.items())
            )
        )
        (folder / f"{part}.exc").write_text("")
    return folder


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    return write_wordnet(tmp_path / "dict")


def test_wordnet_gives_the_words_of_all_synsets_sorted_without_the_word(wordnet: Path):
    synonyms = load_synonyms("wordnet", str(wordnet))
    assert synonyms is not None
    assert synonyms("dog") == ("domestic dog", "hound")
    assert synonyms("dogs") == ("dog", "domestic dog", "hound")
    assert synonyms("wee") == ("small",)
    assert synonyms("cat") == synonyms("running") == synonyms("") == ()


def test_a_folder_that_has_lexnames_is_read_as_well(wordnet: Path):
    (wordnet / "lexnames").write_text(module._LEXNAMES)
    synonyms = load_synonyms("wordnet", str(wordnet))
    assert synonyms is not None and synonyms("hound") == ("dog",)


@pytest.mark.slow
def test_it_pickles_as_its_path_and_opens_again_in_another_process(wordnet: Path):
    synonyms = load_synonyms("wordnet", str(wordnet))
    data = pickle.dumps(synonyms)
    assert len(data) < 500
    assert pickle.loads(data) == synonyms
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)('hound'))"
    other = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert other.stdout == b"('dog',)\n", other.stderr


@pytest.mark.parametrize("layout", ["debian", "nltk"])
def test_the_whole_wordnet_is_read_in_either_layout(tmp_path: Path, layout: str):
    """NLTK's downloader brings the same files, with lexnames among them, below nltk_data."""
    if not (DEBIAN / "data.noun").is_file():
        pytest.skip(f"needs Debian's wordnet-base: {DEBIAN} is not there")
    folder = DEBIAN
    if layout == "nltk":
        folder = tmp_path / "nltk_data" / "corpora" / "wordnet"
        folder.mkdir(parents=True)
        for part in PARTS:
            for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
                shutil.copy(DEBIAN / name, folder)
        (folder / "lexnames").write_text(module._LEXNAMES)
    synonyms = load_synonyms("wordnet", str(folder))
    assert synonyms is not None
    assert {"canis familiaris", "domestic dog", "hound"} < set(synonyms("dogs"))
    assert "rapidly" in synonyms("quickly") and "tempestuous" in synonyms("angry")
    assert synonyms("cleanclip") == ()
    assert eda("a dog ran", np.random.default_rng(1), synonyms) != "a dog ran"


def test_none_is_none():
    assert load_synonyms("none") is None


# NLTK's reader leaves the file open that it fails on.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("wordnt", None, "Did you mean 'wordnet'"),
        ("wordnet", None, "takes a path"),
        ("wordnet", "nowhere", "nowhere: no WordNet folder"),
        ("wordnet", "no\0where", "where: no WordNet folder"),
        ("wordnet", "zipped", "zipped: no WordNet folder, .*; unzip .*/zipped.zip"),
        ("wordnet", "broken", "broken: WordNet cannot be read"),
        ("wordnet", "garbled", "garbled: WordNet cannot be read"),
    ],
)
def test_what_cannot_be_opened_is_refused_at_once(
    tmp_path: Path, wordnet: Path, kind: str, path: str | None, message: str
):
    (tmp_path / "zipped.zip").write_bytes(b"PK")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.noun").write_text("")
    write_wordnet(tmp_path / "garbled")
    (tmp_path / "garbled" / "index.noun").write_text("dog is no index line\n")
    with pytest.raises(UserError, match=message) as caught:
        load_synonyms(kind, path and str(tmp_path / path))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
