"""What the model is shown of a document and of those around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from editorconfig import EditorConfigError, get_properties

from blockdiff.client.wire import affordable_context
from blockdiff.config import DecodingConfig
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.types import Extent, Hole, InfillRequest, RewriteRequest, Snippet
from blockdiff.workspace.pieces import ContextPieces, context_pieces
from lsp_server.document import Document
from lsp_server.documents import Documents
from lsp_server.engine_link import EngineLink
from lsp_server.failures import Ignored
from lsp_server.recent import RecentEdits, Ring
from lsp_server.settings import ContextSettings
from lsp_server.uris import file_of, files_of, name_of, whole_characters
from lsp_server.workspaces import Workspaces

_AROUND = 40  # lines that a choice holds for


@dataclass(slots=True)
class _Held:
    """Attributes:
    line: the last one it was used in; `first`: the one it was chosen in.
    turn: see `Places`.
    uris: of the ring and the edits in it.
    """

    pieces: ContextPieces
    first: int
    line: int
    turn: int
    settings: ContextSettings
    uris: frozenset[str]


class Places:
    """Chooses what is shown of other files, and remembers one choice for each document.

    The engine keeps what it has encoded for as long as the context begins the same. So what was
    chosen for a line holds while somebody types in it, whatever that is, and in the lines around it
    for as long as nothing is missing there, unless another document was worked on meanwhile.
    """

    def __init__(
        self, workspaces: Workspaces, ring: Ring, edits: RecentEdits, ignored: IgnoreFiles
    ) -> None:
        self._workspaces, self._ring, self._edits = workspaces, ring, edits
        self._ignored = ignored
        self._held: dict[str, _Held] = {}
        self._turn = 0  # counts how often another document was turned to
        self._last = ""

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._held.pop(uri, None)

    def pieces(
        self, document: Document, text: str, hole: Hole, settings: ContextSettings, window: int
    ) -> ContextPieces:
        """For a hole of `text`, the document or that with something put around its holes."""
        if document.uri != self._last:
            self._last, self._turn = document.uri, self._turn + 1
        held = self._held.get(document.uri)
        line = text.count("\n", 0, hole.start)
        if held is not None and not self._holds(held, document, settings):
            held = None
        if held is not None and held.line == line:
            return held.pieces
        pieces, uris = self._chosen(document, text, hole, settings, window)
        if held is not None and abs(line - held.first) <= _AROUND:
            if pieces.needed <= held.pieces.shown:
                held.line = line
                return held.pieces
        self._held[document.uri] = _Held(pieces, line, line, self._turn, settings, uris)
        return pieces

    def _holds(self, held: _Held, document: Document, settings: ContextSettings) -> bool:
        same = (held.turn, held.settings) == (self._turn, settings)
        return same and self._may_show(document, held)

    def _chosen(
        self, document: Document, text: str, hole: Hole, settings: ContextSettings, window: int
    ) -> tuple[ContextPieces, frozenset[str]]:
        path = file_of(document.uri)
        index = self._workspaces.index_of(path) if settings.workspace else None
        edits = list(self._recent(document, text, hole)) if settings.snippets else []
        ring = list(self._related(document)) if settings.snippets else []
        pieces = context_pieces(
            index,
            text,
            hole,
            str(path) if path else "",
            document.language,
            int(window * settings.workspace_share),
            window=window,
            edits=[snippet for _, snippet in edits],
            ring=[snippet for _, snippet in ring],
        )
        return pieces, frozenset(uri for uri, _ in (*edits, *ring))

    def _recent(
        self, document: Document, text: str, hole: Hole
    ) -> Iterator[tuple[str, Snippet]]:
        for uri, diff in self._edits.diffs(document, text.count("\n", 0, hole.start)):
            if self._is_open(uri):
                yield uri, Snippet(f"{name_of(uri) or 'untitled'}.diff", whole_characters(diff))

    def _related(self, document: Document) -> Iterator[tuple[str, Snippet]]:
        for uri, snippet in self._ring.related(document):
            if self._is_open(uri):
                yield uri, Snippet(name_of(uri) or "untitled", whole_characters(snippet.text))

    def _is_open(self, uri: str) -> bool:
        return self._ignored.strictest(files_of(uri)) is Verdict.OPEN

    def _may_show(self, document: Document, held: _Held) -> bool:
        """Whether nothing in a choice was put on an ignore list since."""
        path = file_of(document.uri)
        index = self._workspaces.index_of(path)
        paths = {key[0] for key in held.pieces.shown}
        if index is not None and not all(map(index.open_files(), paths)):
            return False
        return all(map(self._is_open, held.uris))


@dataclass(slots=True)
class Context:
    """Gathers it, within the budget of the machine.

    Attributes:
        settings: replaced when they change.
        engine: says how fast it encodes.
    """

    documents: Documents
    settings: ContextSettings
    places: Places
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
        path, budget = file_of(document.uri), self.budget
        pieces = self.places.pieces(document, text, holes[0], self.settings, budget)
        return InfillRequest(
            document=whole_characters(text),
            hole=holes[0],
            also=tuple(holes[1:]),
            path=name_of(document.uri),
            language=document.language,
            indentation=indentation(path),
            snippets=pieces.snippets,
            snippet_tokens=pieces.tokens,
            decoding=decoding,
            context_tokens=budget,
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
        budget = self.budget
        pieces = self.places.pieces(document, text, span, self.settings, budget)
        return RewriteRequest(
            document=whole_characters(text),
            span=span,
            instruction=instruction,
            strength=strength,
            path=name_of(document.uri),
            language=document.language,
            snippets=pieces.snippets,
            decoding=decoding,
            context_tokens=budget,
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
