"""From a checkpoint and what was prefilled before to a sampler on a prompt's longest known prefix.

What writes a request (`Infilling`, `MultiHole`, `Renoise`) is given the `Contexts` of an engine,
and no more of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion import personal
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.row_costs import CHEAP, INT8
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine import published
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.prefix_store import PrefixStore
from blockdiff.engine.published import PublishedSampler
from blockdiff.errors import ModelUnsupported, OutOfMemory, is_out_of_memory
from blockdiff.infill.healing import HealingConstraint
from blockdiff.infill.layout import Prompt
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Runner
from blockdiff.model.int8.quantized import is_quantized
from blockdiff.model.load.from_folder import DraftingConfig
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.syntax.grammars import give_way_by

R = TypeVar("R")

DRAFT_ROOM = 64
"""Positions of the cache for what a forward tries out behind the text."""

MAX_TOKENS = 256  # of a hole whose request leaves it open
_TOGETHER = 8  # requests of a batch: what all of them hold of the context stays in memory
_GIVEN_SECONDS = 0.003  # to a forward, for each millisecond that a parse takes
_THREADS = 4  # that parse and lay out; more requests wait for them


def never() -> bool:
    """The cancel flag of a request that nobody cancels."""
    return False


class Contexts:
    """Samplers on prefilled contexts, and what else a request needs of the engine it is written by.

    Attributes:
        checkpoint: the model and all that belongs to it.
        store: what was prefilled for earlier requests.
        speculation: how `verify` drafts here.
        open: contexts that requests are at work on.
        passing: held by a forward.
    """

    def __init__(
        self, checkpoint: Checkpoint, cache_bytes: int, runner: Runner | None = None
    ) -> None:
        """`runner` is for samplers that run forwards themselves."""
        self.checkpoint, self._runner = checkpoint, runner
        self.store = PrefixStore(self.empty_cache, cache_bytes)
        # In int8 a CPU pays for every row of a forward; elsewhere some more cost next to nothing.
        dear = is_quantized(checkpoint.model)
        self.speculation = Speculation(
            INT8 if dear else CHEAP, tables=checkpoint.tables, shared=dear
        )
        self.open = 0
        self._tables = personal.tables(checkpoint.name, checkpoint.tokenizer.vocab_size)
        self._adapters = personal.adapters(checkpoint.name, checkpoint.adapter_from)
        self.passing = threading.Lock()
        self._banned = _banned(checkpoint)
        self._aside = ThreadPoolExecutor(
            _THREADS, "blockdiff-aside", initializer=give_way_by, initargs=(self._give_way,)
        )

    @property
    def together(self) -> int:
        """How many requests may share forwards."""
        return _TOGETHER

    def has_room(self) -> bool:
        """Whether one more context may be worked on: each takes memory of its own."""
        return self.open < self.together

    def aside(self, call: Callable[[], R]) -> Future[R]:
        """Do what needs no forward in another thread, so that other requests go on."""
        return self._aside.submit(call)

    def _give_way(self) -> None:
        """In another thread: let a forward have Python's lock, of which its many calls need a
        little each."""
        if self.passing.acquire(timeout=_GIVEN_SECONDS):
            self.passing.release()

    @contextmanager
    def behind(
        self, tokens: Sequence[int], decoding: DecodingConfig, heal: str = ""
    ) -> Iterator[Sampler]:
        """A sampler for bare tokens, without hole and seams: what benchmarks time.

        What it writes begins with the text of `heal`.

        Raises ModelUnsupported for a checkpoint that is a diffusion model itself.
        """
        with self.context(Prompt(tuple(tokens), heal, 0), decoding, never) as sampler:
            if not isinstance(sampler, Sampler):
                raise ModelUnsupported(f"{self.checkpoint.name} does not write from left to right")
            yield sampler

    @contextmanager
    def context(
        self,
        prompt: Prompt,
        decoding: DecodingConfig,
        cancelled: Callable[[], bool],
        banned: Sequence[int] = (),
        path: str = "",
    ) -> Iterator[Sampler | PublishedSampler]:
        """A sampler on the longest known prefix of a prompt; what it commits of it is kept.

        It writes no token that is `banned`, and may draft from what was counted around `path`.
        """
        room = decoding.max_tokens + DRAFT_ROOM
        try:
            cache = self.store.take(prompt.tokens, room)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.store.clear()
            cache = self._retaken(prompt, room)
        self.open += 1
        keep = True
        try:
            yield self.sampler(cache, prompt, decoding, cancelled, banned, path)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.store.clear()
            keep = False
            raise _out_of_memory(error) from error
        finally:
            self.open -= 1
            if keep:
                if prompt.lent is not None:  # what stands from there on is not exact
                    cache.truncate(min(cache.length, prompt.lent.start))
                self.store.put(prompt.tokens[: cache.length], cache)
            else:  # kept, it would leave the next request as little memory as this one had
                self.store.discard(cache)

    def _retaken(self, prompt: Prompt, room: int) -> BlockCache:
        """A cache once everything else is forgotten. Raises OutOfMemory."""
        try:
            return self.store.take(prompt.tokens, room)
        except Exception as error:
            raise (_out_of_memory(error) if is_out_of_memory(error) else error) from error

    def sampler(
        self,
        cache: BlockCache,
        prompt: Prompt,
        decoding: DecodingConfig,
        cancelled: Callable[[], bool],
        banned: Sequence[int] = (),
        path: str = "",
    ) -> Sampler | PublishedSampler:
        point, tokenizer = self.checkpoint, self.checkpoint.tokenizer
        chooser = Chooser(
            {*self._banned, *banned}, decoding.temperature, decoding.top_p, decoding.seed
        )
        constraint = _Healing(tokenizer, prompt.heal) if prompt.heal else None
        if point.kind is not None and published.is_diffusion(point.kind):
            return published.sampler(
                point.model,
                point.kind,
                tokenizer,
                cache=cache,
                prompt=prompt,
                chooser=chooser,
                decoding=decoding,
                cancelled=cancelled,
                constraint=constraint,
                runner=self._runner,
            )
        return Sampler(
            model=point.transformer,
            adapter=self._adapter_for(path, decoding),
            cache=cache,
            chooser=chooser,
            stop=frozenset(tokenizer.special.stop),
            config=decoding,
            cancelled=cancelled,
            constraint=constraint,
            speculation=self._drafting_for(path, decoding),
            company=lambda: self.open - 1,
            block_drafter=point.drafter,
            own_mask=published.own_mask(point.kind),
        )

    # Where tokens are sampled, a seed says what is drawn, whatever was made of a workspace since.

    def _drafting_for(self, path: str, decoding: DecodingConfig) -> Speculation:
        """With what was counted of the workspace of a file, for greedy decoding."""
        own = self._tables.of(path) if decoding.temperature == 0 else None
        if own is None:
            return self.speculation
        return replace(self.speculation, tables=(*self.speculation.tables, own))

    def _adapter_for(self, path: str, decoding: DecodingConfig) -> GatedAdapter | None:
        """The one that was trained on the workspace of a file, for greedy decoding."""
        shipped = self.checkpoint.adapter
        if shipped is None or decoding.temperature > 0:
            return shipped
        return self._adapters.of(path) or shipped

    def empty_cache(self) -> BlockCache:
        model, drafter = self.checkpoint.model, self.checkpoint.drafter
        kept = drafter.cache() if drafter is not None else None
        return BlockCache(model.config, dtype=model.dtype, device=model.device, companion=kept)


def resolved(
    decoding: DecodingConfig, drafting: DraftingConfig, max_tokens: int = MAX_TOKENS
) -> DecodingConfig:
    """Fill in what a request leaves to the checkpoint, and `max_tokens` where it is open."""
    decoding = replace(decoding, max_tokens=decoding.max_tokens or max_tokens)
    if decoding.block_size:
        return decoding
    verify = decoding.mode is Mode.VERIFY
    return replace(decoding, block_size=drafting.draft_length if verify else drafting.block_size)


class _Healing:
    """Token healing as the sampler's constraint on ids."""

    def __init__(self, tokenizer: Tokenizer, heal: str) -> None:
        self._tokenizer, self._healing = tokenizer, HealingConstraint(tokenizer, heal)
        self._size = len(heal.encode())

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        written = b""
        for token in so_far:
            if len(written) >= self._size:
                break  # what follows is free
            written += self._tokenizer.token_bytes(token)
        return self._healing.allowed(written)


def _banned(point: Checkpoint) -> list[int]:
    """Ids that may never be written: special ones that do not end the middle, and unused rows."""
    special = point.tokenizer.is_special
    may = {*point.tokenizer.special.stop, *published.unbanned(point.kind)}
    return [i for i in range(point.model.config.vocab_size) if special(i) and i not in may]


def _out_of_memory(error: Exception) -> OutOfMemory:
    return OutOfMemory(
        f"not enough memory for this request: {str(error).splitlines()[0]}",
        "lower --context-tokens or --max-tokens",
    )
