"""The tokenizer is the published one, and text and special tokens never mix."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.gguf_header import integers, read_metadata, strings
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL

TABLE = json.loads(
    (Path(__file__).parents[1] / "parity" / "tokenizer_table.json").read_text("ascii")
)
SPECIAL_NAMES = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<|fim_prefix|>",
    "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    "[PAD151665]",
]  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Path:
    return store.resolve(DEFAULT_MODEL).base


@pytest.fixture(scope="module")
def real(base: Path) -> Tokenizer:
    return Tokenizer.from_gguf(base)


@pytest.fixture(scope="module")
def published(base: Path) -> Any:
    """The Qwen2 tokenizer of transformers over the same vocabulary and merges."""
    transformers = pytest.importorskip("transformers")
    metadata = read_metadata(base)
    tokens = strings(metadata, "tokenizer.ggml.tokens")
    types = integers(metadata, "tokenizer.ggml.token_type")
    vocab = {t: i for i, t in enumerate(tokens) if types[i] == 1}
    merges = [tuple(m.split(" ")) for m in strings(metadata, "tokenizer.ggml.merges")]
    return transformers.Qwen2Tokenizer(vocab=vocab, merges=merges)


# --- the real vocabulary


@pytest.mark.model
def test_equal_to_llama_cpp_on_hard_strings(real: Tokenizer) -> None:
    """The table is written by tests/parity/make_tokenizer_table.py."""
    assert len(TABLE) > 150
    assert {row["text"]: real.encode(row["text"]) for row in TABLE} == {
        row["text"]: row["ids"] for row in TABLE
    }


@pytest.mark.model
def test_equal_to_the_published_tokenizer_on_hard_strings(real: Tokenizer, published: Any) -> None:
    for row in TABLE:
        text = row["text"]
        if "<|endoftext|>" in text:  # the one special token that tokenizer knows by itself
            continue
        assert real.encode(text) == published.encode(text, add_special_tokens=False), repr(text)


_FRAGMENTS = st.sampled_from(
    [
        "\t", "\r\n", "\n", "    ", " ", "\x0c", "\u2028", "\x85", "\xa0", "e\u0301", "\u0301",
        "\u200d", "👨‍👩‍👧", "🏽", "中文", "١٢", "½", "'s", "'LL", "0123", "def ", "_x",
        "<|fim_", "|>",
        "\x00", "\u3000", "ﬁ", "\ufeff",
    ]
)  # fmt: skip
_TEXT = st.lists(_FRAGMENTS | st.text(max_size=4), max_size=12).map("".join)


@pytest.mark.model
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=_TEXT)
def test_equal_to_the_published_tokenizer_on_any_text(
    real: Tokenizer, published: Any, text: str
) -> None:
    if "<|endoftext|>" not in text:
        assert real.encode(text) == published.encode(text, add_special_tokens=False)


@pytest.mark.model
def test_ids_of_the_default_model(real: Tokenizer) -> None:
    special = real.special
    assert real.vocab_size == 151_936
    assert (special.fim_prefix, special.fim_middle, special.fim_suffix) == (151659, 151660, 151661)
    assert (special.fim_pad, special.repo_name, special.file_sep) == (151662, 151663, 151664)
    assert (special.end_of_text, special.im_start, special.im_end) == (151643, 151644, 151645)
    assert special.mask == 151_665
    assert special.stop[:2] == (151_643, 151_645)
    assert {151662, 151663, 151664} < set(special.stop) and special.mask not in special.stop
    assert [i for i in range(real.vocab_size) if real.is_special(i)] == list(
        range(151_643, 151_936)
    )


@pytest.mark.model
def test_the_saved_tokenizer_is_the_same(real: Tokenizer, tmp_path: Path) -> None:
    real.save(tmp_path / "tokenizer.json")
    saved = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert (saved.vocab_size, saved.special) == (real.vocab_size, real.special)
    for row in TABLE:
        assert saved.encode(row["text"]) == row["ids"]
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.model
def test_text_comes_back(real: Tokenizer) -> None:
    import unicodedata

    for row in TABLE:
        assert real.decode(row["ids"]) == unicodedata.normalize("NFC", row["text"])
        assert b"".join(map(real.token_bytes, row["ids"])).decode() == real.decode(row["ids"])


@pytest.mark.model
def test_every_token_has_bytes_or_is_special(real: Tokenizer) -> None:
    for token in range(real.vocab_size):
        assert bool(real.token_bytes(token)) is not real.is_special(token)
    assert len({real.token_bytes(i) for i in range(151_643)}) == 151_643


@pytest.mark.model
def test_half_a_character_decodes_to_a_replacement(real: Tokenizer) -> None:
    ids = real.encode("𠜎")
    assert len(ids) > 1
    assert "\ufffd" in real.decode(ids[:-1])
    assert real.decode(ids) == "𠜎"


# --- any vocabulary


def _gguf(path: Path, tokens: list[str], types: list[int], merges: list[str], **keys: str) -> Path:
    """A GGUF file that holds a tokenizer and nothing else."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    def array(kind: int, items: list[bytes]) -> bytes:
        return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)

    fields = {
        "tokenizer.ggml.model": struct.pack("<I", 8) + text(keys.get("model", "gpt2")),
        "tokenizer.ggml.pre": struct.pack("<I", 8) + text(keys.get("pre", "qwen2")),
        "tokenizer.ggml.tokens": array(8, [text(t) for t in tokens]),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", t) for t in types]),
        "tokenizer.ggml.merges": array(8, [text(m) for m in merges]),
    }
    body = b"".join(text(key) + value for key, value in fields.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + body)
    return path


def _alphabet() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


_TOKENS = [*_alphabet(), "ab", "Ġab", *SPECIAL_NAMES]
_TYPES = [1] * 258 + [3] * (len(SPECIAL_NAMES) - 1) + [5]
_MERGES = ["a b", "Ġ ab"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return Tokenizer.from_gguf(_gguf(path, _TOKENS, _TYPES, _MERGES))


@given(text=st.text() | _TEXT | st.sampled_from(SPECIAL_NAMES))
@example("<|fim_prefix|><|fim_middle|>")
@example(" ab ab")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_makes_a_special_id_and_all_text_returns(small: Tokenizer, text: str) -> None:
    import unicodedata

    ids = small.encode(text)
    assert not any(small.is_special(i) for i in ids)
    assert small.decode(ids) == unicodedata.normalize("NFC", text)


@given(ids=st.lists(st.integers(0, len(_TOKENS) - 1)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_ids_decode_without_special_tokens(small: Tokenizer, ids: list[int]) -> None:
    plain = [i for i in ids if not small.is_special(i)]
    assert small.decode(ids) == small.decode(plain)
    assert small.decode(ids) == b"".join(map(small.token_bytes, ids)).decode("utf-8", "replace")


def test_lone_surrogates_become_replacement_characters(small: Tokenizer) -> None:
    assert small.decode(small.encode("a\ud800b")) == "a\ufffdb"
    assert small.decode(small.encode("\ud83d\ude00")) == "😀"


def test_a_published_file_cannot_smuggle_special_tokens_in(tmp_path: Path) -> None:
    """Published files mark the FIM tokens as not special, so that text would produce them."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    small = Tokenizer.from_gguf(_gguf(tmp_path / "s.gguf", _TOKENS[:258], [1] * 258, _MERGES))
    small.save(tmp_path / "plain.json")
    backend = Backend.from_file(str(tmp_path / "plain.json"))
    backend.add_tokens([AddedToken(n, special=False, normalized=False) for n in SPECIAL_NAMES[:-1]])
    backend.save(str(tmp_path / "published.json"))
    assert backend.encode("<|fim_middle|>").ids == [258 + SPECIAL_NAMES.index("<|fim_middle|>")]

    loaded = Tokenizer.from_file(tmp_path / "published.json", vocab_size=280)
    assert loaded.vocab_size == 280
    assert loaded.special.fim_middle == 258 + SPECIAL_NAMES.index("<|fim_middle|>")
    assert loaded.special.mask == 268  # the first row that the file does not list
    assert loaded.decode(loaded.encode("x<|fim_middle|>y")) == "x<|fim_middle|>y"
    assert all(loaded.is_special(i) for i in range(258, 280))


def test_without_special_tokens_there_are_none(tmp_path: Path) -> None:
    plain = Tokenizer.from_gguf(_gguf(tmp_path / "p.gguf", _TOKENS[:258], [1] * 258, _MERGES))
    assert plain.special.fim_middle == plain.special.mask == -1
    assert plain.special.stop == ()


# --- the cached file


def test_the_cache_is_used_repaired_and_optional(tmp_path: Path) -> None:
    gguf = _gguf(tmp_path / "a.gguf", _TOKENS, _TYPES, _MERGES)
    cache = tmp_path / "cache" / "tokenizer.json"
    ids = Tokenizer.cached(gguf, cache).encode("ab ab!")
    assert cache.is_file()
    gguf.rename(tmp_path / "gone.gguf")
    assert Tokenizer.cached(gguf, cache).encode("ab ab!") == ids

    (tmp_path / "gone.gguf").rename(gguf)
    cache.write_text(cache.read_text()[:1000])
    assert Tokenizer.cached(gguf, cache).encode("ab ab!") == ids
    assert Tokenizer.from_file(cache).encode("ab ab!") == ids

    (tmp_path / "file").touch()
    assert Tokenizer.cached(gguf, tmp_path / "file" / "tokenizer.json").encode("ab ab!") == ids


# --- bad files


def test_files_that_are_not_tokenizers(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    with pytest.raises(ModelNotFound):
        Tokenizer.from_file(bad)
    for content in (b"", b"{}", b"\xff\xfe", b'{"version": "1.0"}'):
        bad.write_bytes(content)
        with pytest.raises(ModelCorrupt, match="not a tokenizer"):
            Tokenizer.from_file(bad)


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    Backend(WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "words.json"))
    with pytest.raises(ModelUnsupported):
        Tokenizer.from_file(tmp_path / "words.json")
    with pytest.raises(ModelUnsupported, match="llama"):
        Tokenizer.from_gguf(_gguf(tmp_path / "l.gguf", _TOKENS, _TYPES, _MERGES, model="llama"))


@pytest.mark.parametrize(
    ("tokens", "types", "merges"),
    [
        ([], [], []),
        (_TOKENS, _TYPES[:-1], _MERGES),
        (_TOKENS, _TYPES, ["a b c"]),
        (_TOKENS, _TYPES, ["no such"]),
        (["ab", *_TOKENS], [1, *_TYPES], _MERGES),
    ],
)
def test_a_damaged_tokenizer(
    tmp_path: Path, tokens: list[str], types: list[int], merges: list[str]
) -> None:
    with pytest.raises(ModelCorrupt):
        Tokenizer.from_gguf(_gguf(tmp_path / "d.gguf", tokens, types, merges))


def test_a_gguf_cut_anywhere_is_damage(tmp_path: Path) -> None:
    whole = _gguf(tmp_path / "w.gguf", _TOKENS, _TYPES, _MERGES).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 200), *range(200, len(whole), 97), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelCorrupt):
            Tokenizer.from_gguf(cut)
    with pytest.raises(ModelNotFound):
        read_metadata(tmp_path / "nothing.gguf")


@given(data=st.binary(max_size=200), at=st.integers(0, 3000))
@settings(deadline=None)
def test_no_bytes_crash_the_header_reader(
    data: bytes, at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    whole = _gguf(folder / "w.gguf", _TOKENS, _TYPES, _MERGES).read_bytes()
    path = folder / "fuzzed.gguf"
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    try:
        Tokenizer.from_gguf(path)
    except (ModelCorrupt, ModelUnsupported):
        pass
