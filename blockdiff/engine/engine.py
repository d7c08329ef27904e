"""The engine: one model, one device, requests in, events out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from blockdiff import store
from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.native import NativeSampler
from blockdiff.diffusion.sampler import Forwards, Sampler, Speculation
from blockdiff.engine import native_diffusion, rewriting
from blockdiff.engine.batch import Batch, Steps, Told, WarmingSteps
from blockdiff.engine.devices import choose_device, choose_dtype, choose_runner
from blockdiff.engine.infilling import DRAFT_ROOM, Infilling, resolved
from blockdiff.engine.loaded import Checkpoint, quiet
from blockdiff.engine.prefix_store import DEFAULT_BYTES, PrefixStore
from blockdiff.engine.several import Several
from blockdiff.engine.speed import MovingRate
from blockdiff.errors import ModelUnsupported, OutOfMemory
from blockdiff.grammars import give_way_by
from blockdiff.infill.healing import HealingConstraint
from blockdiff.infill.layout import Prompt, build_prompt
from blockdiff.infill.rewrite import (
    Frame,
)
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.checkpoint import (
    DraftingConfig,
    Progress,
)
from blockdiff.model.forward import Forward, drive, finish
from blockdiff.model.quantized import is_quantized
from blockdiff.model.tokenizer import Tokenizer
from blockdiff.model.weight_only import is_weight_only
from blockdiff.types import (
    Event,
    Finished,
    InfillRequest,
    Request,
    RewriteRequest,
    Unread,
    Warmed,
)

K = TypeVar("K")
R = TypeVar("R")

_TOGETHER = 8  # requests of a batch: what all of them hold of the context stays in memory
_GIVEN_SECONDS = 0.003  # to a forward, for each millisecond that a parse takes
_THREADS = 4  # that parse and lay out; more requests wait for them
_MEASURED_LENGTHS = (8, 8 + 64)  # tokens: to begin with, and then for the speed


def never() -> bool:
    """The cancel flag of a request that nobody cancels."""
    return False


class Engine:
    """Serves requests one by one, or several by a `Batch`; what one encoded is reused by the next.

    Attributes:
        name: of the model.
        device, dtype: where and how it runs.
    """

    def __init__(self, checkpoint: Checkpoint, cache_bytes: int = DEFAULT_BYTES) -> None:
        """`cache_bytes` of encoded context are kept for later requests."""
        self._checkpoint = checkpoint
        self.name = checkpoint.name
        self.device = str(checkpoint.model.device)
        floats = str(checkpoint.model.dtype).removeprefix("torch.")
        packed = is_quantized(checkpoint.model)
        self.dtype = "int8" if packed or is_weight_only(checkpoint.model) else floats
        self._store = PrefixStore(self._empty_cache, cache_bytes)
        self._speed = MovingRate()
        self._banned = _banned(checkpoint)
        self._runner = choose_runner(checkpoint.model, checkpoint.adapter)
        # In int8 a CPU pays for every row of a forward; elsewhere some more cost next to nothing.
        cheap_rows = not packed
        self._speculation = (
            Speculation(True, lookup=16) if cheap_rows else Speculation(False, lookup=8, crowded=2)
        )
        self._passing = threading.Lock()  # held by a forward
        self._aside = ThreadPoolExecutor(
            _THREADS, "blockdiff-aside", initializer=give_way_by, initargs=(self._give_way,)
        )
        self._open = 0  # contexts that requests are at work on

    @classmethod
    def load(
        cls,
        model: str = store.DEFAULT_MODEL,
        *,
        device: str = "auto",
        dtype: str = "auto",
        cache_bytes: int = DEFAULT_BYTES,
        progress: Progress = quiet,
    ) -> Engine:
        """Load a model; a GGUF base is unpacked into the cache folder on first use.

        Raises ModelNotFound, ModelCorrupt, ModelUnsupported, DeviceUnavailable, OutOfMemory,
        DiskFull.
        """
        where = choose_device(device)
        precision = choose_dtype(dtype, where)
        engine = cls(Checkpoint.load(model, where, precision, progress), cache_bytes)
        engine._measure()
        return engine

    @property
    def context_speed(self) -> float:
        """Context tokens encoded per second, lately; 0.0 while unknown."""
        return self._speed.per_second

    @property
    def together(self) -> int:
        """How many requests may share its forwards."""
        return _TOGETHER

    def has_room(self) -> bool:
        """Whether one more context may be worked on: each takes memory of its own."""
        return self._open < self.together

    @property
    def tokenizer(self) -> Tokenizer:
        return self._checkpoint.tokenizer

    @property
    def drafting(self) -> DraftingConfig:
        """How the checkpoint drafts here."""
        return self._checkpoint.drafting

    @property
    def drafts(self) -> bool:
        """Whether it has an adapter: modes other than `ar`."""
        return self._checkpoint.adapter is not None

    def forget(self) -> None:
        """Drop all encoded contexts."""
        self._store.clear()

    @property
    def cache_entries(self) -> int:
        """How many encoded contexts are kept."""
        return self._store.entries

    @property
    def cache_bytes(self) -> int:
        """What they take."""
        return self._store.nbytes

    def infill(
        self, request: InfillRequest, cancelled: Callable[[], bool] = never
    ) -> Iterator[Event]:
        """Yield refinements of the hole, then exactly one `Finished`; of several, one `Filled`.

        `cancelled` is asked between any two forwards. Raises Cancelled, InvalidRequest,
        ModelUnsupported, OutOfMemory; whatever happens, the next request starts clean.
        """
        return _read(drive(self._filling(request, cancelled), self.forward))

    def rewrite(
        self, request: RewriteRequest, cancelled: Callable[[], bool] = never
    ) -> Iterator[Event]:
        """Yield refinements of the whole span, then exactly one `Finished`.

        By instruction where there is one, otherwise by re-noising. `cancelled` and what is raised
        are as for `infill`; ModelUnsupported also for a checkpoint that cannot chat, or has no
        adapter to denoise with.
        """
        return _read(drive(self._rewriting(request, cancelled), self.forward))

    def warm(self, request: InfillRequest, cancelled: Callable[[], bool] = never) -> Warmed:
        """Encode the context of a request that is expected, write nothing.

        Raises as `infill`. What is encoded when it is cancelled stays usable.
        """
        return finish(self._warming(request, cancelled), self.forward)

    def steps(
        self, request: Request, cancelled: Callable[[], bool], *, ahead: bool = False
    ) -> Steps | WarmingSteps:
        """What `infill`, `rewrite` and, with `ahead`, `warm` do, for a `Batch` to drive.

        Raises as they do, here or later.
        """
        if isinstance(request, RewriteRequest):
            return self._rewriting(request, cancelled)
        if ahead:
            return _ending(self._warming(request, cancelled))
        return self._filling(request, cancelled)

    def aside(self, call: Callable[[], R]) -> Future[R]:
        """Do what needs no forward in another thread, so that other requests go on."""
        return self._aside.submit(call)

    def _give_way(self) -> None:
        """In another thread: let a forward have Python's lock, of which its many calls need a
        little each."""
        if self._passing.acquire(timeout=_GIVEN_SECONDS):
            self._passing.release()

    def batch(self, tell: Callable[[K, Told], None]) -> Batch[K]:
        """Where requests share forwards; see `Batch` for what `tell` is told."""
        return Batch(self.forward, tell)

    def forward(self, waiting: Sequence[Forward]) -> list[Tensor]:
        """Run forwards together, see `model.forward.run`; from those alone the speed is taken."""
        began = time.monotonic()
        with self._passing:
            answers = self._runner(waiting)
        if len(waiting) == 1 and waiting[0].wanted is None:
            if self._checkpoint.model.device.type == "cuda":
                torch.cuda.synchronize(self._checkpoint.model.device)
            self._speed.add(waiting[0].size, time.monotonic() - began)
        return answers

    def _filling(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Steps:
        kind = Several if request.also else Infilling
        return kind(self, request, cancelled).steps()

    def _rewriting(self, request: RewriteRequest, cancelled: Callable[[], bool]) -> Steps:
        frame = Frame.of(request.document, request.span)
        inner = request.infill(frame.hole)
        writer: Infilling | rewriting.Renoise
        if request.instruction.strip():
            writer = Infilling(self, inner, cancelled, request.instruction)
        else:
            writer = rewriting.Renoise(self, inner, request.strength, cancelled)
        writer.drafts.before, writer.drafts.after = frame.before, frame.after
        return _framed(frame, writer.steps())

    def _warming(
        self, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> Forwards[Warmed]:
        began = time.monotonic()
        point = self._checkpoint
        request = native_diffusion.adapted(request, point.kind, instructed=False)
        prompt = build_prompt(request, point.tokenizer, point.drafting.layout)
        decoding = resolved(request.decoding, point.drafting)
        with self._context(prompt, decoding, cancelled) as sampler:
            cached = sampler.cache.length
            yield from sampler.encoding(prompt.tokens)
        elapsed = 1e3 * (time.monotonic() - began)
        return Warmed(request.request_id, len(prompt.tokens), cached, elapsed)

    @contextmanager
    def behind(
        self, tokens: Sequence[int], decoding: DecodingConfig, heal: str = ""
    ) -> Iterator[Sampler]:
        """A sampler for bare tokens, without hole and seams: what benchmarks time.

        What it writes begins with the text of `heal`.

        Raises ModelUnsupported for a checkpoint that is a diffusion model itself.
        """
        with self._context(Prompt(tuple(tokens), heal, 0), decoding, never) as sampler:
            if not isinstance(sampler, Sampler):
                raise ModelUnsupported(f"{self.name} does not write from left to right")
            yield sampler

    @contextmanager
    def _context(
        self,
        prompt: Prompt,
        decoding: DecodingConfig,
        cancelled: Callable[[], bool],
        banned: Sequence[int] = (),
    ) -> Iterator[Sampler | NativeSampler]:
        """A sampler on the longest known prefix of a prompt; what it commits of it is kept.

        It writes no token that is `banned`.
        """
        cache = self._store.take(prompt.tokens, room=decoding.max_tokens + DRAFT_ROOM)
        self._open += 1
        try:
            yield self._sampler(cache, prompt, decoding, cancelled, banned)
        except torch.OutOfMemoryError as error:
            self._store.clear()
            raise _out_of_memory(error) from error
        finally:
            self._open -= 1
            self._store.put(prompt.tokens[: cache.length], cache)

    def _sampler(
        self,
        cache: BlockCache,
        prompt: Prompt,
        decoding: DecodingConfig,
        cancelled: Callable[[], bool],
        banned: Sequence[int] = (),
    ) -> Sampler | NativeSampler:
        point, tokenizer = self._checkpoint, self._checkpoint.tokenizer
        chooser = Chooser(
            {*self._banned, *banned}, decoding.temperature, decoding.top_p, decoding.seed
        )
        constraint = _Healing(tokenizer, prompt.heal) if prompt.heal else None
        if point.kind is not None and native_diffusion.is_native(point.kind):
            return native_diffusion.sampler(
                point.model,
                point.kind,
                tokenizer,
                cache=cache,
                prompt=prompt,
                chooser=chooser,
                decoding=decoding,
                cancelled=cancelled,
                constraint=constraint,
            )
        return Sampler(
            model=point.model,
            adapter=point.adapter,
            cache=cache,
            chooser=chooser,
            stop=frozenset(tokenizer.special.stop),
            config=decoding,
            cancelled=cancelled,
            constraint=constraint,
            speculation=self._speculation,
            company=lambda: self._open - 1,
        )

    @torch.inference_mode()
    def check(self) -> None:
        """Run a forward of its own; raises what that raises."""
        device = self._checkpoint.model.device
        ids, positions = torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None]
        mask, cache = masks.causal(0, 2, device), self._empty_cache()
        one = Forward(ids.to(device), positions.to(device), mask, cache)
        self._runner([one])[0].cpu()  # a GPU tells of its faults only when it is waited for

    def _measure(self) -> None:
        """Find out how fast context is encoded. The first forward reads the weights in."""
        decoding = DecodingConfig(mode=Mode.AR)
        sampler = self._sampler(self._empty_cache(), Prompt((), "", 0), decoding, never)
        for length in _MEASURED_LENGTHS:
            finish(sampler.encoding([0] * (length + 1)), self.forward)

    def _empty_cache(self) -> BlockCache:
        model = self._checkpoint.model
        return BlockCache(model.config, dtype=model.dtype, device=model.device)


def _framed(frame: Frame, steps: Steps) -> Steps:
    """With the text that it ends with put in the frame, as that of its drafts is."""
    with closing(steps):
        try:
            step = next(steps)
            while True:
                try:
                    answer = yield frame.put(step) if isinstance(step, Finished) else step
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration:
            return


def _read(events: Iterator[Event | Unread]) -> Iterator[Event]:
    """With every refinement built."""
    with closing(events):  # type: ignore[type-var]
        for event in events:
            yield event.read() if isinstance(event, Unread) else event


def _ending(steps: Forwards[Warmed]) -> WarmingSteps:
    """What `steps` returns comes as its last event."""
    yield (yield from steps)


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
    may = {*point.tokenizer.special.stop, *native_diffusion.unbanned(point.kind)}
    return [i for i in range(point.model.config.vocab_size) if special(i) and i not in may]


def _out_of_memory(error: Exception) -> OutOfMemory:
    return OutOfMemory(
        f"not enough memory for this request: {str(error).splitlines()[0]}",
        "lower --context-tokens or --max-tokens",
    )
