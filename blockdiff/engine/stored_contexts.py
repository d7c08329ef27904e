"""Keys and values of contexts on disk, so that an engine starts where the one before it ended.

    <cache>/contexts/<model>/<tokens>    one block: 32 positions of a context

`<model>` is a digest of the weights' identity and of what this engine computes of a few fixed
tokens, bit for bit: other weights, another kernel or number format have another folder. `<tokens>`
is a digest of all tokens from the first to the block's last, so that of a file that changed all
that stands before the change is found. What a file holds is (layers, 2, 1, kv_heads, 32, head_dim)
in the cache's own dtype.

From keys and values a text can be guessed: they are for their owner alone to read. What cannot be
used is said in the log and encoded anew.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blockdiff.errors import BlockdiffError
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, Runner
from blockdiff.system.blobs import BlobFolder

BLOCK = 32
"""Positions of a file: fewer lose less where a text changed, more are found and read faster."""

_FORMAT = 1  # of the files
_PROBED = 16  # positions that tell one engine's arithmetic from another's

Kept = tuple[Sequence[int], BlockCache]
"""A cache and the tokens of its committed positions."""

_log = logging.getLogger(__name__)


class StoredContexts:
    """Committed caches of one model in files; those of all models share a budget in bytes, by
    which the least recently used go.

    Only for models in which a token's keys and values depend on nothing behind it. Not for use from
    several threads.
    """

    def __init__(self, root: Path, model: str, like: BlockCache, budget: int) -> None:
        """`root` is the folder of all models, `model` the digest of this one, and `like` a cache of
        it."""
        layers, pair, batch, heads, _, width = like.committed_all().shape
        self._shape = (layers, pair, batch, heads, BLOCK, width)
        self._dtype, self._device = like.committed_all().dtype, like.committed_all().device
        self._size = math.prod(self._shape) * self._dtype.itemsize
        self._files = BlobFolder(root, model, budget)
        self._said: set[str] = set()

    @torch.inference_mode()
    def restore(self, tokens: Sequence[int], cache: BlockCache) -> None:
        """Commit to `cache`, which holds a prefix of `tokens`, what is stored of the next ones."""
        whole = cache.length // BLOCK * BLOCK
        used = []
        for name, end in _names(tokens, whole):
            if (block := self._read(name)) is None:
                break
            new = end - cache.length
            cache.append_all(block[..., BLOCK - new :, :].to(self._device))
            cache.commit(new)
            used.append(name)
        self._files.use(used)

    def storing(self, kept: Iterable[Kept]) -> Iterator[None]:
        """Write what is not stored yet, the first ones first, a block at most from one step to the
        next; no step waits for the disk. The caches must not change while this goes on."""
        try:
            yield from self._files.writing(_blobs(kept))
        except (OSError, BlockdiffError) as error:
            self._say("contexts are not stored", error)

    def _read(self, name: str) -> Tensor | None:
        try:
            data = self._files.read(name, self._size)
        except (OSError, BlockdiffError) as error:
            self._say("a stored context is not used", error)
            return None
        return torch.frombuffer(data, dtype=self._dtype).view(self._shape) if data else None

    def _say(self, what: str, error: OSError | BlockdiffError) -> None:
        """In the log, each thing once."""
        said = f"{what}: {getattr(error, 'message', error)}"
        if said not in self._said:
            self._said.add(said)
            _log.warning("%s", said)


def model_digest(weights: str, cache: BlockCache, run: Runner, vocab_size: int) -> str:
    """Another one for each engine whose keys and values are others: `weights` says which weights
    they are, and a few tokens are encoded in `cache`, an empty one."""
    ids = torch.arange(_PROBED)[None] * vocab_size // _PROBED
    positions, mask = torch.arange(_PROBED)[None], masks.causal(0, _PROBED)
    run([Forward(ids, positions, mask, cache, wanted=None)])
    cache.commit(_PROBED)
    computed = cache.committed_all()
    said = (_FORMAT, BLOCK, weights, computed.dtype, computed.device.type, tuple(computed.shape))
    digest = hashlib.sha256(repr(said).encode())
    digest.update(_bytes(computed))
    return digest.hexdigest()[:32]


def _blobs(kept: Iterable[Kept]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    seen = set()
    for tokens, cache in kept:
        for name, end in _names(tokens, 0):
            if name not in seen:
                seen.add(name)
                yield name, partial(_block, cache, end)


def _block(cache: BlockCache, end: int) -> bytes:
    return _bytes(cache.committed_all()[..., end - BLOCK : end, :])


def _bytes(values: Tensor) -> bytes:
    return values.to("cpu").contiguous().view(torch.uint8).numpy().tobytes()


def _names(tokens: Sequence[int], start: int) -> Iterator[tuple[str, int]]:
    """The name of each whole block from `start` on, and where it ends."""
    digest = hashlib.sha256(_spelled(tokens[:start]))
    for end in range(start + BLOCK, len(tokens) + 1, BLOCK):
        digest.update(_spelled(tokens[end - BLOCK : end]))
        yield digest.hexdigest(), end


def _spelled(tokens: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)
