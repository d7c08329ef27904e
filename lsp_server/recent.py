"""What was worked on lately: what somebody does next often follows from it.

Edits as small diffs, and the parts of other open documents around the places edited last.
"""

from __future__ import annotations

import difflib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from blockdiff.types import Snippet
from lsp_server.document import Document

_KEPT = 6
_MOST_LINES = 12  # of one diff
_NEAR = 12  # lines: an edit further away is another one
_REST_SECONDS = 90.0  # after which the next edit is another one
_MOST_CHARACTERS = 200_000  # of a document whose edits are followed

_MOST_SNIPPETS = 16
_SNIPPET_LINES = 48
_SNIPPET_CHARACTERS = 4_000
_SAME = 0.8  # share of common lines above which two snippets say the same


@dataclass(slots=True)
class _Edit:
    """Attributes:
    base: the document before it; `after`: as it stood last.
    line: where it was touched last.
    diff: None until somebody asks.
    """

    uri: str
    language: str
    base: str
    after: str
    line: int
    seconds: float
    diff: str | None = None


class RecentEdits:
    """Of the open documents, one entry for each place."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._edits: deque[_Edit] = deque(maxlen=_KEPT)

    def opened(self, document: Document) -> None:
        if len(document.text) <= _MOST_CHARACTERS:
            self._texts[document.uri] = document.text

    def note(self, document: Document, line: int) -> None:
        """A document was changed at a line."""
        text, now = document.text, time.monotonic()
        before = self._texts.get(document.uri)
        if before is None or len(text) > _MOST_CHARACTERS:
            self._texts.pop(document.uri, None)
            return
        self._texts[document.uri] = text
        last = next((e for e in reversed(self._edits) if e.uri == document.uri), None)
        near = last is not None and abs(line - last.line) <= _NEAR
        if last is not None and near and now - last.seconds < _REST_SECONDS:
            last.after, last.line, last.seconds, last.diff = text, line, now, None
            self._edits.remove(last)
            self._edits.append(last)
        else:
            self._edits.append(
                _Edit(document.uri, document.language, before, text, line, now)
            )

    def forget(self, uri: str) -> None:
        """A document was closed; what was done in it is kept."""
        self._texts.pop(uri, None)

    def diffs(self, document: Document, line: int) -> Iterator[tuple[str, str]]:
        """URI and diff of the edits, the latest first, but for that around a line itself."""
        for edit in reversed(self._edits):
            if edit.language != document.language:
                continue
            if edit.uri == document.uri and abs(edit.line - line) <= 2 * _NEAR:
                continue
            if edit.diff is None:
                edit.diff = _diff(edit.base, edit.after)
            if edit.diff:
                yield edit.uri, edit.diff


def _diff(before: str, after: str) -> str:
    """The changed lines with one around them; empty where there are too many, or none."""
    old, new = before.splitlines(), after.splitlines()
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    most = min(len(old), len(new)) - start
    while end < most and old[len(old) - 1 - end] == new[len(new) - 1 - end]:
        end += 1
    start, end = max(0, start - 1), max(0, end - 1)
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    if max(len(old), len(new)) > 4 * _MOST_LINES:
        return ""
    lines = [
        line
        for line in difflib.unified_diff(old, new, n=1, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    removed, added = (
        ["".join(line[1:].split()) for line in lines if line[0] == mark] for mark in "-+"
    )
    same = [line for line in removed if line] == [line for line in added if line]
    if same or len(lines) > _MOST_LINES:  # blanks alone say nothing
        return ""
    return "\n".join(lines) + "\n"


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
        first = max(0, min(line - _SNIPPET_LINES // 2, document.line_count - _SNIPPET_LINES))
        text = "\n".join(document.line(n) for n in range(first, first + _SNIPPET_LINES)).rstrip()
        entry = _Entry(
            document.uri,
            document.language,
            first,
            text[:_SNIPPET_CHARACTERS] + "\n",
            frozenset(stripped for row in text.split("\n") if len(stripped := row.strip()) > 2),
        )
        self._entries = [old for old in self._entries if not _replaces(entry, old)]
        if entry.lines:
            self._entries.append(entry)
        del self._entries[:-_MOST_SNIPPETS]

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._entries = [entry for entry in self._entries if entry.uri != uri]

    def related(self, document: Document) -> Iterator[tuple[str, Snippet]]:
        """URI and snippet of the other documents of its language, the latest first."""
        for entry in reversed(self._entries):
            if entry.language == document.language and entry.uri != document.uri:
                yield entry.uri, Snippet(entry.uri, entry.text)


def _replaces(new: _Entry, old: _Entry) -> bool:
    if new.uri == old.uri and abs(new.first_line - old.first_line) < _SNIPPET_LINES:
        return True
    common = len(new.lines & old.lines)
    return common >= _SAME * min(len(new.lines), len(old.lines)) if old.lines else True
