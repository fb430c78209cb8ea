import gzip
import hashlib
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
import tokenizers

from cleanclip_jax.errors import UserError
from cleanclip_jax.text import tokenizer as tokenizer_module
from cleanclip_jax.text.tokenizer import MERGES_FILE, Tokenizer, find_merges

CAPTIONS = [f"a photo of the digit {i}" for i in range(10)]
TRICKY = ["", " \t ", "a", "Zażółć 日本語 🍌", "&amp;amp; it's", "word " * 40, "x" * 300]


@pytest.fixture(scope="session")
def merges(shared_data) -> Path:
    return find_merges(str(shared_data / "meta" / MERGES_FILE))


@pytest.fixture(scope="session")
def clip(merges) -> Tokenizer:
    return Tokenizer.clip(merges)


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, vocab_size=300, context_length=12)


def test_clip_gives_the_original_ids(golden, clip):
    cases = golden("tokenizer.json")
    assert len(cases) > 15
    for case in cases:
        assert clip.encode(case["caption"]) == case["ids"], case["caption"]


WORDS = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.I,
)


def spelled_out(
    text: str, vocabulary: dict[str, int], ranks: dict[tuple[str, str], int]
) -> list[int]:
    """The ids of a caption that needs no mending, word by word and merge by merge."""
    ids: list[int] = []
    letters = tokenizer_module._byte_letters()
    for word in WORDS.findall(text.lower()):
        if word in (tokenizer_module.START, tokenizer_module.END):
            ids.append(vocabulary[word])
            continue
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, 10**6), i) for i, pair in enumerate(pairwise(parts)))
            if rank == 10**6:
                break
            pair = (parts[at], parts[at + 1])
            i = at
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == pair:
                    parts[i : i + 2] = ["".join(pair)]
                i += 1
        ids += [vocabulary[part] for part in parts]
    return ids


# The end of text is one token where a word begins with it, and spelled out behind a sign; a long s
# makes a contraction; U+0345 is neither letter nor sign; the last are newer than Unicode 15.
ODD = [
    *("a photo <end_of_text> of", "wow!!<end_of_text> x", "<\u017ftart_of_text>", "<END_OF_TEXT>"),
    *(
        "it'\u017f here",
        "the dog'S'T",
        "a\u0345b \u0345",
        "x\u0345",
        "\U000105c0\U000105c1 a",
        "\ua7dc\u1c89",
    ),
]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_clip_parts_words_as_the_original_whatever_the_letters(count: int, clip, merges):
    lines = gzip.decompress(merges.read_bytes()).decode().split("\n")[1 : 49408 - 512 - 2 + 1]
    ranks = {(a, b): i for i, (a, b) in enumerate(map(str.split, lines))}
    rng, vocabulary = np.random.default_rng(0), clip._bpe.get_vocab()
    pool = ["'s", "'\u017f", "'LL", "<end_of_text>", "<", "!!", " ", "dog", "ﬁ", "7", "\u0345", "é"]
    # Letters and signs of all planes.
    points = [p for p in range(0x100, 0x32000) if not 0xD800 <= p < 0xE000]
    texts = list(ODD)
    for _ in range(count):
        rare = [chr(points[i]) for i in rng.integers(len(points), size=3)]
        texts.append("".join(rng.permutation([*rng.choice(pool, 4), *rare]).tolist()))
    for text in texts:
        expected = spelled_out(tokenizer_module._clean(text), vocabulary, ranks)
        assert clip.encode(text) == expected, ascii(text)
    assert clip.encode(ODD[0])[2] == clip.end and clip.end not in clip.encode(ODD[1])


def test_words_are_remembered_to_a_bound(merges, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_WORDS_KNOWN", 4)
    tokenizer = Tokenizer.clip(merges)
    for text in ("one two three", "three two one", "x" * 100, "one two three"):
        assert tokenizer.encode(text) == Tokenizer.clip(merges).encode(text)
    assert tokenizer._known is not None and len(tokenizer._known) == 4


def test_clip_has_the_original_numbers(clip):
    assert (clip.vocab_size, clip.context_length) == (49408, 77)
    assert (clip.start, clip.end) == (49406, 49407)


def test_html_is_unescaped_twice_also_beside_tags(trained):
    assert trained.encode("<b> &amp;amp; c") == trained.encode("<b> & c")


def test_plain_text_is_cleaned_as_if_it_were_not(trained, monkeypatch):
    """What is printable ASCII without & passes ftfy and html by, which would leave it as it is."""
    plain = ["It's  a <b> Dog</b>; #39; [0m", "don''t ``x'' -- (c) \\u00e9 ~", " A "]
    before = [trained.encode(text) for text in plain]
    monkeypatch.setattr(tokenizer_module.ftfy, "fix_text", lambda text: pytest.fail(text))
    assert [trained.encode(text) for text in plain] == before
    monkeypatch.undo()
    # A letter that is not ASCII, at the end, takes the long way.
    for text, ids in zip(plain, before, strict=True):
        assert trained.encode(f"{text} é")[: len(ids)] == ids


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_rows_are_start_ids_end_and_zeros(request, kind: str):
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer(TRICKY)
    assert tokens.dtype == np.int32 and tokens.shape == (len(TRICKY), tokenizer.context_length)
    for caption, row in zip(TRICKY, tokens.tolist(), strict=True):
        ids = tokenizer.encode(caption)[: tokenizer.context_length - 2]
        assert row[: len(ids) + 2] == [tokenizer.start, *ids, tokenizer.end]
        assert not any(row[len(ids) + 2 :])


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_the_end_is_the_highest_id_wherever_it_stands(request, kind: str):
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    assert tokenizer.end == tokenizer.vocab_size - 1 > tokenizer.start
    tokens = tokenizer(TRICKY)
    assert (tokens.max(axis=1) == tokenizer.end).all()
    assert ((tokens == tokenizer.end).sum(axis=1) == 1).all()


def test_the_original_loses_the_end_of_a_cut_caption():
    keeps, loses = (Tokenizer.train(CAPTIONS, 300, 6, keep_end=keep) for keep in (True, False))
    cut, lost = keeps(["a photo of a digit 7"])[0], loses(["a photo of a digit 7"])[0]
    assert cut[-1] == keeps.end and loses.end not in lost
    np.testing.assert_array_equal(cut[:-1], lost[:-1])


def test_a_caption_that_just_fits_is_not_cut(trained):
    ids = trained.encode("a photo of the digit 7")
    exact = Tokenizer.train(CAPTIONS, 300, context_length=len(ids) + 2, keep_end=False)
    row = exact(["a photo of the digit 7"])[0]
    assert row.tolist() == [exact.start, *ids, exact.end]


def test_no_captions_give_no_rows(trained):
    assert trained([]).shape == (0, 12)


def test_training_twice_gives_the_same_ids(trained):
    again = Tokenizer.train(iter(CAPTIONS), vocab_size=300, context_length=12)
    np.testing.assert_array_equal(again(CAPTIONS + TRICKY), trained(CAPTIONS + TRICKY))


def test_nothing_is_unknown_to_a_trained_tokenizer(trained):
    rare = [chr(point) for point in (0x21, 0x7E, 0xE9, 0x416, 0x65E5, 0x1F34C)]
    assert len({tuple(trained.encode(letter)) for letter in rare}) == len(rare)
    assert all(trained.encode(letter) for letter in rare)


def test_trained_words_take_fewer_ids_than_bytes(trained):
    assert len(trained.encode("photo digit")) == 2
    assert trained.encode("PHOTO\n digit") == trained.encode("photo digit")


def test_too_small_a_vocabulary():
    with pytest.raises(UserError, match=r"257 is too small; .* 258"):
        Tokenizer.train(CAPTIONS, vocab_size=257, context_length=12)
    assert Tokenizer.train(CAPTIONS, vocab_size=258, context_length=12).vocab_size == 258


def test_too_short_a_context():
    with pytest.raises(UserError, match="context_length: 2 is not of 3 to"):
        Tokenizer.train(CAPTIONS, vocab_size=300, context_length=2)


def test_fewer_merges_than_asked_for_give_a_smaller_vocabulary():
    tokenizer = Tokenizer.train(["ab"], vocab_size=5000, context_length=12)
    assert tokenizer.vocab_size < 270 and tokenizer.end == tokenizer.vocab_size - 1


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_pickled_and_saved_tokenizers_are_the_same(request, tmp_path: Path, kind: str):
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    tokenizer.keep_end = False
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    copies = [Tokenizer.load(tmp_path / "new" / "tokenizer.json")]
    copies.append(pickle.loads(pickle.dumps(tokenizer)))
    for copy in copies:
        np.testing.assert_array_equal(copy(CAPTIONS + TRICKY), tokenizer(CAPTIONS + TRICKY))
        assert (copy.vocab_size, copy.start, copy.end) == (
            tokenizer.vocab_size,
            tokenizer.start,
            tokenizer.end,
        )
    tokenizer.keep_end = True
    assert os.listdir(tmp_path / "new") == ["tokenizer.json"]


@pytest.mark.parametrize("kind", ["clip", "trained"])
def test_a_saved_tokenizer_is_one_that_tokenizers_opens(request, tmp_path: Path, kind: str):
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    captions = [*CAPTIONS, "  Two\twords ", "", " ".join(CAPTIONS * 20)]
    for caption, row in zip(captions, tokenizer(captions), strict=True):
        assert theirs.encode(caption).ids == row.tolist(), caption


def test_a_tokenizer_of_something_else_is_none(tmp_path: Path):
    other = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    other.enable_padding(length=8)
    other.save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="its last two ids are to be"):
        Tokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there"),
        ("{", "no tokenizer's file"),
        ("{}", "lacks 'padding'"),
        ('{"version": 9}', "lacks 'padding'.*no tokenizer's file"),
    ],
)
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match=rf"t\.json.* {message}"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_tokenizer_whose_last_ids_are_no_start_and_end_is_refused(trained, tmp_path: Path):
    """Models pool at the highest id: captions would be measured at any other word."""
    trained.save(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text()
    (tmp_path / "t.json").write_text(text.replace("<end_of_text>", "<other>"))
    with pytest.raises(UserError, match="last two ids are to be those of <start_of_text> and"):
        Tokenizer.load(tmp_path / "t.json")


class TestMerges:
    """Finding the merges file, with a stand-in for it."""

    DATA = gzip.compress(b"#version\na b</w>\n", mtime=0)

    @pytest.fixture(autouse=True)
    def stand_in(self, monkeypatch, tmp_path: Path):
        monkeypatch.setattr(
            tokenizer_module, "MERGES_SHA256", hashlib.sha256(self.DATA).hexdigest()
        )
        monkeypatch.setattr(tokenizer_module, "MERGES_URL", (tmp_path / "remote").as_uri())
        monkeypatch.setenv("CLEANCLIP_CACHE", str(tmp_path / "cache"))
        self.cached = tmp_path / "cache" / MERGES_FILE
        self.remote = tmp_path / "remote"

    def test_downloaded_once_into_the_cache(self):
        self.remote.write_bytes(self.DATA)
        assert find_merges() == self.cached
        self.remote.unlink()
        assert find_merges() == self.cached
        assert self.cached.read_bytes() == self.DATA
        assert os.listdir(self.cached.parent) == [MERGES_FILE]

    def test_offline_names_where_to_put_it(self):
        with pytest.raises(UserError, match="cannot be downloaded") as caught:
            find_merges()
        assert str(self.cached) in str(caught.value) and "\n" not in str(caught.value)

    def test_a_given_file_comes_before_the_cache(self, tmp_path: Path):
        self.remote.write_bytes(self.DATA)
        find_merges()
        given = tmp_path / "mine.gz"
        given.write_bytes(self.DATA)
        assert find_merges(str(given)) == given

    def test_other_content_is_refused_wherever_it_lies(self, tmp_path: Path):
        self.remote.write_bytes(b"<html>")
        with pytest.raises(UserError, match="not CLIP's merges file"):
            find_merges()
        assert not self.cached.exists()
        with pytest.raises(UserError, match="remote: not CLIP's merges file"):
            find_merges(str(self.remote))
        self.cached.parent.mkdir()
        self.cached.write_bytes(b"half")
        with pytest.raises(UserError, match=f"{MERGES_FILE}: not CLIP's merges file"):
            find_merges()

    def test_a_given_file_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(UserError, match=r"nowhere\.gz: there is no such merges file"):
            find_merges(str(tmp_path / "nowhere.gz"))

    def test_the_cache_follows_the_environment(self, monkeypatch, tmp_path: Path):
        monkeypatch.delenv("CLEANCLIP_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        self.remote.write_bytes(self.DATA)
        assert find_merges() == tmp_path / "xdg" / "cleanclip" / MERGES_FILE
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert find_merges() == tmp_path / "home" / ".cache" / "cleanclip" / MERGES_FILE


def test_text_loads_no_accelerator_library():
    code = (
        "import sys, cleanclip_jax.views.eda, cleanclip_jax.text.tokenizer\n"
        "print({'jax', 'flax', 'torch', 'tensorflow', 'nltk'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr
