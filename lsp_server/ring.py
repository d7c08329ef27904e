"""Parts of other open documents that may help: the places edited last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blockdiff.types import Snippet
from lsp_server.document import Document

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
