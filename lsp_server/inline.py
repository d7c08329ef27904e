"""Completions at the cursor, as ghost text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from blockdiff.client import missed
from blockdiff.client.endpoint import Runtime
from blockdiff.client.missed import Missed, NoCompletion
from blockdiff.config import SEEDS, DecodingConfig
from blockdiff.errors import BlockdiffError, Cancelled, RequestTooLarge
from blockdiff.syntax.region import Region
from blockdiff.types import Extent, Finished, Hole, Priority
from lsp_server.context import Context
from lsp_server.document import Document, Position, TextEdit
from lsp_server.documents import Documents
from lsp_server.engine_link import EngineLink
from lsp_server.exclusions import Exclusions
from lsp_server.settings import Settings

_log = logging.getLogger("blockdiff.lsp")

_VARIED = 0.7  # temperature of all candidates but the first
_SAVE_SECONDS = 1.0  # a completion that does not come does so with nearly every key


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


class Missing(Exception):
    """There is no completion, and why."""

    def __init__(self, kind: NoCompletion) -> None:
        super().__init__(kind.value)
        self.kind = kind


class Inline:
    """Answers `textDocument/inlineCompletion`.

    Attributes:
        name: of this server, so that two windows do not replace one another's completions.
        note: is told of each automatic completion that did not come: why, and where.
    """

    def __init__(
        self,
        documents: Documents,
        context: Context,
        engine: EngineLink,
        settings: Settings,
        name: str,
        note: Callable[[NoCompletion, str, int], None],
    ) -> None:
        self.documents, self.context, self.engine = documents, context, engine
        self.name, self.note = name, note
        self._too_large: set[str] = set()
        self._asked: dict[str, object] = {}
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Use other settings from now on; what was made under the last ones is forgotten."""
        self.settings, self._excluded = settings, Exclusions(settings.inline)
        self._kept: dict[str, _Kept] = {}

    def forget(self, uri: str) -> None:
        self._kept.pop(uri, None)
        self._asked.pop(uri, None)
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
        model is not downloaded; `note` is told. Raises what the engine says.
        """
        document = self.documents.get(uri)
        at = document.offset(position)
        if invoked:
            self.context.check_open(document)
            return await self._offered(document, at, self.settings.inline.candidates)
        try:
            return await self._automatic(document, at)
        except Missing as missing:
            self.note(missing.kind, uri, position.line)
            return []
        except RequestTooLarge as error:
            self._note_once(uri, error)
            self.note(NoCompletion.TOO_LARGE, uri, position.line)
            return []
        except (asyncio.CancelledError, Cancelled):
            self.note(NoCompletion.REPLACED, uri, position.line)
            raise
        except BlockdiffError:
            self.note(NoCompletion.FAILED, uri, position.line)
            raise

    async def _automatic(self, document: Document, at: int) -> list[TextEdit]:
        """The completion of a cursor that nobody asked for. Raises Missing."""
        if reason := self._unwelcome(document, at):
            raise Missing(reason)
        if kept := self._still_good(document, at):
            return kept
        if self.settings.inline.delay_ms:
            await self._rest(document)
        region = self._excluded.region(document, at)
        if region is not Region.CODE:
            is_comment = region is Region.COMMENT
            raise Missing(NoCompletion.IN_COMMENT if is_comment else NoCompletion.IN_STRING)
        return await self._made(document, at, 1, invoked=False)

    def _unwelcome(self, document: Document, at: int) -> NoCompletion | None:
        """Why nothing is to be completed here, whatever the text says."""
        if not self.settings.inline.automatic:
            return NoCompletion.OFF
        if self._excluded.exclude(document):
            return NoCompletion.EXCLUDED
        if self.context.is_closed(document):
            return NoCompletion.IGNORED
        if self.engine.would_download:
            return NoCompletion.MODEL_ABSENT
        following = document.text[at : at + 1]
        return NoCompletion.IN_WORD if following.isalnum() or following == "_" else None

    async def _rest(self, document: Document) -> None:
        """Wait for a pause in typing. Raises Missing if it does not come."""
        mine = self._asked[document.uri] = object()
        version, text = document.version, document.text
        await asyncio.sleep(self.settings.inline.delay_ms / 1e3)
        is_last = self._asked.get(document.uri) is mine
        if not is_last or (document.version, document.text) != (version, text):
            raise Missing(NoCompletion.REPLACED)

    async def _offered(self, document: Document, at: int, count: int) -> list[TextEdit]:
        """Several different ones, on command."""
        kept = self._still_good(document, at)
        if len(kept) > 1:
            return kept
        try:
            return await self._made(document, at, count, invoked=True)
        except Missing:
            return []

    async def _made(
        self, document: Document, at: int, count: int, *, invoked: bool
    ) -> list[TextEdit]:
        """Completions that the engine writes. Raises Missing, and what the engine says."""
        text, texts = document.text, list[str]()
        missing = NoCompletion.EMPTY
        for number in range(count):
            end = await self._write(document, text, at, number, invoked)
            if end.text.strip() and end.text not in texts:
                texts.append(end.text)
            elif end.tokens and not end.text:  # it wrote something, and all of it was cut off
                missing = NoCompletion.REPEATS
        if document.text is not text and document.text != text:
            raise Missing(NoCompletion.TOO_LATE)
        if not texts:
            raise Missing(missing)
        self._kept[document.uri] = _Kept(at, text[:at], text[at:], tuple(texts))
        here = document.span(at, at)
        return [TextEdit(here, made) for made in texts]

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
    ) -> Finished:
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
                    return event
        raise Missing(NoCompletion.EMPTY)

    def _decoding(self, number: int) -> DecodingConfig:
        plain = self.settings.decoding_config(max_tokens=self.settings.inline.max_tokens)
        if number == 0:
            return plain
        temperature = max(plain.temperature, _VARIED)
        return replace(plain, temperature=temperature, seed=min(plain.seed + number, SEEDS[1]))


def _rest_of_line(text: str, at: int) -> str:
    ends = [place for mark in "\r\n" if (place := text.find(mark, at)) >= 0]
    return text[at : min(ends, default=len(text))]


class LastMissed:
    """The last automatic completion that did not come: shown at once, kept for the command line.

    Attributes: value: None until one did not come.
    """

    def __init__(self, runtime: Runtime, show: Callable[[], None]) -> None:
        self.value: Missed | None = None
        self._runtime, self._show = runtime, show
        self._saving: asyncio.TimerHandle | None = None

    def note(self, kind: NoCompletion, uri: str, line: int) -> None:
        """One did not come; within a second it is on the disk."""
        self.value = Missed.now(kind, uri, line)
        self._show()
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(_SAVE_SECONDS, self.save)

    def save(self) -> None:
        """Write what is not written yet."""
        if self._saving is not None and self.value is not None:
            self._saving.cancel()
            self._saving = None
            missed.save(self.value, self._runtime)
