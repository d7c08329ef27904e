"""The engine: one model, one device, requests in, events out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig
from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine import published, renoise
from blockdiff.engine.batch import Batch, Steps, events_of
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.contexts import Contexts, never, resolved
from blockdiff.engine.devices import choose_device, choose_dtype, choose_runner
from blockdiff.engine.forward_times import ForwardTimes
from blockdiff.engine.infilling import Infilling
from blockdiff.engine.multi_hole import MultiHole
from blockdiff.engine.prefix_store import DEFAULT_BYTES
from blockdiff.engine.stored_contexts import StoredContexts, model_digest
from blockdiff.infill.layout import build_prompt, with_language
from blockdiff.infill.rewrite import Frame
from blockdiff.model import masks
from blockdiff.model.cuda.weight_only import is_weight_only
from blockdiff.model.forward import Forward
from blockdiff.model.int8.quantized import is_quantized
from blockdiff.model.load.from_folder import DraftingConfig
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.types import (
    Event,
    InfillRequest,
    OnProgress,
    Request,
    RewriteRequest,
    Unread,
    Warmed,
    no_op,
)
from blockdiff.weights.catalog import DEFAULT_MODEL

R = TypeVar("R")


class Engine:
    """Serves requests one by one, or several by a `Batch`; what one prefilled the next reuses.

    Attributes:
        checkpoint: the model and all that belongs to it.
        contexts: what a request is written on.
        name: of the model.
        device, dtype: where and how it runs.
    """

    def __init__(self, checkpoint: Checkpoint, cache_bytes: int = DEFAULT_BYTES) -> None:
        """`cache_bytes` of prefilled context are kept for later requests."""
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.device = str(checkpoint.model.device)
        floats = str(checkpoint.model.dtype).removeprefix("torch.")
        packed = is_quantized(checkpoint.model)
        self.dtype = "int8" if packed or is_weight_only(checkpoint.model) else floats
        self._runner = choose_runner(checkpoint.model, checkpoint.adapter, checkpoint.drafter)
        self.contexts = Contexts(checkpoint, cache_bytes, self._runner)
        self._times = ForwardTimes(self.contexts)

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        dtype: str = "auto",
        cache_bytes: int = DEFAULT_BYTES,
        progress: OnProgress = no_op,
        drafter: str = "",
    ) -> Engine:
        """Load a model; a GGUF base is unpacked into the cache folder on first use.

        A `drafter` made for it, by name or folder, drafts for `verify`.

        Raises ModelNotFound, ModelCorrupt, ModelUnsupported, DeviceUnavailable, OutOfMemory,
        DiskFull.
        """
        where = choose_device(device)
        precision = choose_dtype(dtype, where)
        engine = cls(Checkpoint.load(model, where, precision, progress, drafter), cache_bytes)
        engine.measure()
        return engine

    @property
    def context_speed(self) -> float:
        """Context tokens prefilled per second by 95% of those of late; 0.0 while unknown."""
        return self._times.context.per_second

    @property
    def context_size(self) -> int:
        """Most tokens of a context and what is written behind it."""
        return self.checkpoint.model.config.max_positions

    @property
    def together(self) -> int:
        """How many requests may share its forwards."""
        return self.contexts.together

    def has_room(self) -> bool:
        """Whether one more context may be worked on: each takes memory of its own."""
        return self.contexts.has_room()

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def drafting(self) -> DraftingConfig:
        """How the checkpoint drafts here."""
        return self.checkpoint.drafting

    @property
    def drafts(self) -> bool:
        """Whether more than n-grams drafts: an adapter, a drafter beside it, the model itself."""
        point = self.checkpoint
        own = published.own_mask(point.kind) is not None
        return own or point.adapter is not None or point.drafter is not None

    def forget(self) -> None:
        """Drop all prefilled contexts."""
        self.contexts.store.clear()

    @property
    def cache_entries(self) -> int:
        """How many prefilled contexts are kept."""
        return self.contexts.store.entries

    @property
    def cache_bytes(self) -> int:
        """What they take."""
        return self.contexts.store.nbytes

    @torch.inference_mode()
    def store_in(self, root: Path, budget: int) -> None:
        """Begin with contexts that are stored in the folder `root`, and `store` them there.

        `budget` is in bytes. Nothing is stored of checkpoints that are diffusion models themselves:
        in their contexts a token's keys and values depend on those behind it. Neither beside a
        drafter, whose own keys and values belong to a context.
        """
        point = self.checkpoint
        if point.drafter is not None or (point.kind and published.is_diffusion(point.kind)):
            return
        cache = self.contexts.empty_cache()
        vocab_size = point.model.config.vocab_size
        digest = model_digest(point.weights, cache, self._runner, vocab_size)
        self.contexts.store.stored = StoredContexts(root, digest, cache, budget)

    def storing(self) -> Iterator[None]:
        """Write what is kept to where `store_in` said, in steps of some milliseconds; what comes
        between two of them must not ask for anything."""
        kept = self.contexts.store
        if kept.stored is not None:
            yield from kept.stored.storing(kept.latest)

    def infill(
        self, request: InfillRequest, cancelled: Callable[[], bool] = never
    ) -> Iterator[Event]:
        """Yield refinements of the hole, then exactly one `Finished`; of several, one `Filled`.

        `cancelled` is asked between any two forwards. Raises Cancelled, InvalidRequest,
        ModelUnsupported, OutOfMemory; whatever happens, the next request starts clean.
        """
        return self._events(self._filling(request, cancelled))

    def rewrite(
        self, request: RewriteRequest, cancelled: Callable[[], bool] = never
    ) -> Iterator[Event]:
        """Yield refinements of the whole span, then exactly one `Finished`.

        By instruction where there is one, otherwise what looks wrong is mended. `cancelled` and
        what is raised are as for `infill`; ModelUnsupported also for a checkpoint that cannot chat,
        or without an instruction for one that does not write from left to right.
        """
        return self._events(self._rewriting(request, cancelled))

    def warm(self, request: InfillRequest, cancelled: Callable[[], bool] = never) -> Warmed:
        """Encode the context of a request that is expected, write nothing.

        Raises as `infill`. What is prefilled when it is cancelled stays usable.
        """
        (warmed,) = events_of(self._warming(request, cancelled), self.forward)
        assert isinstance(warmed, Warmed)
        return warmed

    def steps(
        self, request: Request, cancelled: Callable[[], bool], *, ahead: bool = False
    ) -> Steps:
        """What `infill`, `rewrite` and, with `ahead`, `warm` do, for a `Batch` to drive.

        Raises as they do, here or later.
        """
        if isinstance(request, RewriteRequest):
            return self._rewriting(request, cancelled)
        if ahead:
            return self._warming(request, cancelled)
        return self._filling(request, cancelled)

    def aside(self, call: Callable[[], R]) -> Future[R]:
        """Do what needs no forward in another thread, so that other requests go on."""
        return self.contexts.aside(call)

    def behind(
        self, tokens: Sequence[int], decoding: DecodingConfig, heal: str = ""
    ) -> AbstractContextManager[Sampler]:
        """A sampler for bare tokens; see `Contexts.behind`."""
        return self.contexts.behind(tokens, decoding, heal)

    def batch(self) -> Batch[Any]:
        """Where requests share forwards."""
        return Batch(self.forward, self.has_room)

    def forward(self, waiting: Sequence[Forward]) -> list[Tensor]:
        """Run forwards together, see `model.forward.run`; those that run alone are timed."""
        began = time.monotonic()
        with self.contexts.passing:
            answers = self._runner(waiting)
        if len(waiting) == 1:
            self._times.add(waiting[0], began)
        return answers

    def measure(self) -> None:
        """Find out how fast context is prefilled and what rows cost."""
        self._times.measure(self.forward)

    def _events(self, steps: Steps) -> Iterator[Event]:
        """What a request brings that runs alone, every refinement built."""
        for event in events_of(steps, self.forward, self.has_room):
            yield event.read() if isinstance(event, Unread) else event

    def _filling(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Steps:
        kind = MultiHole if request.also else Infilling
        return kind(self.contexts, with_language(request), cancelled).steps()

    def _rewriting(self, request: RewriteRequest, cancelled: Callable[[], bool]) -> Steps:
        frame = Frame.of(request.document, request.span)
        inner = with_language(request.infill(frame.hole))
        writer: Infilling | renoise.Renoise
        if request.instruction.strip():
            writer = Infilling(self.contexts, inner, cancelled, request.instruction)
        else:
            writer = renoise.Renoise(self.contexts, inner, request.strength, cancelled)
        writer.drafts.before, writer.drafts.after = frame.before, frame.after
        return _framed(frame, writer.steps())

    def _warming(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Steps:
        began = time.monotonic()
        point = self.checkpoint
        request = published.adapted(with_language(request), point.kind, instructed=False)
        prompt = build_prompt(request, point.tokenizer, point.drafting.layout)
        decoding = resolved(request.decoding, point.drafting)
        with self.contexts.context(prompt, decoding, cancelled) as sampler:
            cached = sampler.cache.length
            yield from sampler.prefilling(prompt.tokens)
        elapsed = 1e3 * (time.monotonic() - began)
        return Warmed(request.request_id, len(prompt.tokens), cached, elapsed)

    @torch.inference_mode()
    def check(self) -> None:
        """Run a forward of its own; raises what that raises."""
        model = self.checkpoint.model
        if isinstance(model, DiffusionGemma):
            model.probe([0]).cpu()
            return
        ids, positions = torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None]
        one = Forward(ids, positions, masks.causal(0, 2), self.contexts.empty_cache())
        self._runner([one])[0].cpu()  # a GPU tells of its faults only when it is waited for


def _framed(frame: Frame, steps: Steps) -> Steps:
    """With the text that it ends with put in the frame, as that of its drafts is."""
    return frame.put((yield from steps))
