"""What the model is shown of a document and of those around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editorconfig import EditorConfigError, get_properties

from blockdiff.client.wire import affordable_context
from blockdiff.config import DecodingConfig
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.types import Extent, Hole, InfillRequest, RewriteRequest
from lsp_server.document import Document
from lsp_server.documents import Documents
from lsp_server.engine_link import EngineLink
from lsp_server.failures import Ignored
from lsp_server.places import Places
from lsp_server.settings import ContextSettings
from lsp_server.uris import file_of, files_of, name_of, whole_characters


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
