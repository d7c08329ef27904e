"""From documents to token sequences: plain windows of code, and infills as the base knows them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from blockdiff.config import SpecialTokens


class TextCodec(Protocol):
    """What is needed of a tokenizer."""

    special: SpecialTokens

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class HasText(Protocol):
    """What is needed of a document."""

    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Sequence:
    """Clean tokens of one training sequence.

    Attributes:
        tokens: ids; from `real` on they are padding, so that blocks may begin near the end.
        first_target: noisy blocks start here or later.
        real: tokens that are text or its end token.
        n_bytes: UTF-8 bytes of the tokens from `first_target` to `real`.
    """

    tokens: list[int]
    first_target: int
    real: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """How documents become sequences.

    Attributes:
        length: tokens of a sequence.
        infill_share: share laid out as prefix, suffix, middle.
        padding: end tokens behind an infill; the block size, so that short middles are drafted.
    """

    length: int = 192
    infill_share: float = 0.4
    padding: int = 8


def sequences(
    documents: Iterable[HasText], tokenizer: TextCodec, config: SequenceConfig, rng: random.Random
) -> Iterator[Sequence]:
    """One sequence from each document that is long enough, at a random place."""
    for document in documents:
        if rng.random() < config.infill_share:
            made = _infill(document.text, tokenizer, config, rng)
        else:
            made = _plain(document.text, tokenizer, config.length, rng)
        if made is not None:
            yield made


def _window(text: str, length: int, rng: random.Random) -> str:
    """About `length` tokens' worth of characters from a random line start."""
    size = length * 5
    if len(text) <= size:
        return text
    start = text.find("\n", rng.randrange(len(text) - size)) + 1
    return text[start : start + size]


def _plain(text: str, tokenizer: TextCodec, length: int, rng: random.Random) -> Sequence | None:
    tokens = tokenizer.encode(_window(text, length, rng))[:length]
    if len(tokens) < length // 4:
        return None
    first = min(16, len(tokens) // 2)  # nobody drafts from nothing
    n_bytes = len(tokenizer.decode(tokens[first:]).encode())
    return Sequence(tokens, first, len(tokens), n_bytes)


def _infill(
    text: str, tokenizer: TextCodec, config: SequenceConfig, rng: random.Random
) -> Sequence | None:
    """`<prefix> P <suffix> S <middle> M <end>`, the middle a run of lines or of characters."""
    length = config.length
    window = _window(text, length, rng)
    if len(window) < 80:
        return None
    start = rng.randrange(len(window) // 8, len(window) // 2)
    end = min(start + rng.randint(20, max(40, len(window) // 3)), len(window))
    if rng.random() < 0.6:
        start = window.rfind("\n", 0, start) + 1
        end = window.find("\n", end)
        end = len(window) if end < 0 else end
    prefix, middle, suffix = window[:start], window[start:end], window[end:]
    special = tokenizer.special
    body = tokenizer.encode(middle) + [special.end_of_text]
    room = length - len(body) - 3
    if room < 32 or len(body) < 3:
        return None
    before, after = tokenizer.encode(prefix), tokenizer.encode(suffix)
    keep_after = min(len(after), max(room // 3, room - len(before)))
    before = before[-(room - keep_after) :]
    context = [special.fim_prefix, *before, special.fim_suffix, *after[:keep_after]]
    context.append(special.fim_middle)
    padding = [special.end_of_text] * config.padding
    real = len(context) + len(body)
    return Sequence(context + body + padding, len(context), real, len(middle.encode()))
