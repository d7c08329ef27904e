"""What was edited lately, as small diffs: what somebody does next often follows from it."""

from __future__ import annotations

import difflib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from lsp_server.document import Document

_KEPT = 6
_MOST_LINES = 12  # of one diff
_NEAR = 12  # lines: an edit further away is another one
_REST_SECONDS = 90.0  # after which the next edit is another one
_MOST_CHARACTERS = 200_000  # of a document whose edits are followed


@dataclass(slots=True)
class _Edit:
    """Attributes:
    base: the document before it; `after`: as it stood last.
    line: where it was touched last.
    """

    uri: str
    language: str
    base: str
    after: str
    line: int
    seconds: float


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
            last.after, last.line, last.seconds = text, line, now
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
            if text := _diff(edit.base, edit.after):
                yield edit.uri, text


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
