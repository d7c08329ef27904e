"""The engine: one model, one device, requests in, events out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from blockdiff import store
from blockdiff.config import DecodingConfig, Layout, Mode, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.native import NativeSampler
from blockdiff.diffusion.sampler import Forwards, Sampler, Snapshot, Speculation, next_snapshot
from blockdiff.engine import native_diffusion, remasking, rewriting
from blockdiff.engine.batch import Batch, Steps, WarmingSteps
from blockdiff.engine.devices import check_memory, choose_device, choose_dtype
from blockdiff.engine.draft_text import refinement
from blockdiff.engine.prefix_store import DEFAULT_BYTES, PrefixStore
from blockdiff.engine.speed import MovingRate
from blockdiff.errors import ModelUnsupported, OutOfMemory
from blockdiff.grammars import language_of
from blockdiff.infill.healing import HealingConstraint
from blockdiff.infill.layout import Prompt, build_prompt, framed
from blockdiff.infill.rewrite import (
    Frame,
    without_lead,
    without_lines_above,
)
from blockdiff.infill.seams import Seams
from blockdiff.infill.syntax import check, check_rewrite, error_spans
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.checkpoint import (
    DraftingConfig,
    Progress,
    load_adapter,
    load_transformer,
)
from blockdiff.model.forward import Forward, drive, finish, run
from blockdiff.model.hub_tokenizer import frame_of, load_tokenizer
from blockdiff.model.kinds import DiffusionKind, kind_of
from blockdiff.model.prepare import is_prepared, prepare_gguf
from blockdiff.model.quantized import install_adapter, is_quantized
from blockdiff.model.tokenizer import Tokenizer
from blockdiff.model.transformer import Transformer
from blockdiff.types import (
    Event,
    Finished,
    FinishReason,
    InfillRequest,
    Refinement,
    Request,
    RewriteRequest,
    SyntaxState,
    Warmed,
)

K = TypeVar("K")

_TOGETHER = 8  # requests of a batch: what all of them hold of the context stays in memory
_MAX_TOKENS = 256  # of a hole whose request leaves it open
_INT8_MASKS = 1  # of a draft in `verify`: each costs what a position costs
_DRAFT_ROOM = 64  # positions of the cache for what a forward tries out behind the text
_MEASURED_LENGTHS = (8, 8 + 64)  # tokens: to begin with, and then for the speed


def never() -> bool:
    """The cancel flag of a request that nobody cancels."""
    return False


def quiet(what: str, share: float) -> None:
    """The progress of a caller who does not look."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that belongs to one model in memory.

    Attributes:
        kind: how a published checkpoint writes; None for one of ours and for GGUF files.
        frame: ids before and behind an infill in place.
    """

    name: str
    model: Transformer
    adapter: GatedAdapter | None
    tokenizer: Tokenizer
    drafting: DraftingConfig
    kind: DiffusionKind | None = None
    frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @classmethod
    def load(
        cls, name_or_path: str, device: torch.device, dtype: torch.dtype, progress: Progress
    ) -> Checkpoint:
        """Read a catalogue model, a GGUF file or a checkpoint folder; see `store.resolve`."""
        return cls._read(name_or_path, device, dtype, progress, with_adapter=True)

    @classmethod
    def load_base(
        cls, name_or_path: str, device: torch.device, dtype: torch.dtype, progress: Progress
    ) -> Checkpoint:
        """The same without its adapter, for training another."""
        return cls._read(name_or_path, device, dtype, progress, with_adapter=False)

    @classmethod
    def _read(
        cls,
        name_or_path: str,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        *,
        with_adapter: bool,
    ) -> Checkpoint:
        files = store.resolve(
            name_or_path, lambda phase, done, size: progress(phase, done / max(size, 1))
        )
        int8 = dtype is torch.int8
        weights, stored = files.base, 2  # bytes of a number in published safetensors
        if files.base.is_file():
            weights = files.packed if int8 else files.prepared
            stored = dtype.itemsize if int8 else 2
            if not is_prepared(weights):
                with store.lock(weights.parent.name):
                    if not is_prepared(weights):
                        prepare_gguf(files.base, weights, progress, int8=int8)
        kind = None if files.base.is_file() else kind_of(files.base)
        check_memory(_weight_bytes(weights) * dtype.itemsize // stored, device)
        progress("loading weights", 0.0)
        model = load_transformer(weights, dtype=dtype, device=device)
        adapter, drafting = None, DraftingConfig(Layout.PSM, 1, 1, None)
        if kind is not None:
            drafting = native_diffusion.drafting_of(kind)
        if with_adapter and files.adapter is not None:
            drafting = DraftingConfig.read(files.adapter / "config.json")
            adapter = load_adapter(files.adapter, model.config, drafting).to(device, model.dtype)
        if int8 and adapter is not None:
            install_adapter(adapter)
        if int8:
            masks = min(drafting.draft_length, _INT8_MASKS)
            drafting = replace(drafting, draft_length=masks)
        progress("loading weights", 1.0)
        if kind is not None:
            tokenizer = load_tokenizer(files.base, kind, model.config.vocab_size)
            frame = frame_of(files.base, kind)
            return cls(files.name, model, adapter, tokenizer, drafting, kind, frame)
        tokenizer = Tokenizer.cached(files.base, files.tokenizer)
        return cls(files.name, model, adapter, tokenizer, drafting)


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
        self.dtype = "int8" if is_quantized(checkpoint.model) else floats
        self._store = PrefixStore(self._empty_cache, cache_bytes)
        self._speed = MovingRate()
        self._banned = _banned(checkpoint)
        # In int8 a CPU pays for every row of a forward; elsewhere some more cost next to nothing.
        cheap_rows = self.dtype != "int8"
        self._speculation = (
            Speculation(True, lookup=16) if cheap_rows else Speculation(False, lookup=8, crowded=2)
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
        """Yield refinements of the hole, then exactly one `Finished`.

        `cancelled` is asked between any two forwards. Raises Cancelled, InvalidRequest,
        ModelUnsupported, OutOfMemory; whatever happens, the next request starts clean.
        """
        return drive(_Infill(self, request, cancelled).steps(), self.forward)

    def rewrite(
        self, request: RewriteRequest, cancelled: Callable[[], bool] = never
    ) -> Iterator[Event]:
        """Yield refinements of the whole span, then exactly one `Finished`.

        By instruction where there is one, otherwise by re-noising. `cancelled` and what is raised
        are as for `infill`; ModelUnsupported also for a checkpoint that cannot chat, or has no
        adapter to denoise with.
        """
        return drive(self._rewriting(request, cancelled), self.forward)

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
        return _Infill(self, request, cancelled).steps()

    def batch(self, tell: Callable[[K, Event | Warmed | Exception | None], None]) -> Batch[K]:
        """Where requests share forwards; see `Batch` for what `tell` is told."""
        return Batch(self.forward, tell)

    def forward(self, waiting: Sequence[Forward]) -> list[Tensor]:
        """Run forwards together, see `model.forward.run`; from those alone the speed is taken."""
        began = time.monotonic()
        answers = run(self._checkpoint.model, waiting)
        if len(waiting) == 1 and waiting[0].wanted is None:
            if self._checkpoint.model.device.type == "cuda":
                torch.cuda.synchronize(self._checkpoint.model.device)
            self._speed.add(waiting[0].size, time.monotonic() - began)
        return answers

    def _rewriting(self, request: RewriteRequest, cancelled: Callable[[], bool]) -> Steps:
        frame = Frame.of(request.document, request.span)
        inner = request.infill(frame.hole)
        writer: _Infill | rewriting.Renoise
        if request.instruction.strip():
            writer = _Infill(self, inner, cancelled, request.instruction)
        else:
            writer = rewriting.Renoise(self, inner, request.strength, cancelled)
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
    def behind(self, tokens: Sequence[int], decoding: DecodingConfig) -> Iterator[Sampler]:
        """A sampler for bare tokens, without hole and seams: what benchmarks time.

        Raises ModelUnsupported for a checkpoint that is a diffusion model itself.
        """
        with self._context(Prompt(tuple(tokens), "", 0), decoding, never) as sampler:
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
        cache = self._store.take(prompt.tokens, room=decoding.max_tokens + _DRAFT_ROOM)
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

    def _measure(self) -> None:
        """Find out how fast context is encoded. The first forward reads the weights in."""
        decoding = DecodingConfig(mode=Mode.AR)
        sampler = self._sampler(self._empty_cache(), Prompt((), "", 0), decoding, never)
        for length in _MEASURED_LENGTHS:
            finish(sampler.encoding([0] * (length + 1)), self.forward)

    def _empty_cache(self) -> BlockCache:
        model = self._checkpoint.model
        return BlockCache(model.config, dtype=model.dtype, device=model.device)


class _Infill:
    """One request from prompt to final text; with an `instruction` the hole is rewritten by it."""

    def __init__(
        self,
        engine: Engine,
        request: InfillRequest,
        cancelled: Callable[[], bool],
        instruction: str = "",
    ) -> None:
        self._point = engine._checkpoint
        request = native_diffusion.adapted(request, self._point.kind, bool(instruction))
        self._engine, self._request, self._cancelled = engine, request, cancelled
        first_line = request.document[:200].split("\n", 1)[0]
        self._language = language_of(request.path, request.language, first_line)
        hole = request.hole
        self._instructed = bool(instruction)
        self._prompt = build_prompt(
            request,
            self._point.tokenizer,
            Layout.CHAT if instruction else self._point.drafting.layout,
            instruction=instruction,
        )
        if not instruction:
            self._prompt = framed(self._prompt, *self._point.frame)
        self._seams = Seams(
            request.prefix,
            request.suffix,
            self._language,
            replaced=request.document[hole.start : hole.end],
            fence=self._prompt.fence,
            indentation=request.indentation,
        )

    def steps(self) -> Steps:
        engine, prompt = self._engine, self._prompt
        began = time.monotonic()
        first_ms = 0.0
        decoding = resolved(self._request.decoding, self._point.drafting, self._most_tokens())
        snapshot = Snapshot((), (), (), 0, False)
        stopped, number = False, 0
        with engine._context(prompt, decoding, self._cancelled) as sampler:
            cached = sampler.cache.length
            # Apart from the sampler's own steps, which take back what a cancelled request has
            # encoded: context is exact whoever asked for it, and a completion that every keystroke
            # replaces would never get to the end of a long one.
            yield from sampler.encoding(prompt.tokens)
            if self._instructed and isinstance(sampler, Sampler):
                sampler.original = self._replaced()
            with closing(sampler.steps(prompt.tokens)) as drafts:
                for number in itertools.count():
                    draft = yield from next_snapshot(drafts)
                    if draft is None:
                        break
                    snapshot = draft
                    elapsed = 1e3 * (time.monotonic() - began)
                    first_ms = first_ms or elapsed
                    yield self._refinement(number, snapshot, elapsed)
                    if prompt.after:
                        continue  # such a hole ends where its text does
                    stopped = self._seams.cut(self._text(snapshot.settled_prefix), final=False)[1]
                    if stopped:
                        break
            ended = stopped or snapshot.ended
            reason = FinishReason.EOM if ended else FinishReason.LENGTH
            if (decoding.mode, decoding.rule) == (Mode.DIFFUSION, Rule.SYNTAX):
                assert isinstance(sampler, Sampler)  # others refuse the rule
                masked = partial(self._remasked, reason)
                again = remasking.rounds(sampler, prompt.tokens, snapshot, masked)
                with closing(again):
                    while (draft := (yield from next_snapshot(again))) is not None:
                        snapshot, number = draft, number + 1
                        yield self._refinement(number, snapshot, 1e3 * (time.monotonic() - began))
        text = self._seams.finish(self._text(snapshot.settled_prefix), reason)
        if self._instructed:
            prefix, hole = self._request.prefix, self._request.hole
            text = without_lead(text, prefix.rpartition("\n")[2])
            replaced = self._request.document[hole.start : hole.end]
            text = without_lines_above(text, prefix, replaced)
        yield Finished(
            request_id=self._request.request_id,
            hole=0,
            text=text,
            tokens=len(snapshot.settled_prefix),
            forwards=sampler.forwards,
            finish=reason,
            syntax=self._check_syntax(text),
            mode=decoding.mode.value,
            model=engine.name,
            elapsed_ms=1e3 * (time.monotonic() - began),
            first_ms=first_ms,
            context_tokens=len(prompt.tokens),
            cached_tokens=cached,
        )

    def _remasked(self, reason: FinishReason, draft: Snapshot) -> Canvas | None:
        """The draft with masks for what does not parse where it stands."""
        text = self._seams.cut(self._text(draft.settled_prefix), True, reason)[0]
        request, start = self._request, self._request.hole.start
        document = request.prefix + text + request.suffix
        errors = error_spans(document, start, start + len(text), self._language)
        skip = len(self._prompt.heal)
        spans = [(first - start + skip, last - start + skip) for first, last in errors]
        return remasking.remasked(draft, self._point.tokenizer, skip + len(text), spans)

    def _text(self, tokens: Sequence[int]) -> str:
        """What tokens say behind the healed part of the prefix."""
        return self._point.tokenizer.decode(tokens)[len(self._prompt.heal) :]

    def _refinement(self, number: int, snapshot: Snapshot, elapsed: float) -> Refinement:
        return refinement(
            snapshot,
            self._point.tokenizer,
            request_id=self._request.request_id,
            number=number,
            elapsed_ms=elapsed,
            skip=len(self._prompt.heal),
        )

    def _most_tokens(self) -> int:
        """What a request needs that leaves it open."""
        if not self._instructed:
            return _MAX_TOKENS
        room = self._point.model.config.max_positions - len(self._prompt.tokens) - _DRAFT_ROOM
        return rewriting.most_tokens(len(self._replaced()), room)

    def _replaced(self) -> list[int]:
        """Tokens of what stands in the hole."""
        hole, document = self._request.hole, self._request.document
        return list(self._point.tokenizer.encode(document[hole.start : hole.end]))

    def _check_syntax(self, text: str) -> SyntaxState:
        request = self._request
        filled = request.prefix + text + request.suffix
        start = request.hole.start
        if self._instructed:
            end = start + len(text)
            return check_rewrite(request.document, filled, start, end, self._language)
        return check(filled, start, start + len(text), self._language)


def _framed(frame: Frame, steps: Steps) -> Steps:
    """With the text of all events put in the frame."""
    with closing(steps):
        try:
            step = next(steps)
            while True:
                try:
                    answer = yield step if isinstance(step, Forward) else frame.put(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration:
            return


def _ending(steps: Forwards[Warmed]) -> WarmingSteps:
    """What `steps` returns comes as its last event."""
    yield (yield from steps)


class _Healing:
    """Token healing as the sampler's constraint on ids."""

    def __init__(self, tokenizer: Tokenizer, heal: str) -> None:
        self._tokenizer, self._healing = tokenizer, HealingConstraint(tokenizer, heal)

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        written = b"".join(self._tokenizer.token_bytes(token) for token in so_far)
        return self._healing.allowed(written)


def resolved(
    decoding: DecodingConfig, drafting: DraftingConfig, max_tokens: int = _MAX_TOKENS
) -> DecodingConfig:
    """Fill in what a request leaves to the checkpoint, and `max_tokens` where it is open."""
    decoding = replace(decoding, max_tokens=decoding.max_tokens or max_tokens)
    if decoding.block_size:
        return decoding
    verify = decoding.mode is Mode.VERIFY
    return replace(decoding, block_size=drafting.draft_length if verify else drafting.block_size)


def _banned(point: Checkpoint) -> list[int]:
    """Ids that may never be written: special ones that do not end the middle, and unused rows."""
    special = point.tokenizer.is_special
    may = {*point.tokenizer.special.stop, *native_diffusion.unbanned(point.kind)}
    return [i for i in range(point.model.config.vocab_size) if special(i) and i not in may]


def _weight_bytes(weights: Path) -> int:
    return sum(shard.stat().st_size for shard in weights.glob("*.safetensors"))


def _out_of_memory(error: Exception) -> OutOfMemory:
    return OutOfMemory(
        f"not enough memory for this request: {str(error).splitlines()[0]}",
        "lower --context-tokens or --max-tokens",
    )
