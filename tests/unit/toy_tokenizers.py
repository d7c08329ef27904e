"""Tokenizers small enough to reason about: one token per byte, or greedy pieces of a list."""

from __future__ import annotations

import re

from blockdiff.config import SpecialTokens

_NAMES = (
    "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep",
    "end_of_text", "im_start", "im_end", "mask",
)  # fmt: skip


class ToyTokenizer:
    """Ids 0 to 255 are the bytes, then come `pieces`, then the special tokens.

    A line is encoded by itself, the longest piece first. Special tokens spell `<|name|>` in `show`.
    """

    def __init__(self, *pieces: str, without: tuple[str, ...] = ()) -> None:
        texts = [bytes([b]) for b in range(256)] + [piece.encode() for piece in pieces]
        self._texts = texts
        self._ids = {text: i for i, text in enumerate(texts)}
        self._longest = max(map(len, texts))
        ids = {name: -1 if name in without else len(texts) + i for i, name in enumerate(_NAMES)}
        self._names = {i: f"<|{name}|>" for name, i in ids.items() if i >= 0}
        self.special = SpecialTokens(**ids, stop=(ids["end_of_text"],))
        self.vocab_size = len(texts) + len(_NAMES)

    def encode(self, text: str) -> list[int]:
        ids = []
        for line in re.findall(rb"[^\n]*\n|[^\n]+", text.encode("utf-8", "replace")):
            while line:
                size = next(n for n in range(self._longest, 0, -1) if line[:n] in self._ids)
                ids.append(self._ids[line[:size]])
                line = line[size:]
        return ids

    def decode(self, ids: list[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return b"" if self.is_special(token) else self._texts[token]

    def is_special(self, token: int) -> bool:
        return token >= len(self._texts)

    def show(self, ids: tuple[int, ...]) -> str:
        """The text of a prompt, special tokens by name."""
        parts = (self._names[i].encode() if self.is_special(i) else self._texts[i] for i in ids)
        return b"".join(parts).decode("utf-8", "replace")
