"""Text counted without the tokenizer of the model, which only the backend has.

Pieces are about as long as the tokens of code models are, so that a budget in tokens holds roughly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from blockdiff.config import SpecialTokens

_PIECE = re.compile(r" ?[A-Za-z]{1,6}|\d{1,2}|\n+|[^\S\n]+|[!-/:-@\[-`{-~]{1,2}|.", re.DOTALL)


class Pieces:
    """A `PromptTokenizer`; each piece of text that it has met has an id."""

    special = SpecialTokens(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, ())

    def __init__(self) -> None:
        self.vocab_size = 0
        self._ids: dict[str, int] = {}
        self._bytes: list[bytes] = []

    def encode(self, text: str, /) -> list[int]:
        return [self._id(piece) for piece in _PIECE.findall(text)]

    def token_bytes(self, token: int, /) -> bytes:
        return self._bytes[token]

    def is_special(self, token: int, /) -> bool:
        return False

    def text(self, tokens: Sequence[int]) -> str:
        """The inverse of `encode`."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def _id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = self.vocab_size
            self.vocab_size += 1
            self._bytes.append(piece.encode("utf-8", "replace"))
        return self._ids[piece]
