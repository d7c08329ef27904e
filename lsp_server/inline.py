"""Completions at the cursor, as ghost text."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from blockdiff.config import SEEDS, DecodingConfig
from blockdiff.errors import RequestTooLarge
from blockdiff.types import Extent, Finished, Hole, Priority
from lsp_server.context import Context
from lsp_server.document import Document, Position, TextEdit
from lsp_server.documents import Documents
from lsp_server.engine_link import EngineLink
from lsp_server.settings import Settings

_log = logging.getLogger("blockdiff.lsp")

_VARIED = 0.7  # temperature of all candidates but the first


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was answered last in a document: it holds while its beginning is what is typed."""

    start: int
    before: str
    after: str
    texts: tuple[str, ...]

    def typed_since(self, text: str, at: int) -> str | None:
        """What was typed behind `start`; None if anything else changed."""
        if at < self.start or len(text) - at != len(self.after):
            return None
        same = text.startswith(self.before) and text.endswith(self.after)
        return text[self.start : at] if same else None


@dataclass(slots=True)
class Inline:
    """Answers `textDocument/inlineCompletion`.

    Attributes:
        settings: replaced when they change.
        name: of this server, so that two windows do not replace one another's completions.
    """

    documents: Documents
    context: Context
    engine: EngineLink
    settings: Settings
    name: str
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _too_large: set[str] = field(default_factory=set)

    def forget(self, uri: str) -> None:
        self._kept.pop(uri, None)
        self._too_large.discard(uri)

    def _note_once(self, uri: str, error: RequestTooLarge) -> None:
        """Nobody asked, so nobody is bothered: one line in the log for each document."""
        if uri not in self._too_large:
            self._too_large.add(uri)
            _log.warning("no automatic completions in a document: %s", error.message)

    async def complete(self, uri: str, position: Position, *, invoked: bool) -> list[TextEdit]:
        """Candidates for a cursor, the likeliest first; each replaces what was typed of it.

        An automatic request gives way to a newer one, and finds nothing where completing is
        switched off, in the middle of a word, in documents that no model may see, and while the
        model is not downloaded. Raises what the engine says.
        """
        document = self.documents.get(uri)
        at = document.offset(position)
        if not invoked and not self._is_welcome(document, at):
            return []
        self.context.check_open(document)
        if (kept := self._still_good(document, at)) and (not invoked or len(kept) > 1):
            return kept
        text = document.text
        wanted = self.settings.inline.candidates if invoked else 1
        texts: list[str] = []
        for number in range(wanted):
            try:
                made = await self._write(document, text, at, number, invoked)
            except RequestTooLarge as error:
                if invoked:
                    raise
                self._note_once(uri, error)
                return []
            if made.strip() and made not in texts:
                texts.append(made)
        if document.text is not text and document.text != text:
            return []
        self._kept[uri] = _Kept(at, text[:at], text[at:], tuple(texts))
        here = document.span(at, at)
        return [TextEdit(here, made) for made in texts]

    def _is_welcome(self, document: Document, at: int) -> bool:
        if not self.settings.inline.automatic or self.context.is_closed(document):
            return False
        if self.engine.would_download:
            return False
        following = document.text[at : at + 1]
        return not (following.isalnum() or following == "_")

    def _still_good(self, document: Document, at: int) -> list[TextEdit]:
        """The last answer, as far as what was typed since agrees with it.

        A range that an editor takes lies in one line: behind a line break the rest is inserted.
        """
        kept = self._kept.get(document.uri)
        typed = kept.typed_since(document.text, at) if kept else None
        if kept is None or typed is None:
            return []
        agreeing = [text for text in kept.texts if text.startswith(typed) and text != typed]
        if "\n" in typed or "\r" in typed:
            here = document.span(at, at)
            return [TextEdit(here, text[len(typed) :]) for text in agreeing]
        return [TextEdit(document.span(kept.start, at), text) for text in agreeing]

    async def _write(
        self, document: Document, text: str, at: int, number: int, invoked: bool
    ) -> str:
        one_line = not self.settings.inline.multiline or bool(_rest_of_line(text, at).strip())
        request = self.context.infill(
            document,
            text,
            [Hole(at, at)],
            self._decoding(number),
            f"{self.name}-{number}",
            Extent.LINE if one_line else Extent.BLOCK,
        )
        priority = Priority.EXPLICIT if invoked else Priority.AUTOMATIC
        stream = self.engine.ask(request, priority=priority, source=f"{self.name} {document.uri}")
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.text
        return ""

    def _decoding(self, number: int) -> DecodingConfig:
        plain = self.settings.decoding_config(max_tokens=self.settings.inline.max_tokens)
        if number == 0:
            return plain
        temperature = max(plain.temperature, _VARIED)
        return replace(plain, temperature=temperature, seed=min(plain.seed + number, SEEDS[1]))


def _rest_of_line(text: str, at: int) -> str:
    ends = [place for mark in "\r\n" if (place := text.find(mark, at)) >= 0]
    return text[at : min(ends, default=len(text))]
