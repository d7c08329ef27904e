"""What the model is shown of a document and of those around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from editorconfig import EditorConfigError, get_properties

from blockdiff.client.wire import affordable_context
from blockdiff.config import DecodingConfig
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.types import Extent, Hole, InfillRequest, RewriteRequest, Snippet
from lsp_server.document import Document
from lsp_server.documents import Documents
from lsp_server.engine_link import EngineLink
from lsp_server.failures import Ignored
from lsp_server.settings import ContextSettings
from lsp_server.uris import file_of, files_of


@dataclass(slots=True)
class Context:
    """Gathers it, within the budget of the machine.

    Attributes:
        settings: replaced when they change.
        engine: says how fast it encodes.
    """

    documents: Documents
    settings: ContextSettings
    ring: Ring
    ignored: IgnoreFiles
    engine: EngineLink

    def infill(
        self,
        document: Document,
        text: str,
        holes: Sequence[Hole],
        decoding: DecodingConfig,
        request_id: str,
        extent: Extent = Extent.HOLE,
    ) -> InfillRequest:
        """A request for holes of `text`: the document, or that with something put around them."""
        path = path_of(document.uri)
        return InfillRequest(
            document=whole_characters(text),
            hole=holes[0],
            also=tuple(holes[1:]),
            path=name_of(document.uri),
            language=document.language,
            indentation=indentation(path),
            snippets=self._snippets(document),
            decoding=decoding,
            context_tokens=self.budget,
            request_id=request_id,
            extent=extent,
        )

    def rewrite(
        self,
        document: Document,
        text: str,
        span: Hole,
        instruction: str,
        strength: float,
        decoding: DecodingConfig,
        request_id: str,
    ) -> RewriteRequest:
        """A request to rewrite a span of `text`: the document, or that without a part."""
        return RewriteRequest(
            document=whole_characters(text),
            span=span,
            instruction=instruction,
            strength=strength,
            path=name_of(document.uri),
            language=document.language,
            snippets=self._snippets(document),
            decoding=decoding,
            context_tokens=self.budget,
            request_id=request_id,
        )

    @property
    def budget(self) -> int:
        """Context tokens that this machine encodes within the latency that was asked for."""
        settings = self.settings
        return affordable_context(
            self.engine.speed, settings.latency_seconds, settings.most_tokens
        )

    def is_closed(self, document: Document) -> bool:
        """Whether a `.blockdiffignore` keeps the document to itself."""
        return self.ignored.strictest(files_of(document.uri)) is Verdict.CLOSED

    def check_open(self, document: Document) -> None:
        """Raises Ignored for a document that no model may see."""
        if self.is_closed(document):
            raise Ignored(
                "this document is listed in a .blockdiffignore file",
                "take it off that list to have code written in it",
            )

    def _snippets(self, document: Document) -> tuple[Snippet, ...]:
        if not self.settings.snippets:
            return ()
        return tuple(
            Snippet(name_of(uri) or "untitled", whole_characters(snippet.text))
            for uri, snippet in self.ring.related(document)
            if self.ignored.strictest(files_of(uri)) is Verdict.OPEN
        )


def whole_characters(text: str) -> str:
    """The same with halves of surrogate pairs replaced, which JSON lets through and UTF-8 cannot
    say; as many code points as before."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def name_of(uri: str) -> str:
    """The path of a document as a model reads it; empty where there is none."""
    return whole_characters(str(path_of(uri) or ""))


def path_of(uri: str) -> Path | None:
    """The file of a document; None for one that is untitled or not on this machine's disk."""
    return file_of(uri)


MOST_SNIPPETS = 16
LINES = 48
MOST_CHARACTERS = 4_000
_SAME = 0.8  # share of common lines above which two snippets say the same


@dataclass(frozen=True, slots=True)
class _Entry:
    uri: str
    language: str
    first_line: int
    text: str
    lines: frozenset[str]


class Ring:
    """Parts of other open documents that may help: the places edited last, the latest last."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def note(self, document: Document, line: int) -> None:
        """A place was opened or edited; what says nearly the same, or lies there, makes way."""
        first = max(0, min(line - LINES // 2, document.line_count - LINES))
        text = "\n".join(document.line(n) for n in range(first, first + LINES)).rstrip()
        entry = _Entry(
            document.uri,
            document.language,
            first,
            text[:MOST_CHARACTERS] + "\n",
            frozenset(stripped for row in text.split("\n") if len(stripped := row.strip()) > 2),
        )
        self._entries = [old for old in self._entries if not _replaces(entry, old)]
        if entry.lines:
            self._entries.append(entry)
        del self._entries[:-MOST_SNIPPETS]

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._entries = [entry for entry in self._entries if entry.uri != uri]

    def related(self, document: Document) -> Iterator[tuple[str, Snippet]]:
        """URI and snippet of the other documents of its language, the latest first."""
        for entry in reversed(self._entries):
            if entry.language == document.language and entry.uri != document.uri:
                yield entry.uri, Snippet(entry.uri, entry.text)


def _replaces(new: _Entry, old: _Entry) -> bool:
    if new.uri == old.uri and abs(new.first_line - old.first_line) < LINES:
        return True
    common = len(new.lines & old.lines)
    return common >= _SAME * min(len(new.lines), len(old.lines)) if old.lines else True


def indentation(path: Path | None) -> str:
    """A level: a tab or some spaces; empty where `.editorconfig` says nothing or cannot be read."""
    if path is None:
        return ""
    try:
        properties = get_properties(str(path))
    except (EditorConfigError, OSError, UnicodeError):
        return ""
    style, size = properties.get("indent_style"), properties.get("indent_size", "")
    if style == "tab":
        return "\t"
    size = properties.get("tab_width", "") if size == "tab" else size
    return " " * int(size) if style == "space" and size.isdecimal() and 0 < int(size) <= 16 else ""
