"""The interface of `EngineClient`, answered by a backend of others.

No process of ours is started, and nothing is sent before the first request. A newer automatic
request takes the place of an older one here, as our own engine would have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import blockdiff
from blockdiff.client.endpoint import Runtime
from blockdiff.client.handle import EngineHandle
from blockdiff.client.remote import allowed
from blockdiff.client.remote.answer import AnswerText
from blockdiff.client.remote.around import around, instructed
from blockdiff.client.remote.calls import Chunk, HttpCall, Sent, Wire
from blockdiff.client.remote.connection import DONE, Connection, Waiting
from blockdiff.client.remote.fim import FAMILIES, Fim, fim_of
from blockdiff.client.remote.inception import InceptionWire
from blockdiff.client.remote.llamacpp import LlamaCppWire
from blockdiff.client.remote.mistral import MistralWire
from blockdiff.client.remote.ollama import OllamaWire
from blockdiff.client.remote.openai import OpenAIWire
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.client.remote.turns import Turns, unless_over
from blockdiff.client.wire import API_VERSION, Call, EngineState, Health
from blockdiff.errors import (
    BackendFailed,
    EngineMismatch,
    ModelNotFound,
    ModelUnsupported,
)
from blockdiff.infill.layout import with_language
from blockdiff.infill.rewrite import Frame
from blockdiff.types import (
    Filled,
    Finished,
    FinishReason,
    InfillRequest,
    Priority,
    Progress,
    Refinement,
    RewriteRequest,
    Span,
    StreamEvent,
    Warmed,
)

_WIRES: dict[Backend, Callable[[BackendOptions], Wire]] = {
    Backend.OPENAI: OpenAIWire,
    Backend.LLAMACPP: LlamaCppWire,
    Backend.OLLAMA: OllamaWire,
    Backend.MISTRAL: MistralWire,
    Backend.INCEPTION: InceptionWire,
}
_MOST_NAME = 120  # characters of a model's name
_USUAL_SPEED = 2000.0  # context tokens in a second, of one that does not say


class RemoteClient(EngineHandle):
    """Talks to one backend."""

    def __init__(self, options: BackendOptions, runtime: Runtime | None = None) -> None:
        self._options = options
        self._runtime = runtime or Runtime.default()
        self._wire = _WIRES[options.backend](options)
        self._connection = Connection(options)
        self._listed = ""  # the model it serves, where none was named
        self._answered, self._speed = "", 0.0
        self._turns = Turns()

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def health(self, *, start: bool = True) -> Health:
        """How it was when it answered last; nothing is sent."""
        return Health(
            api=API_VERSION,
            version=blockdiff.__version__,
            pid=0,
            state=EngineState.READY,
            model=self._answered or self._options.model,
            device=self._options.name,
            context_speed=self._speed or _USUAL_SPEED,
        )

    async def models(self) -> list[str]:
        """The names of the models that it lists. Raises as `infill`."""
        self._check_allowed()
        listed = await self._connection.get(self._wire.models())
        entries = listed.get("data") or listed.get("models") or []
        names = [e.get("id") or e.get("name") for e in entries if isinstance(e, dict)]
        return [name[:_MOST_NAME] for name in names if isinstance(name, str) and name]

    async def _events(self, call: Call, start: bool) -> AsyncGenerator[StreamEvent, None]:
        async with self._turns.take(call.priority, call.source) as turn:
            if isinstance(call.request, RewriteRequest):
                making = self._rewritten(call.request, turn)
            else:
                making = self._filled(with_language(call.request), turn, call.priority)
            async with contextlib.aclosing(making) as events:
                async for event in events:
                    yield event

    async def _filled(
        self, request: InfillRequest, turn: asyncio.Event | None, priority: Priority
    ) -> AsyncGenerator[StreamEvent, None]:
        """The holes are written one after another in the order of the text, each with the texts of
        those before in place.

        Raises:
            Superseded: a newer automatic request with the same source took its place.
            BackendNotAllowed: it is on a machine that the user has not named himself.
            BlockdiffError: as `Connection.objects`; EngineMismatch if the model has changed.
        """
        numbers = itertools.count()
        if not request.also:
            asked = self._hole(request, turn, priority, numbers)
            async with contextlib.aclosing(asked) as events:
                async for event in events:
                    yield event
            return
        ends: dict[int, Finished] = {}
        began = time.monotonic()
        order = sorted(range(len(request.holes)), key=lambda i: request.holes[i].start)
        for index in order * (2 if request.revise else 1):
            texts = [ends[i].text if i in ends else "" for i in range(len(order))]
            asked = self._hole(request.only(index, texts), turn, priority, numbers, index)
            async with contextlib.aclosing(asked) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        ends[index] = event
                    else:
                        yield event
        elapsed = 1e3 * (time.monotonic() - began)
        yield Filled(request.request_id, tuple(ends[i] for i in range(len(order))), elapsed)

    async def _rewritten(
        self, request: RewriteRequest, turn: asyncio.Event | None
    ) -> AsyncGenerator[StreamEvent, None]:
        """Only by an instruction. Raises ModelUnsupported without one,
        where the backend cannot do it."""
        instruction = request.instruction.strip()
        if not instruction and self._options.backend is not Backend.INCEPTION:
            raise ModelUnsupported(
                f"{self._options.name} rewrites by an instruction only", "say what to change"
            )
        frame = Frame.of(request.document, request.span)
        inner = with_language(request.infill(frame.hole))
        model = await self._model()
        asked = instructed(inner, instruction)
        call = self._wire.rewrite(asked, model)
        answer = AnswerText(inner, instructed=True, unchanged=call.unchanged)
        explicit = Priority.EXPLICIT  # nothing of it is shown while somebody types
        written = self._written(inner, call, answer, turn, explicit, itertools.count(), 0)
        async with contextlib.aclosing(written) as events:
            async for event in events:
                if isinstance(event, Finished):
                    yield frame.put(event)
                elif isinstance(event, Refinement):
                    yield _framed(event, frame)
                else:
                    yield event

    async def warm(self, request: InfillRequest, *, source: str = "") -> Warmed:
        """Let it encode the context of a request that is expected, where that costs nothing.

        Raises as `infill`.
        """
        self._check_allowed()
        began = time.monotonic()
        call = self._wire.warm(around(with_language(request)), await self._model())
        chunk = Chunk()
        if call is not None:
            chunk = self._chunk(await self._connection.get(call))
        elapsed = 1e3 * (time.monotonic() - began)
        return Warmed(request.request_id, chunk.context_tokens, chunk.cached_tokens, elapsed)

    async def sent(self, request: InfillRequest) -> Sent:
        """What would be sent for an infill. Raises as `infill`."""
        shown = around(with_language(request))
        return await self._connection.sent(self._wire.fill(shown, await self._model()))

    async def _hole(
        self,
        request: InfillRequest,
        turn: asyncio.Event | None,
        priority: Priority,
        numbers: itertools.count[int],
        index: int = 0,
    ) -> AsyncGenerator[Progress | Refinement | Finished, None]:
        call = self._wire.fill(around(request), await self._model())
        answer = AnswerText(request, call.marks)
        written = self._written(request, call, answer, turn, priority, numbers, index)
        async with contextlib.aclosing(written) as events:
            async for event in events:
                yield event

    async def _written(
        self,
        request: InfillRequest,
        call: HttpCall,
        answer: AnswerText,
        turn: asyncio.Event | None,
        priority: Priority,
        numbers: itertools.count[int],
        index: int,
    ) -> AsyncGenerator[Progress | Refinement | Finished, None]:
        """Drafts of one hole, then how it ended."""
        began, first_ms, parts = time.monotonic(), 0.0, 0
        last = Chunk()
        reason: FinishReason | None = None
        patient = priority is not Priority.AUTOMATIC
        objects = self._connection.objects(call, patient=patient)
        async with contextlib.aclosing(objects):
            while (value := await unless_over(turn, anext(objects, None))) is not None:
                if isinstance(value, Waiting):
                    yield Progress(request.request_id, f"waiting: {value.why}", 0.0)
                    continue
                if value is DONE:
                    reason = reason or FinishReason.EOM
                    break
                chunk = self._chunk(value)
                self._check_model(chunk, call)
                last, reason = _both(last, chunk), chunk.finish or reason
                if not chunk.text:
                    continue
                parts += 1
                answer.add(chunk.text)
                if not answer.is_due:
                    continue
                if parts == 1:  # reads the document, which may be large
                    await asyncio.to_thread(answer.draft)
                draft, ended = answer.draft()
                elapsed = 1e3 * (time.monotonic() - began)
                first_ms = first_ms or elapsed
                spans = (Span(0, len(draft), True, 1.0),) if draft else ()
                yield Refinement(
                    request.request_id, next(numbers), index, draft, spans, parts, parts, elapsed
                )
                if ended:
                    reason = FinishReason.EOM
                    break
        if reason is None:
            raise BackendFailed(f"{self._options.name} broke its answer off", "ask again")
        text, finish, syntax = await asyncio.to_thread(answer.finished, reason)
        elapsed = 1e3 * (time.monotonic() - began)
        yield Finished(
            request_id=request.request_id,
            hole=index,
            text=text,
            tokens=last.tokens or parts,
            forwards=max(last.tokens, parts),
            finish=finish,
            syntax=syntax,
            mode=self._options.backend.value,
            model=self._answered or self._options.model,
            elapsed_ms=elapsed,
            first_ms=first_ms or elapsed,
            context_tokens=last.context_tokens,
            cached_tokens=last.cached_tokens,
        )

    def _chunk(self, value: dict[str, Any]) -> Chunk:
        try:
            chunk = self._wire.read(value)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise BackendFailed(
                f"{self._options.name} answers in a form that is not its own",
                "check engine.backend and engine.url",
            ) from None
        self._speed = chunk.speed or self._speed
        return chunk

    def _check_model(self, chunk: Chunk, call: HttpCall) -> None:
        """Raises EngineMismatch for a model that reads other marks than those of the prompt."""
        if not chunk.model:
            return
        self._answered = _name(chunk.model)
        family, other = FAMILIES.get(call.fim), FAMILIES.get(fim_of(chunk.model))
        if self._options.fim is not Fim.AUTO or family is None or other is None:
            return
        if family.prefix != other.prefix:
            self._listed = ""
            raise EngineMismatch(
                f"{self._options.name} answers with {self._answered}, "
                f"which does not know the marks of {call.fim.value}",
                "ask again; if it stays, set engine.model or engine.fim",
            )

    async def _model(self) -> str:
        """Its name at the backend; asked for where a prompt depends on it."""
        self._check_allowed()
        if self._options.model or self._options.backend is not Backend.OPENAI:
            return self._options.model
        if not self._listed:
            names = await self.models()
            if not names:
                raise ModelNotFound(f"{self._options.name} lists no model", "set engine.model")
            self._listed = names[0]
        return self._listed

    def _check_allowed(self) -> None:
        allowed.check(self._options, self._runtime)


def _both(before: Chunk, now: Chunk) -> Chunk:
    """What is known of a stream by now."""
    return replace(
        now,
        tokens=now.tokens or before.tokens,
        context_tokens=now.context_tokens or before.context_tokens,
        cached_tokens=now.cached_tokens or before.cached_tokens,
    )


def _framed(draft: Refinement, frame: Frame) -> Refinement:
    text = frame.before + draft.text + frame.after
    return replace(draft, text=text, spans=(Span(0, len(text), True, 1.0),) if text else ())


def _name(model: str) -> str:
    """A model's name as it is shown: of a file without its folders."""
    return " ".join(model.replace("\\", "/").rpartition("/")[2].split())[:_MOST_NAME]
