"""One request from its ranges to its edits: ask the engine, show drafts, follow the document."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from blockdiff.config import Mode
from blockdiff.types import (
    Extent,
    Filled,
    Finished,
    Hole,
    InfillRequest,
    Refinement,
    Request,
    RewriteRequest,
    Span,
    StreamEvent,
    no_op,
)
from lsp_server.context import Context
from lsp_server.document import Blank, Document, Encoding, edits_of, units
from lsp_server.documents import Documents, Followed
from lsp_server.engine_link import EngineLink
from lsp_server.failures import ContentModified
from lsp_server.messages import InfillParams, Outcome, RefinementParams, RewriteParams
from lsp_server.settings import Settings

_UNCERTAIN = 0.5  # tokens less likely than this are marked


OnEvent = Callable[[StreamEvent], None]
"""Sees every event on its way, such as the loading of the model."""


@dataclass(slots=True)
class Sessions:
    """Runs requests.

    Attributes:
        settings: replaced when they change.
        show: takes every draft.
        ready: waits for the first settings; a document may change meanwhile.
    """

    documents: Documents
    context: Context
    engine: EngineLink
    settings: Settings
    show: Callable[[RefinementParams], None]
    ready: Callable[[], Awaitable[None]]

    async def infill(self, params: InfillParams, progress: OnEvent = no_op) -> Outcome:
        """Answer `blockdiff/infill`.

        Raises ContentModified, Ignored, InvalidRequest, and what the engine says.
        """
        document = self.documents.get(params.text_document.uri, params.text_document.version)
        spans = [document.offsets(hole) for hole in params.holes]
        return await self.fill(
            document,
            [Blank(start, end) for start, end in spans],
            max_tokens=params.max_tokens or None,
            mode=Mode(params.mode) if params.mode else None,
            seed=params.seed if params.seed >= 0 else None,
            request_id=params.request_id,
            progress=progress,
        )

    async def fill(
        self,
        document: Document,
        blanks: list[Blank],
        *,
        extent: Extent = Extent.HOLE,
        max_tokens: int | None = None,
        mode: Mode | None = None,
        seed: int | None = None,
        request_id: str = "",
        progress: OnEvent = no_op,
    ) -> Outcome:
        """Write into all blanks together, no further than `extent` says.

        Raises as `infill`.
        """
        session = _Session(self, document, blanks, request_id or secrets.token_hex(8), progress)

        def ask(text: str, holes: Sequence[Hole]) -> InfillRequest:
            decoding = self.settings.decoding_config(max_tokens=max_tokens, mode=mode, seed=seed)
            return self.context.infill(
                document, text, holes, decoding, session.request_id, extent=extent
            )

        return await session.run(ask)

    async def rewrite(self, params: RewriteParams, progress: OnEvent = no_op) -> Outcome:
        """Answer `blockdiff/rewrite`. Raises as `infill`."""
        document = self.documents.get(params.text_document.uri, params.text_document.version)
        return await self.revise(
            document, Blank(*document.offsets(params.range)), params, progress=progress
        )

    async def revise(
        self,
        document: Document,
        blank: Blank,
        params: RewriteParams,
        *,
        progress: OnEvent = no_op,
    ) -> Outcome:
        """Write what stands in a blank anew, as `params` say. Raises as `infill`."""
        request_id = params.request_id or secrets.token_hex(8)
        session = _Session(self, document, [blank], request_id, progress)

        def ask(text: str, holes: Sequence[Hole]) -> RewriteRequest:
            decoding = self.settings.decoding_config(
                max_tokens=params.max_tokens,
                seed=params.seed if params.seed >= 0 else None,
            )
            strength = params.strength if params.strength >= 0 else self.settings.rewrite.strength
            return self.context.rewrite(
                document, text, holes[0], params.instruction, strength, decoding, request_id
            )

        return await session.run(ask)


class _Session:
    """One request while it runs."""

    def __init__(
        self,
        sessions: Sessions,
        document: Document,
        blanks: list[Blank],
        request_id: str,
        progress: OnEvent,
    ) -> None:
        self._sessions, self._document, self._blanks = sessions, document, blanks
        self.request_id, self._progress = request_id, progress
        self._numbers = itertools.count()
        self._end: Finished | Filled | None = None

    async def run(self, ask: Callable[[str, Sequence[Hole]], Request]) -> Outcome:
        """Fill the blanks; `ask` makes the request for them, where they stand in a text.

        Edits elsewhere in the document are followed; one that touches a blank ends it all.
        """
        sessions = self._sessions
        sessions.context.check_open(self._document)
        task = asyncio.current_task()
        assert task is not None
        spans = [(blank.start, blank.end) for blank in self._blanks]
        with sessions.documents.follow(self._document, spans, lambda: task.cancel()) as followed:
            try:
                await sessions.ready()
                await self._write(ask(*self._framed(followed)), followed)
            except asyncio.CancelledError:
                if followed.is_lost:
                    raise ContentModified(
                        "the document changed where code was being written"
                    ) from None
                raise
            return self._outcome(followed)

    async def _write(self, request: Request, followed: Followed) -> None:
        async with aclosing(self._sessions.engine.ask(request)) as events:
            async for event in events:
                self._progress(event)
                if isinstance(event, Refinement):
                    self._show(event.hole, event.text, event.spans, event.step, followed)
                elif isinstance(event, (Finished, Filled)):
                    self._end = event
                    for index, end in enumerate(_holes(event)):
                        whole = (Span(0, len(end.text), True, 1.0),) if end.text else ()
                        self._show(index, end.text, whole, end.forwards, followed, done=True)

    def _framed(self, followed: Followed) -> tuple[str, list[Hole]]:
        """The text with what belongs around the blanks put there, and the holes between."""
        text, pieces, at = self._document.text, [], 0
        holes = [Hole(0, 0)] * len(self._blanks)
        for i in sorted(range(len(holes)), key=lambda i: followed.spans[i]):
            start, end = followed.spans[i]
            blank = self._blanks[i]
            pieces += [text[at:start], blank.before]
            shown = text[start:end] if blank.shown is None else blank.shown
            length = sum(map(len, pieces))
            holes[i] = Hole(length, length + len(shown))
            pieces += [shown, blank.after]
            at = end
        return "".join((*pieces, text[at:])), holes

    def _show(
        self,
        index: int,
        text: str,
        spans: tuple[Span, ...],
        step: int,
        followed: Followed,
        done: bool = False,
    ) -> None:
        blank, document = self._blanks[index], self._document
        marks = _Marks(blank.before, text, blank.after, document.encoding)
        self._sessions.show(
            RefinementParams(
                request_id=self.request_id,
                seq=next(self._numbers),
                version=document.version,
                hole=index,
                range=document.span(*followed.spans[index]),
                text=marks.text,
                settled=marks.ranges(spans, lambda span: span.settled),
                uncertain=marks.ranges(spans, lambda span: span.confidence < _UNCERTAIN),
                step=step,
                done=done,
            )
        )

    def _outcome(self, followed: Followed) -> Outcome:
        end = self._end
        assert end is not None  # a stream ends well with one
        edits = [
            edit
            for blank, result, (start, stop) in zip(
                self._blanks, _holes(end), followed.spans, strict=True
            )
            for edit in edits_of(
                self._document, start, stop, blank.before + result.text + blank.after
            )
        ]
        return Outcome(
            request_id=self.request_id,
            version=self._document.version,
            edits=tuple(edits),
            finish=end.finish,
            syntax=end.syntax,
            tokens=end.tokens,
            forwards=end.forwards,
            elapsed_ms=round(end.elapsed_ms, 1),
            model=end.model,
        )


def _holes(end: Finished | Filled) -> tuple[Finished, ...]:
    return end.holes if isinstance(end, Filled) else (end,)


class _Marks:
    """Ranges of a draft, counted as the client counts."""

    def __init__(self, before: str, text: str, after: str, encoding: Encoding) -> None:
        self.text = before + text + after
        self._draft, self._encoding = text, encoding
        self._shift = units(before, encoding)
        self._plain = text.isascii() or encoding is Encoding.UTF32

    def ranges(
        self, spans: tuple[Span, ...], wanted: Callable[[Span], bool]
    ) -> tuple[tuple[int, int], ...]:
        """Maximal ranges of the tokens that are `wanted`."""
        found: list[tuple[int, int]] = []
        for span in spans:
            if not wanted(span):
                continue
            start, end = self._unit(span.start), self._unit(span.end)
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return tuple(found)

    def _unit(self, offset: int) -> int:
        if self._plain:
            return self._shift + offset
        return self._shift + units(self._draft[:offset], self._encoding)
