"""What the model is shown of a document and of those around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blockdiff.client.wire import affordable_context
from blockdiff.config import DecodingConfig
from blockdiff.system.ignored import Ignored as IgnoreFiles
from blockdiff.system.ignored import Verdict
from blockdiff.types import Extent, Hole, InfillRequest, RewriteRequest, Snippet
from lsp_server.document import Document
from lsp_server.documents import Documents
from lsp_server.engine import EngineLink
from lsp_server.failures import Ignored
from lsp_server.indentation import indentation
from lsp_server.settings import ContextSettings
from lsp_server.snippets import Ring
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
