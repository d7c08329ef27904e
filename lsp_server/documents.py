"""The open documents, and places in them that are followed through edits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blockdiff.errors import InvalidRequest
from lsp_server.document import Change, Document, Encoding, Range
from lsp_server.failures import ContentModified


@dataclass(eq=False)
class Followed:
    """Spans of a document that something is being written for.

    Attributes:
        spans: start and end of each, in offsets of the text as it stands now.
        lost: called once, when an edit touches one of them or the document is closed.
    """

    document: Document
    spans: list[tuple[int, int]]
    lost: Callable[[], object]
    is_lost: bool = False

    def lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.lost()

    def move(self, change: Change) -> None:
        """Follow one edit."""
        if any(_touches(change, start, end) for start, end in self.spans):
            self.lose()
            return
        by = change.size - (change.end - change.start)
        self.spans = [
            (start + by, end + by) if change.end <= start else (start, end)
            for start, end in self.spans
        ]


class Documents:
    """Attributes: encoding: what `character` counts, as negotiated."""

    def __init__(self) -> None:
        self.encoding = Encoding.UTF16
        self._open: dict[str, Document] = {}
        self._followed: list[Followed] = []

    def get(self, uri: str, version: int | None = None) -> Document:
        """An open document, at `version` if that is given and above 0.

        Raises:
            InvalidRequest: it is not open.
            ContentModified: it is of another version by now.
        """
        document = self._open.get(uri)
        if document is None:
            raise InvalidRequest(
                "the document is not open in this editor", "open it before asking for code in it"
            )
        if version and document.version is not None and version != document.version:
            raise ContentModified(
                f"the request is for version {version}, the document is at {document.version}"
            )
        return document

    def opened(self, uri: str, language: str, version: int | None, text: str) -> Document:
        """Take up a document; one that was open under this name is replaced."""
        self.closed(uri)
        document = Document(uri, text, language=language, version=version, encoding=self.encoding)
        self._open[uri] = document
        return document

    def changed(
        self, uri: str, version: int | None, changes: list[tuple[Range | None, str]]
    ) -> list[Change]:
        """Apply changes in order; a range of None replaces the whole text."""
        document = self.get(uri)
        made = []
        for span, text in changes:
            change = document.replace_all(text) if span is None else document.replace(span, text)
            made.append(change)
            for followed in self._following(document):
                followed.move(change)
        document.version = version
        return made

    def closed(self, uri: str) -> None:
        """Forget a document; what is written for it is lost."""
        document = self._open.pop(uri, None)
        for followed in self._following(document) if document else ():
            followed.lose()

    @contextlib.contextmanager
    def follow(
        self, document: Document, spans: list[tuple[int, int]], lost: Callable[[], object]
    ) -> Iterator[Followed]:
        """Follow spans through edits for as long as the context lasts."""
        followed = Followed(document, spans, lost)
        self._followed.append(followed)
        try:
            yield followed
        finally:
            self._followed.remove(followed)

    def _following(self, document: Document | None) -> list[Followed]:
        return [followed for followed in self._followed if followed.document is document]


def _touches(change: Change, start: int, end: int) -> bool:
    """Whether an edit reaches into a span, or inserts at one of its edges."""
    return change.start <= end and start <= change.end
