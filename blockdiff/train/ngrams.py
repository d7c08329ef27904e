"""Count the n-grams of source text, and keep those that say most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from blockdiff.diffusion.ngrams import FLOOR, ORDERS, Hashes, NgramTable, hashes
from blockdiff.errors import InputFileError
from blockdiff.train.jsonl import read_jsonl

_DISCOUNT = 0.5  # of every count, for what was not seen (absolute discounting)
_SEPARATOR = -1
_MOST_BEHIND = 48  # tokens that are listed behind one context
_MIXER = np.uint64(0x9E3779B97F4A7C15)

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def stream(documents: Iterable[Sequence[int] | Ids]) -> Ids:
    """All documents' tokens one after the other; no n-gram spans two of them."""
    parts = [part for d in documents for part in (np.asarray(d, np.int32), _END)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


_END = np.array([_SEPARATOR], np.int32)


def count(
    tokens: Ids, *, vocab_size: int, entries: int, least: int = 2, per_document: bool = True
) -> NgramTable:
    """The table of the `entries` n-grams that say most, of those seen `least` times.

    The probability behind a longer context is smoothed by that behind the next shorter one. What an
    n-gram says is its count times what it changes of the log-probability that would be there
    without it (Stolcke 1998, without the change of the others).

    Args:
        tokens: of all documents, see `stream`.
        per_document: an n-gram counts once in a document, however often it stands there: what one
            repeats says nothing of others, and its own n-grams know it better.
    """
    document = np.cumsum(tokens == _SEPARATOR, dtype=np.uint32)
    kept: list[list[npt.NDArray[Any]]] = [
        [np.zeros(0, kind)] for kind in (np.uint64, np.int32, np.float64, np.float64)
    ]
    shorter: tuple[Hashes, Floats] | None = None
    for n in ORDERS:
        if len(tokens) <= n:
            break
        window = np.lib.stride_tricks.sliding_window_view(tokens, n + 1)
        at = np.flatnonzero((window >= 0).all(1)).astype(np.int32)
        key = _with_token(hashes(window[at, :n]), window[at, n])
        if per_document:
            _, once = np.unique(key ^ (document[at] * _MIXER), return_index=True)
            at, key = at[once], key[once]
            del once  # millions, as all here: what is done with goes at once
        by_key, first, seen = np.unique(key, return_index=True, return_counts=True)
        at = at[first]
        del key, first
        context, behind = hashes(window[at, :n]), window[at, n]
        _, which, kinds = np.unique(context, return_inverse=True, return_counts=True)
        total = np.bincount(which, seen)
        share = (seen - _DISCOUNT) / total[which]
        rest = _DISCOUNT * kinds[which] / total[which]
        del which
        if shorter is None:
            below = np.full(len(at), 1.0 / vocab_size)
        else:
            tail = _with_token(hashes(window[at, 1:n]), behind)
            below = shorter[1][np.searchsorted(shorter[0], tail)]
            del tail
        share += rest * below
        nats, shorter = np.log(share), (by_key, share)
        gain = seen * (nats - np.maximum(np.log(below), FLOOR))
        good = (seen >= least) & (nats > FLOOR) & (gain > 0)
        for column, values in zip(kept, (context, behind, nats, gain), strict=True):
            column.append(values[good])
    contexts, behind, nats, gains = (_joined(column) for column in kept)
    if len(gains) > entries:
        best = np.argpartition(-gains, entries)[:entries]
        contexts, behind, nats = contexts[best], behind[best], nats[best]
    order = np.lexsort((-nats, contexts))
    sorted_contexts = contexts[order]
    likeliest = np.arange(len(order)) - np.searchsorted(sorted_contexts, sorted_contexts)
    order = order[likeliest < _MOST_BEHIND]
    contexts, behind, nats = contexts[order], behind[order], nats[order]
    return NgramTable.pack(contexts, behind, nats, vocab_size)


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One array of them, which are let go."""
    made = np.concatenate(parts)
    parts.clear()
    return made


def _with_token(context: Hashes, token: Ids) -> Hashes:
    mixed = (context ^ token.astype(np.uint64)) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


class TextEncoder(Protocol):
    """What is needed of a tokenizer."""

    vocab_size: int

    def encode(self, text: str) -> list[int]: ...


def count_texts(
    texts: Sequence[str], tokenizer: TextEncoder, entries: int, progress: Callable[[int, int], None]
) -> tuple[NgramTable, int]:
    """The table of texts, each a document, and how many tokens they have.

    Args:
        progress: told how many texts are encoded, of how many; the counting itself comes then.

    Raises InputFileError where there is nothing to count.
    """
    tokens: list[Ids] = []
    for done, text in enumerate(texts, 1):
        tokens.append(np.asarray(tokenizer.encode(text), np.int32))
        progress(done, len(texts))
    total = sum(map(len, tokens))
    if not total:
        raise InputFileError("there is no text to count", "name a corpus with files for training")
    return count(stream(tokens), vocab_size=tokenizer.vocab_size, entries=entries), total


def texts_of(files: Iterable[Path]) -> frozenset[str]:
    """The texts of held-out files. Raises InputFileError."""
    found: set[str] = set()
    for file in files:
        for row in read_jsonl(file):
            if not isinstance(text := row.get("text"), str):
                raise InputFileError(f"{file} holds no held-out files", "see eval held-out")
            found.add(text)
    return frozenset(found)
