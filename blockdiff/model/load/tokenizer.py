"""BPE tokenizers: byte-level of the Qwen2 kind, from a GGUF file or a tokenizer.json, and those of
Gemma, whose tokens are text with `▁` for a space, and bytes where no token says it.

Text and special tokens never mix here: `encode` treats "<|fim_middle|>" as the fourteen characters
it is, and `decode` drops special ids, so no text can steer the layout and no layout can leak into
the text. The layouts put special ids into the sequence themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr  # texts of a file may have any length
from typing import TYPE_CHECKING

from blockdiff.config import SpecialTokens
from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.gguf_header import Value, integers, read_metadata, strings

if TYPE_CHECKING:
    import tokenizers

# The split published with Qwen2: contractions, words with one leading symbol, single digits,
# runs of symbols with the line breaks after them, line breaks, spaces.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_ROLES = {
    "fim_prefix": "<|fim_prefix|>",
    "fim_middle": "<|fim_middle|>",
    "fim_suffix": "<|fim_suffix|>",
    "fim_pad": "<|fim_pad|>",
    "repo_name": "<|repo_name|>",
    "file_sep": "<|file_sep|>",
    "end_of_text": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
}
_STOP_ROLES = (
    "end_of_text", "im_end", "fim_pad", "repo_name", "file_sep",
    "fim_prefix", "fim_suffix", "fim_middle", "im_start",
)  # fmt: skip

_UNUSED = "[PAD"  # how GGUF files name the unused rows of the embedding

_GGUF_NORMAL = 1  # token types of GGUF: 3 control, 4 user-defined and 5 unused are all special here


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        special: ids that mean something to the layouts.
        vocab_size: rows of the embedding, unused ones included.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wraps a backend whose every non-text id is an added token; `from_*` make one."""
        backend.encode_special_tokens = True  # special tokens written in a text stay plain text
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._bytes_of = _bytes_of_level if _is_byte_level(backend) else _bytes_of_text
        self._bytes: dict[int, bytes] = {}
        self.vocab_size = max(backend.get_vocab_size(), 1 + max(added, default=-1))
        self.special = _special_tokens({str(t.content): i for i, t in added.items()})

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Builds from the tokens and merges a GGUF file carries (under two seconds).

        Raises:
            ModelNotFound, ModelCorrupt: as `read_metadata`, or tokens and merges do not fit.
            ModelUnsupported: its tokenizer is not byte-level BPE of the Qwen2 kind.
        """
        path = Path(path)
        metadata = read_metadata(path)
        kind = [metadata.get(f"tokenizer.ggml.{part}") for part in ("model", "pre")]
        if kind != ["gpt2", "qwen2"]:
            raise ModelUnsupported(
                f"{path} has a tokenizer of the kind {repr(kind)}, we know gpt2, qwen2",
                "use a model of the Qwen2.5-Coder family",
            )
        tokens = strings(metadata, "tokenizer.ggml.tokens")
        types = integers(metadata, "tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in strings(metadata, "tokenizer.ggml.merges")]
        damaged = _damage(metadata, tokens, types, merges)
        if damaged:
            raise ModelCorrupt(f"{path} has a damaged tokenizer: {damaged}", _PULL_HINT)
        normal = sum(t == _GGUF_NORMAL for t in types)
        if any(t != _GGUF_NORMAL for t in types[:normal]):
            raise ModelUnsupported(f"{path} mixes special tokens into its text vocabulary")
        try:
            return cls(_build(tokens[:normal], merges, tokens[normal:]))
        except Exception as error:  # the backend raises bare Exception
            raise ModelCorrupt(
                f"{path} has a damaged tokenizer: {error}", _PULL_HINT
            ) from error

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], vocab_size: int = 0) -> Tokenizer:
        """Loads a tokenizer.json: one `save` wrote (under a second), or a published one.

        `vocab_size` is the number of embedding rows where the file lists fewer ids; the rows it
        does not list become unused ids.

        Raises:
            ModelNotFound: there is no such file.
            ModelCorrupt: the file does not parse.
            ModelUnsupported: its tokenizer is not BPE of a kind that is known here.
        """
        import tokenizers

        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelNotFound(f"cannot read {path}: {error.strerror}", _PULL_HINT) from error
        except UnicodeDecodeError as error:
            raise ModelCorrupt(f"{path} is not a tokenizer: not UTF-8", _PULL_HINT) from error
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the backend raises bare Exception
            raise ModelCorrupt(f"{path} is not a tokenizer: {error}", _PULL_HINT) from error
        known = _is_byte_level(backend) or _is_with_byte_fallback(backend)
        if not isinstance(backend.model, tokenizers.models.BPE) or not known:
            raise ModelUnsupported(f"{path} is no byte-level BPE tokenizer, nor one like Gemma's")
        # Published files leave some added tokens "not special", which text could then produce.
        # Runs of white space (Gemma) are nothing but text.
        added = backend.get_added_tokens_decoder()
        loose = [added[i].content for i in sorted(added) if not added[i].special]
        contents = [content for content in loose if content.replace(_SPACE, " ").strip()]
        contents += [f"{_UNUSED}{i}]" for i in range(backend.get_vocab_size(), vocab_size)]
        backend.add_special_tokens([_added(content) for content in contents])
        return cls(backend)

    @classmethod
    def from_vocabulary(
        cls, tokens: list[str], merges: list[tuple[str, ...]], special: list[str]
    ) -> Tokenizer:
        """Of the tokens in the order of their ids, split as Qwen2 splits; `special` ids follow.

        Raises ModelCorrupt where a token is listed twice.
        """
        return cls(_build(tokens, merges, special))

    @classmethod
    def cached(cls, gguf: Path, cache: Path) -> Tokenizer:
        """Loads `cache` if it is good, otherwise builds from `gguf` and writes `cache`."""
        try:
            return cls.from_file(cache)
        except (ModelNotFound, ModelCorrupt):
            tokenizer = cls.from_gguf(gguf)
        try:
            tokenizer.save(cache)
        except OSError:
            pass  # a cache that cannot be written costs a second at the next start
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a tokenizer.json for `from_file`, in one step: never half a file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self._backend.to_str(), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def with_rows(self, rows: int, source: str) -> Tokenizer:
        """With unused ids up to the rows of an embedding, so that none is without a meaning.

        Raises ModelCorrupt where there are more ids than rows: they would be looked up behind it.
        """
        if self.vocab_size > rows:
            raise ModelCorrupt(
                f"{source}: the tokenizer has {self.vocab_size} ids, the embedding {rows} rows"
            )
        if self.vocab_size == rows:
            return self
        unused = [f"{_UNUSED}{i}]" for i in range(self.vocab_size, rows)]
        self._backend.add_special_tokens([_added(content) for content in unused])
        filled = Tokenizer(self._backend)
        if filled.vocab_size != rows:
            raise ModelCorrupt(f"{source}: the tokenizer lists a token under an unused one's name")
        return filled

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, normalized to NFC; never a special id. Lone surrogates become U+FFFD."""
        try:
            encoding = self._backend.encode(text, add_special_tokens=False)
        except TypeError:  # the backend takes well-formed Unicode only
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            encoding = self._backend.encode(text, add_special_tokens=False)
        return list(encoding.ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`: special and unused ids dropped, invalid UTF-8 replaced by U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token, which may cut a character in two; empty for special ids."""
        cached = self._bytes.get(token)
        if cached is None:
            content = None if self.is_special(token) else self._backend.id_to_token(token)
            cached = self._bytes_of(content) if content else b""
            self._bytes[token] = cached
        return cached

    def is_special(self, token: int) -> bool:
        """Whether `token` is no text: a control id or an unused one."""
        return token in self._special_ids


_PULL_HINT = "download it again: blockdiff models pull"


def _damage(
    metadata: dict[str, Value],
    tokens: list[str],
    types: list[int],
    merges: list[tuple[str, ...]],
) -> str:
    """What is wrong with the arrays of a GGUF tokenizer, by key; empty where nothing is."""
    for name, kind in (("tokens", str), ("token_type", int), ("merges", str)):
        found = metadata.get(key := f"tokenizer.ggml.{name}")
        if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
            return f"{key} is no array of {'texts' if kind is str else 'integers'}"
    if not tokens:
        return "tokenizer.ggml.tokens is empty"
    if len(tokens) != len(types):
        return f"{len(types)} tokenizer.ggml.token_type for {len(tokens)} tokenizer.ggml.tokens"
    if any(len(merge) != 2 for merge in merges):
        return "an item of tokenizer.ggml.merges has not two parts"
    known = set(tokens)
    for left, right in merges:
        if not {left, right, left + right} <= known:
            return f"tokenizer.ggml.merges: {repr(left)} and {repr(right)} make no token"
    return ""


def _added(content: str) -> tokenizers.AddedToken:
    import tokenizers

    return tokenizers.AddedToken(content, special=True, normalized=False)


def _build(
    vocabulary: list[str], merges: list[tuple[str, ...]], special: list[str]
) -> tokenizers.Tokenizer:
    """The pipeline published with Qwen2; `special` take the ids after the vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab = {token: i for i, token in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))  # type: ignore[arg-type]
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_added(content) for content in special])
    if len(vocab) != len(vocabulary) or backend.get_vocab_size() != len(vocab) + len(special):
        raise ModelCorrupt("the tokenizer lists a token twice", _PULL_HINT)
    return backend


def _special_tokens(ids: dict[str, int]) -> SpecialTokens:
    """Ids by role, -1 where there is none; the mask is the first unused id."""
    roles = {role: ids.get(name, -1) for role, name in _ROLES.items()}
    unused = (i for name, i in ids.items() if name.startswith(_UNUSED))
    stop = tuple(roles[role] for role in _STOP_ROLES if roles[role] >= 0)
    return SpecialTokens(**roles, mask=min(unused, default=-1), stop=stop, chat=None)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: bytes that print are themselves, the others follow U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (b for b in range(256) if b not in printable)
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_SPACE = "▁"
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    import tokenizers

    return isinstance(backend.decoder, tokenizers.decoders.ByteLevel)


def _is_with_byte_fallback(backend: tokenizers.Tokenizer) -> bool:
    """Whether text is tokens that spell it, with `▁` for a space and nothing in front, as Gemma's.

    Tried on a text, since the parts of a pipeline cannot be looked into.
    """
    import tokenizers

    if not isinstance(backend.decoder, tokenizers.decoders.Sequence):
        return False
    tokens = backend.encode(_TRIED, add_special_tokens=False).tokens
    return b"".join(map(_bytes_of_text, tokens)) == _TRIED.encode()


_TRIED = " a  b\n\n\tc é\U0001f600"


def _bytes_of_level(content: str) -> bytes:
    return bytes(_BYTE_OF[c] for c in content)


def _bytes_of_text(content: str) -> bytes:
    if byte := _ONE_BYTE.fullmatch(content):
        return bytes([int(byte[1], 16)])
    return content.replace(_SPACE, " ").encode()
