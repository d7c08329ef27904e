"""What is shown of other files, fixed for a place: typing there changes nothing of it.

The engine keeps what it has encoded for as long as the context begins the same. So what was chosen
for a line holds while somebody types in it, and in the lines around it for as long as nothing is
missing: until the cursor moves on, another document was worked on, or an attribute is completed of
something that is not there yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blockdiff.syntax.grammars import language_of
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.types import Hole, Snippet
from blockdiff.workspace.pieces import ContextPieces, context_pieces
from blockdiff.workspace.receivers import completed
from lsp_server.document import Document
from lsp_server.recent_edits import RecentEdits
from lsp_server.ring import Ring
from lsp_server.settings import ContextSettings
from lsp_server.uris import file_of, files_of, name_of, whole_characters
from lsp_server.workspaces import Workspaces

_AROUND = 40  # lines that a choice holds for


@dataclass(slots=True)
class _Held:
    """Attributes:
    line: the last one it was used in; `first`: the one it was chosen in.
    receiver: what an attribute was completed of there; empty: of nothing.
    turn: see `Places`.
    uris: of the ring and the edits in it.
    """

    pieces: ContextPieces
    first: int
    line: int
    receiver: str
    turn: int
    settings: ContextSettings
    uris: frozenset[str]


class Places:
    """Chooses, and remembers one choice for each document."""

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
        language = language_of(name_of(document.uri), document.language)
        asked = completed(text[max(0, hole.start - 400) : hole.start], language)
        receiver = asked[0] if asked else ""
        if held is not None and (held.turn, held.settings) == (self._turn, settings):
            if self._may_show(document, held):
                if held.line == line and receiver in ("", held.receiver):
                    return held.pieces
                pieces, uris = self._chosen(document, text, hole, settings, window)
                if abs(line - held.first) <= _AROUND and pieces.needed <= held.pieces.shown:
                    held.line, held.receiver = line, receiver
                    return held.pieces
                self._held[document.uri] = _Held(
                    pieces, line, line, receiver, self._turn, settings, uris
                )
                return pieces
        pieces, uris = self._chosen(document, text, hole, settings, window)
        self._held[document.uri] = _Held(pieces, line, line, receiver, self._turn, settings, uris)
        return pieces

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
        if index is not None and not all(map(index.is_open, paths)):
            return False
        return all(map(self._is_open, held.uris))

