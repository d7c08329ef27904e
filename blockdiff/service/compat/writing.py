"""One run of the engine for all who ask for the same, and what each of them reads of it.

Clients of these protocols append what they get, so that only what stays is sent: settled text,
by whole lines, as it will stand in the document. Where the first takes long, its start is sent.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property

from blockdiff.client.wire import Call
from blockdiff.errors import BlockdiffError, as_error
from blockdiff.infill.seams import Seams
from blockdiff.service.compat.asked import AnswerLimits
from blockdiff.service.endpoints import ServedEngine
from blockdiff.service.stream import Mailbox
from blockdiff.service.worker import log_defect
from blockdiff.types import (
    Finished,
    FinishReason,
    InfillRequest,
    Priority,
    Refinement,
    Request,
    RewriteRequest,
    Unread,
)

_SILENCE_SECONDS = 4.0  # after which the reader is told that nothing is there yet
_LONG_SECONDS = 1.0  # for the first line; its start is sent then

# A comment, a decorator or a blank line may belong to what follows, which may be cut off.
_LEADS_ON = re.compile(r"\s*(?:#|//|--|/\*|\*|@|\"\"\"|'''|$)")


@dataclass(frozen=True, slots=True)
class Answer:
    """How an answer ended.

    Attributes:
        text: all of it.
        cut: it breaks off: there was no room, or no time.
        stopped_by: the string of the request's `stop` that it ended before; may be empty.
        tokens: written; `context_tokens` were read, `cached_tokens` of them from the cache.
        prompt_ms, predict_ms: milliseconds until the first token, and from there on.
    """

    text: str
    cut: bool = False
    stopped_by: str = ""
    tokens: int = 0
    context_tokens: int = 0
    cached_tokens: int = 0
    prompt_ms: float = 0.0
    predict_ms: float = 0.0


class SharedWriting:
    """Text that is being written for everybody who asked for it.

    Attributes:
        settled: what is decided, as the model wrote it.
        shown: the part of the final text that is known by now; it only grows.
        first: monotonic time of the first token, None before it.
        end: how it ended, None before that.
        readers: how many there are.
    """

    def __init__(self, request: Request, mailbox: Mailbox, close: Callable[[], None]) -> None:
        self._view = SettledText(request) if isinstance(request, InfillRequest) else None
        self._mailbox, self._close = mailbox, close
        self._changed = asyncio.Event()
        self._began = self._grown = time.monotonic()
        self.settled = self.shown = ""
        self.tokens = self.readers = 0
        self.first: float | None = None
        self.end: Finished | BlockdiffError | None = None
        self._task = asyncio.create_task(self._follow())

    async def change(self, seconds: float) -> None:
        """Wait until something is new, at most so long. (`asyncio.wait_for` of Python before 3.12
        may swallow that the waiting task is cancelled.)"""
        timer = asyncio.get_running_loop().call_later(seconds, self._tell)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    def close(self) -> None:
        """Nobody reads any more."""
        self._close()
        self._task.cancel()

    async def kept(self) -> str:
        """The text if it ended here and now."""
        if self._view is None or not self.settled:
            return self.shown
        return await asyncio.to_thread(self._view.kept, self.settled)

    def answer(self, text: str, *, cut: bool, stopped_by: str = "") -> Answer:
        """What a reader gets who stops here with `text`."""
        end, now = self.end, time.monotonic()
        if isinstance(end, Finished):
            return Answer(
                text, cut, stopped_by, end.tokens, end.context_tokens, end.cached_tokens,
                end.first_ms, max(0.0, end.elapsed_ms - end.first_ms),
            )  # fmt: skip
        first = self.first or now
        return Answer(
            text, cut, stopped_by, self.tokens,
            prompt_ms=1e3 * (first - self._began), predict_ms=1e3 * (now - first),
        )  # fmt: skip

    async def _follow(self) -> None:
        try:
            while self.end is None:
                message = await self._mailbox.take(_LONG_SECONDS)
                if isinstance(message, Unread):
                    message = message.read()
                if isinstance(message, Refinement):
                    await self._take(message)
                elif message is None:
                    await self._show()
                elif isinstance(message, (Finished, BlockdiffError)):
                    self.end = message
                self._tell()
        except Exception as error:
            log_defect(error)
            self.end = as_error(error)
            self._tell()

    async def _take(self, draft: Refinement) -> None:
        count = next((i for i, s in enumerate(draft.spans) if not s.settled), len(draft.spans))
        text = draft.text[: draft.spans[count - 1].end] if count else ""
        self.first = self.first or time.monotonic()
        if len(text) > len(self.settled) and text.startswith(self.settled):
            lines = text.count("\n") - self.settled.count("\n")
            self.settled, self.tokens = text, count
            if lines or self._is_late:
                await self._show()

    @property
    def _is_late(self) -> bool:
        since = max(self._grown, self.first or self._grown)
        return time.monotonic() - since > _LONG_SECONDS

    async def _show(self) -> None:
        if self._view is None:
            return
        text = await asyncio.to_thread(self._view.shown, self.settled, self._is_late)
        if len(text) > len(self.shown) and text.startswith(self.shown):
            self.shown, self._grown = text, time.monotonic()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class SettledText:
    """What of a draft will stand in the document."""

    def __init__(self, request: InfillRequest) -> None:
        self._request = request

    @cached_property
    def _seams(self) -> Seams:
        request = self._request
        return Seams(
            request.prefix,
            request.suffix,
            request.language,
            indentation=request.indentation,
            extent=request.extent,
        )

    def kept(self, settled: str) -> str:
        return self._seams.so_far(settled)

    def shown(self, settled: str, late: bool) -> str:
        """Up to the last line that is complete and does not lead on to another one; of a first line
        that is `late`, what there is."""
        complete = settled[: settled.rfind("\n") + 1]
        if late and not complete:
            complete = settled
        if not complete.strip():
            return ""
        lines = self.kept(complete).split("\n")
        while len(lines) > 1 and _LEADS_ON.match(lines[-1]):
            lines.pop()
        return "\n".join(lines).rstrip()


class SharedWritings:
    """Those that run, so that a request that equals one of them shares it."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine
        self._running: dict[Request, SharedWriting] = {}

    def warm(self, request: Request, user: str) -> None:
        """Encode its context as soon as nothing else is to be done."""
        self._engine.ask(Call(request, Priority.AHEAD), user or "compat")

    async def read(
        self, request: Request, limits: AnswerLimits, user: str
    ) -> AsyncGenerator[str | Answer, None]:
        """Pieces of the text, the empty one after some silence; an `Answer` at last. Of a team, the
        `user` who asked first is who pays.

        Closing the iterator cancels what nobody else reads. Raises what the engine says.
        """
        writing = self._joined(request, user)
        writing.readers += 1
        try:
            async for piece in _pieces(writing, limits):
                yield piece
        finally:
            writing.readers -= 1
            if not writing.readers:
                writing.close()
                if self._running.get(request) is writing:
                    del self._running[request]

    def _joined(self, request: Request, user: str) -> SharedWriting:
        running = self._running.get(request)
        if running is None or running.end is not None:
            rewrites = isinstance(request, RewriteRequest)
            priority = Priority.EXPLICIT if rewrites else Priority.AUTOMATIC
            mailbox, close = self._engine.ask(Call(request, priority), user or "compat")
            running = self._running[request] = SharedWriting(request, mailbox, close)
        return running


async def _pieces(writing: SharedWriting, limits: AnswerLimits) -> AsyncIterator[str | Answer]:
    sent, said = "", time.monotonic()
    while writing.end is None:
        text, stop, over = _within(limits, writing.shown, final=False)
        if not over and _time_left(writing, limits) <= 0:
            text, stop, _ = _within(limits, await writing.kept(), final=True)
            over = True
        if len(text) > len(sent) and text.startswith(sent):
            yield text[len(sent) :]
            sent, said = text, time.monotonic()
        elif time.monotonic() - said >= _SILENCE_SECONDS:
            yield ""
            said = time.monotonic()
        if over:
            yield writing.answer(text, cut=not stop, stopped_by=stop)
            return
        silence = said + _SILENCE_SECONDS - time.monotonic()
        await writing.change(max(0.0, min(silence, _time_left(writing, limits))))
    end = writing.end
    if isinstance(end, BlockdiffError):
        raise type(end)(end.message, end.hint)
    # What was shown is not taken back where the text ends before it, as one that was cut off may.
    whole = writing.shown if writing.shown.startswith(end.text) else end.text
    text, stop, over = _within(limits, whole, final=True)
    if len(text) > len(sent) and text.startswith(sent):
        yield text[len(sent) :]
    cut = not stop and (over or end.finish is FinishReason.LENGTH)
    yield writing.answer(text, cut=cut, stopped_by=stop)


def _within(limits: AnswerLimits, text: str, *, final: bool) -> tuple[str, str, bool]:
    """The text up to where a limit ends it, the string that does, and whether one does.

    While not `final`, what may yet become such a string is left out.
    """
    end, stop = _indented(text, limits.indentation), ""
    for word in limits.stop:
        if 0 <= (at := text.find(word, 0, end + len(word) - 1)) < end:
            end, stop = at, word
    if end < len(text) or final:
        return text[:end], stop, end < len(text)
    longest = max(map(len, limits.stop), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-size:]) for word in limits.stop):
            return text[:-size], "", False
    return text, "", False


def _indented(text: str, least: int) -> int:
    """Where the first line ends behind which one is less indented than it must be."""
    at = text.find("\n")
    while least and at >= 0:
        line = text[at + 1 :].split("\n", 1)[0]
        if line.strip() and len(line) - len(line.lstrip()) < least:
            return at
        at = text.find("\n", at + 1)
    return len(text)


def _time_left(writing: SharedWriting, limits: AnswerLimits) -> float:
    """Seconds, as in llama.cpp: from the first token on, and only once a line is complete."""
    if not limits.seconds or writing.first is None or "\n" not in writing.settled:
        return math.inf
    return writing.first + limits.seconds - time.monotonic()
