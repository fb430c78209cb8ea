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
import tokenizers
from jaxtyping import Int32
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import cache_folder, write_whole
from cleanclip_jax.workdir import workdir_path

START, END = "<start_of_text>", "<end_of_text>"

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_URL = f"https://raw.githubusercontent.com/openai/CLIP/main/clip/{MERGES_FILE}"
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"

# The file holds more merges than CLIP uses: its vocabulary is 512 bytes, these and two specials.
_MERGES = 49408 - 512 - 2
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


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
        if context_length < 3:
            raise UserError(f"context_length: {context_length} is too small; start, end, a word.")
        self._bpe = bpe
        self.context_length = context_length
        self.keep_end = keep_end
        self.vocab_size = bpe.get_vocab_size()
        self.start, self.end = self.vocab_size - 2, self.vocab_size - 1

    @classmethod
    def clip(cls, merges: Path, context_length: int = 77, keep_end: bool = True) -> "Tokenizer":
        """CLIP's encoding (49,408 ids), from the merges file of `find_merges`."""
        lines = gzip.decompress(Path(merges).read_bytes()).decode().split("\n")
        pairs = [(a, b) for a, b in map(str.split, lines[1 : _MERGES + 1])]
        letters = _byte_letters()
        words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, pairs)]
        vocabulary = {word: id for id, word in enumerate(words)}
        bpe = tokenizers.Tokenizer(
            models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix="</w>")
        )
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True),
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
        letters = _byte_letters()
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
        return self._bpe.encode(_clean(text)).ids

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
        try:
            content = json.loads(workdir_path(path).read_bytes())
            if "bpe" in content:  # as it was written before `as_json`
                bpe = tokenizers.Tokenizer.from_str(json.dumps(content["bpe"]))
                return cls(bpe, content["context_length"], content["keep_end"])
            length, keep_end = content["padding"]["strategy"]["Fixed"], bool(content["truncation"])
            around = dict.fromkeys(("normalizer", "post_processor", "padding", "truncation"))
            bpe = tokenizers.Tokenizer.from_str(json.dumps(content | around))
            if bpe.token_to_id(END) != bpe.get_vocab_size() - 1:
                raise UserError(f"{path}: its highest id is not {END}: it is no run's tokenizer.")
            return cls(bpe, length, keep_end)
        except FileNotFoundError as error:
            raise UserError(f"{path}: there is no such tokenizer; check the path.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: this is no tokenizer's file; make it again.") from error


def find_merges(path: str | None = None) -> Path:
    """Returns CLIP's merges file: the given one, else the cache's, else downloaded into it.

    The cache is $CLEANCLIP_CACHE, else $XDG_CACHE_HOME/cleanclip, else ~/.cache/cleanclip.
    Whichever it is, its digest must be that of CLIP's.
    """
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_file():
            raise UserError(f"{given}: there is no such merges file; check the path.")
        _check(given, given.read_bytes())
        return given
    cached = cache_folder() / MERGES_FILE
    if cached.is_file():
        _check(cached, cached.read_bytes())
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
    # Most captions need no mending, and ftfy is slow to see it.
    if text.isascii() and text.isprintable() and "&" not in text:
        return " ".join(text.split()).lower()
    # HTML is unescaped twice as in CLIP: web captions are often escaped twice.
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


@functools.cache
def _byte_letters() -> list[str]:
    """The letter that stands for each byte, in the order of CLIP's vocabulary.

    Printable bytes stand for themselves and come first, the others follow as chr(256 + n).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
