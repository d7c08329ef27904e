"""What counted code says of the next token: a term for the token before it on every draft.

The adapter predicts all masks of a draft at once and does not know which tokens it will have put
before a mask. A table of counted 2- to 4-grams knows just that (DSpark, arXiv 2607.05147, learns
such a term). It holds, for up to three tokens before, tokens that are likely behind them; a draft
is chosen from left to right by the adapter's logits plus a share of the table's log-probabilities.

The table is hashed: an entry is a fingerprint of the tokens before, the token behind them and its
log-probability in steps of a quarter nat, 32 bits together. A wrong match costs one wrong draft,
which `verify` refuses, and never a wrong text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from blockdiff.errors import ModelCorrupt
from blockdiff.system import private

ORDERS = (1, 2, 3)
"""Tokens before; an n-gram has one more."""
FLOOR = -7.75
"""Nats; what a table does not list is taken to be that unlikely."""
STEP = 0.25  # nats between two values that an entry can hold
TOKEN_BITS, VALUE_BITS, PRINT_BITS = 18, 5, 9
_PER_BUCKET = 8  # entries
_BACKOFF = 1.0  # nats off, for each longer context that is known without the token
_FORMAT, _VERSION = "blockdiff-ngrams", "1"
_NOTHING: Mapping[str, str] = MappingProxyType({})
_MULTIPLIER = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1

Entries = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]


def hash_of(context: Sequence[int]) -> int:
    """64 bits of one context, the token right before last; `hashes` has many at once."""
    value = len(context)
    for token in context:
        value = ((value ^ token) * _MULTIPLIER) & _WORD
        value ^= value >> 29
    return value


def hashes(contexts: npt.NDArray[np.integer]) -> Hashes:
    """The same for contexts (n, order), (n,)."""
    value = np.full(len(contexts), contexts.shape[1], np.uint64)
    for column in contexts.T:
        value = (value ^ column.astype(np.uint64)) * np.uint64(_MULTIPLIER)
        value ^= value >> np.uint64(29)
    return value


@dataclass(frozen=True, slots=True)
class NgramTable:
    """Likely tokens behind one to three others.

    Attributes:
        entries: (n,) uint32, those of a bucket side by side: print, token, value.
        starts: (buckets + 1,) where each bucket begins; a power of two of them.
        vocab_size: of the tokenizer whose tokens were counted.
    """

    entries: Entries
    starts: npt.NDArray[np.uint32]
    vocab_size: int

    @classmethod
    def pack(
        cls, contexts: Hashes, tokens: npt.NDArray[np.integer], nats: npt.NDArray[np.floating],
        vocab_size: int,
    ) -> NgramTable:  # fmt: skip
        """A table of (context hash, token, log-probability) triples, each (n,), in any order.

        Raises ValueError where the tokens need more bits than an entry has.
        """
        if vocab_size > 1 << TOKEN_BITS:
            raise ValueError(f"{vocab_size} tokens do not fit into {TOKEN_BITS} bits")
        bucket_bits = max(8, (len(tokens) // _PER_BUCKET).bit_length())
        bucket = (contexts >> np.uint64(64 - bucket_bits)).astype(np.int64)
        value = np.clip(np.rint((nats - FLOOR) / STEP), 0, (1 << VALUE_BITS) - 1)
        entries = (
            _prints(contexts).astype(np.uint32) << np.uint32(TOKEN_BITS + VALUE_BITS)
            | tokens.astype(np.uint32) << np.uint32(VALUE_BITS)
            | value.astype(np.uint32)
        )
        order = np.lexsort((entries, bucket))
        starts = np.zeros((1 << bucket_bits) + 1, np.uint32)
        np.cumsum(np.bincount(bucket, minlength=1 << bucket_bits), out=starts[1:])
        return cls(entries[order], starts, vocab_size)

    def behind(self, context: Sequence[int]) -> tuple[list[int], list[float]]:
        """Tokens that are likely behind a context, of which the last three count.

        Returns:
            (tokens, how many nats each is above `FLOOR`); the longest context that knows a token
            says how likely it is.
        """
        found: dict[int, float] = {}
        longer = 0
        for order in reversed(ORDERS):
            if order > len(context):
                continue
            known = self._bucket(hash_of(context[len(context) - order :]))
            for entry in known:
                token = (entry >> VALUE_BITS) & ((1 << TOKEN_BITS) - 1)
                above = (entry & ((1 << VALUE_BITS) - 1)) * STEP - _BACKOFF * longer
                if token not in found and above > 0.0:
                    found[token] = above
            longer += bool(known)
        return list(found), list(found.values())

    def _bucket(self, context: int) -> list[int]:
        bucket = context >> (64 - (len(self.starts) - 2).bit_length())
        inside = self.entries[self.starts[bucket] : self.starts[bucket + 1]]
        wanted = (context >> 8) & ((1 << PRINT_BITS) - 1)
        kept: list[int] = inside[inside >> (TOKEN_BITS + VALUE_BITS) == wanted].tolist()
        return kept

    # --- files ---------------------------------------------------------------------------------

    def save(self, path: Path, mode: int = 0o644, about: Mapping[str, str] = _NOTHING) -> None:
        """Write as safetensors: entries, and how many each bucket holds. Raises OSError.

        In one step, with `mode` from the first byte on: all of it is there, or nothing. `about`
        goes into its header, for `about_file`.
        """
        from safetensors.numpy import save

        data = save(
            {"entries": self.entries, "sizes": np.diff(self.starts).astype(np.uint16)},
            {**about, "format": _FORMAT, "version": _VERSION, "vocab_size": str(self.vocab_size)},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        private.write(path, data, mode)

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> NgramTable:
        """Read what `save` wrote. Raises ModelCorrupt: damaged, or of another vocabulary."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as stored:
                about = stored.metadata() or {}
                entries, sizes = stored.get_tensor("entries"), stored.get_tensor("sizes")
        except (OSError, SafetensorError) as error:
            raise ModelCorrupt(f"{path}: {error}") from error
        _check_format(about, path)
        if about.get("vocab_size") != str(vocab_size):
            raise ModelCorrupt(
                f"{path}: counted with {about.get('vocab_size')} tokens, the model has {vocab_size}"
            )
        starts = np.zeros(len(sizes) + 1, np.uint32)
        np.cumsum(sizes, out=starts[1:])
        power = len(sizes) > 1 and not len(sizes) & (len(sizes) - 1)
        right = entries.dtype == np.uint32 and sizes.dtype == np.uint16 and entries.ndim == 1
        if not (power and right and int(starts[-1]) == len(entries)):
            raise ModelCorrupt(f"{path}: its sizes do not fit")
        tokens = (entries >> np.uint32(VALUE_BITS)) & np.uint32((1 << TOKEN_BITS) - 1)
        if len(entries) and int(tokens.max()) >= vocab_size:
            raise ModelCorrupt(f"{path}: it holds tokens that the model does not have")
        return cls(entries, starts, vocab_size)


def about_file(path: Path) -> dict[str, str]:
    """What a table's header says of it, without its entries. Raises ModelCorrupt."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as stored:
            about = stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelCorrupt(f"{path}: {error}") from error
    _check_format(about, path)
    return about


def _check_format(about: Mapping[str, str], path: Path) -> None:
    if (about.get("format"), about.get("version")) != (_FORMAT, _VERSION):
        raise ModelCorrupt(f"{path}: no table of n-grams of version {_VERSION}")


def _prints(contexts: Hashes) -> Hashes:
    return (contexts >> np.uint64(8)) & np.uint64((1 << PRINT_BITS) - 1)
