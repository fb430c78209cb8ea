"""Synonyms of single words, from WordNet."""

import functools
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError, unknown

KINDS = ("none", "wordnet")

# WordNet's lexicographer files: NLTK's reader wants a list of them, which Debian leaves out.
_LEXNAMES = "".join(f"{i:02d}\tfile{i}\t1\n" for i in range(45))


@dataclass(frozen=True)
class Synonyms:
    """Gives a word's synonyms. Pickles as its path, and opens WordNet at the first word."""

    path: str

    def __call__(self, word: str) -> tuple[str, ...]:
        """Returns the lower-case synonyms of a lower-case word, sorted, without itself."""
        return _lookup(self.path, word)


def load_synonyms(kind: str, path: str | None = None) -> Synonyms | None:
    """Opens the synonyms that a config names; the machine is never searched for one.

    Args:
      kind: "none", or "wordnet".
      path: WordNet's dictionary folder (data.noun, index.noun, …), as wordnet-base puts it into
        /usr/share/wordnet and NLTK's downloader, zipped, into nltk_data/corpora.
    """
    if kind not in KINDS:
        raise unknown("config.views.synonyms", kind, KINDS)
    if kind == "none":
        return None
    if not path:
        raise UserError("synonyms: wordnet takes a path; give the folder that holds data.noun.")
    path = os.path.expanduser(path)
    if not os.path.isfile(os.path.join(path, "data.noun")):
        zipped = path.rstrip("/") + ".zip"
        todo = f"unzip {zipped}" if os.path.isfile(zipped) else "give the dictionary's folder"
        raise UserError(f"{path}: no WordNet folder, as it has no data.noun; {todo}.")
    try:
        _open(path)
    # NLTK's reader raises AssertionError and LookupError among others.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: WordNet cannot be read ({reason}); install it again.") from error
    return Synonyms(path)


@functools.cache
def _open(path: str) -> Any:
    # Imported here, as NLTK takes seconds to import and most runs have no use for it.
    from nltk import data as nltk_data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        def open(self, file: str) -> Any:
            if file == "lexnames" and not (Path(folder) / file).is_file():
                return io.StringIO(_LEXNAMES)
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """Off: it needs NLTK's copy of WordNet, and is for other languages' words."""

    folder = str(Path(path).resolve())
    # NLTK reads from no other folders than these.
    if folder not in nltk_data.path:
        nltk_data.path.append(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions")
        return Reader(folder, None)


@functools.lru_cache(maxsize=100_000)
def _lookup(path: str, word: str) -> tuple[str, ...]:
    names = {name for synset in _open(path).synsets(word) for name in synset.lemma_names()}
    return tuple(sorted({name.replace("_", " ").lower() for name in names} - {word}))
