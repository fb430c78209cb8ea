"""Captions to token ids: CLIP's byte-pair encoding, or a small one trained on captions."""

import functools
import gzip
import hashlib
import html
import json
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import regex
import tokenizers
from jaxtyping import Int32
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import cache_folder, read_bytes, read_json, user_path, write_whole
from cleanclip_jax.workdir import workdir_path

START, END = "<start_of_text>", "<end_of_text>"

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_URL = f"https://raw.githubusercontent.com/openai/CLIP/main/clip/{MERGES_FILE}"
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"

# The file holds more merges than CLIP uses: its vocabulary is 512 bytes, these and two specials.
_MERGES = 49408 - 512 - 2
_PARTS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# By the library that the original parts words with: rare and new letters are letters as there.
_WORDS = regex.compile(f"{START}|{END}|{_PARTS}", regex.IGNORECASE)
_END_OF_WORD = "</w>"  # CLIP's BPE has it, a trained one has not
_WORDS_KNOWN, _LONG_WORD = 1 << 16, 64  # how many words' ids are remembered, and of which length
_SHAPE = (
    {"padding": {"strategy": {"Fixed": int}}, "truncation": ({}, None), "model": {}},
    # As it was written before it was a file of Hugging Face's.
    {"version": {1}, "context_length": int, "keep_end": bool, "bpe": {}},
)
LONGEST = 1 << 16  # ids in a row


class Tokenizer:
    """Captions to ids, cleaned and lower-cased as in CLIP. Pickles into worker processes.

    Attributes:
      vocab_size: ids are below it.
      context_length: ids in a row, start and end of text among them.
      start: id of the start of text.
      end: id of the end of text, always the highest, so that a model can pool at the argmax.
      keep_end: whether a caption that is cut still ends in `end` (end of text, docs/fidelity.md).
    """

    def __init__(self, bpe: tokenizers.Tokenizer, context_length: int, keep_end: bool = True):
        if not 3 <= context_length <= LONGEST:
            raise UserError(f"context_length: {context_length} is not of 3 to {LONGEST}.")
        self._bpe = bpe
        self.context_length = context_length
        self.keep_end = keep_end
        self.vocab_size = bpe.get_vocab_size()
        self.start, self.end = self.vocab_size - 2, self.vocab_size - 1
        if [bpe.token_to_id(word) for word in (START, END)] != [self.start, self.end]:
            raise UserError(f"tokenizer: its last two ids are to be those of {START} and {END}.")
        self._model = bpe.model
        self._known: dict[str, tuple[int, ...]] | None = None
        if getattr(self._model, "end_of_word_suffix", None) == _END_OF_WORD:
            self._known = {START: (self.start,), END: (self.end,)}

    def __reduce__(self):
        return type(self), (self._bpe, self.context_length, self.keep_end)

    @classmethod
    def clip(cls, merges: Path, context_length: int = 77, keep_end: bool = True) -> "Tokenizer":
        """CLIP's encoding (49,408 ids), from the merges file of `find_merges`."""
        lines = gzip.decompress(Path(merges).read_bytes()).decode().split("\n")
        pairs = [(a, b) for a, b in map(str.split, lines[1 : _MERGES + 1])]
        letters = [*_byte_letters().values()]
        ends = (letter + _END_OF_WORD for letter in letters)
        words = [*letters, *ends, *map("".join, pairs)]
        vocabulary = {word: id for id, word in enumerate(words)}
        bpe = tokenizers.Tokenizer(
            models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix=_END_OF_WORD)
        )
        # For other programs that open the file.
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(_PARTS), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        bpe.add_special_tokens([START, END])
        return cls(bpe, context_length, keep_end)

    @classmethod
    def train(
        cls,
        captions: Iterable[str],
        vocab_size: int,
        context_length: int,
        keep_end: bool = True,
    ) -> "Tokenizer":
        """Trains byte-pair encoding on captions; nothing is unknown to it, as all bytes are in.

        Args:
          captions: what it is trained on; gone through once.
          vocab_size: ids, 258 at least (256 bytes, start and end); the result has fewer where
            the captions do not give that many merges.
          context_length: see the attribute.
        """
        letters = [*_byte_letters().values()]
        if vocab_size < len(letters) + 2:
            raise UserError(
                f"vocab_size: {vocab_size} is too small; 256 bytes, start and end take 258."
            )
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2, initial_alphabet=letters, show_progress=False
        )
        bpe.train_from_iterator((_clean(caption) for caption in captions), trainer)
        bpe.add_special_tokens([START, END])
        return cls(bpe, context_length, keep_end)

    def encode(self, text: str) -> list[int]:
        """Returns a caption's ids, without start and end and of any length."""
        if (known := self._known) is None:
            return self._bpe.encode(_clean(text)).ids
        ids: list[int] = []
        for word in _WORDS.findall(_clean(text)):
            if (of_word := known.get(word)) is None:
                letters = "".join(map(_byte_letters().__getitem__, word.encode()))
                of_word = tuple([token.id for token in self._model.tokenize(letters)])
                if len(known) < _WORDS_KNOWN and len(word) <= _LONG_WORD:
                    known[word] = of_word
            ids += of_word
        return ids

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "n L"]:
        """Returns start + ids + end a caption, cut to the context length or padded with 0."""
        tokens = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self.start, *self.encode(text), self.end]
            cut = ids[: self.context_length]
            row[: len(cut)] = cut
            if self.keep_end and len(ids) > len(cut):
                row[-1] = self.end
        return tokens

    def save(self, path: Path | str) -> None:
        """Writes the tokenizer as one JSON file, whole or not at all: see `as_json`."""
        write_whole(workdir_path(path), self.as_json())

    def as_json(self) -> str:
        """The tokenizer as Hugging Face's `tokenizers` and transformers open it.

        There too a caption's ids are start + ids + end, padded to the context length and, with
        `keep_end`, cut to it. Only what mends and unescapes captions is not a part of it.
        """
        bpe = tokenizers.Tokenizer.from_str(self._bpe.to_str())
        spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
        bpe.normalizer = normalizers.Sequence(
            [spaces, normalizers.Strip(), normalizers.Lowercase()]  # pyright: ignore
        )
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, self.start), (END, self.end)]
        )
        bpe.enable_padding(length=self.context_length, pad_token=bpe.id_to_token(0))
        if self.keep_end:
            bpe.enable_truncation(self.context_length)
        return bpe.to_str()

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Reads what `save` wrote."""
        content = read_json(workdir_path(path), _SHAPE, "it is no tokenizer's file: make it again")
        try:
            if "bpe" in content:
                length, keep_end, bpe = (content[k] for k in ("context_length", "keep_end", "bpe"))
            else:
                length, keep_end = content["padding"]["strategy"]["Fixed"], content["truncation"]
                around = ("normalizer", "post_processor", "padding", "truncation")
                bpe = content | dict.fromkeys(around)
            return cls(tokenizers.Tokenizer.from_str(json.dumps(bpe)), length, bool(keep_end))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except Exception as error:  # Hugging Face's raises no other kind
            raise UserError(
                f"{path} is no tokenizer's file ({reason(error)}): make it again"
            ) from error


def find_merges(path: str | None = None) -> Path:
    """Returns CLIP's merges file: the given one, else the cache's, else downloaded into it.

    The cache is $CLEANCLIP_CACHE, else $XDG_CACHE_HOME/cleanclip, else ~/.cache/cleanclip.
    Whichever it is, its digest must be that of CLIP's.
    """
    if path is not None:
        given = user_path(path)
        if not given.is_file():
            raise UserError(f"{given}: there is no such merges file; check the path.")
        _check(given, read_bytes(given))
        return given
    cached = cache_folder() / MERGES_FILE
    if cached.is_file():
        _check(cached, read_bytes(cached))
        return cached
    try:
        with urllib.request.urlopen(MERGES_URL, timeout=60) as response:
            data = response.read()
    except OSError as error:
        raise UserError(
            f"CLIP's merges file is not in {cached} and cannot be downloaded "
            f"({getattr(error, 'reason', error)}); put {MERGES_URL} there by hand."
        ) from error
    _check(MERGES_URL, data)
    write_whole(cached, data)
    return cached


def _check(where: Path | str, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != MERGES_SHA256:
        raise UserError(
            f"{where}: not CLIP's merges file (sha256 {digest[:12]}, expected "
            f"{MERGES_SHA256[:12]}); replace it with {MERGES_URL}."
        )


def _clean(text: str) -> str:
    text = text.encode(errors="replace").decode()  # JSON can write half a character
    # Most captions need no mending, and ftfy is slow to see it.
    if text.isascii() and text.isprintable() and "&" not in text:
        return " ".join(text.split()).lower()
    # HTML is unescaped twice as in CLIP: web captions are often escaped twice.
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


@functools.cache
def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte, in the order of CLIP's vocabulary.

    Printable bytes stand for themselves and come first, the others follow as chr(256 + n).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
