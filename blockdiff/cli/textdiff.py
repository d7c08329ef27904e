"""What changed: the unified diff of a filled hole, as `patch -p1` and `git apply` take it, and
several holes as the one stretch of text from the first to the last.

Only the lines around the hole are compared, so a large file costs no more than a small one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from blockdiff.cli.source_file import SourceFile
from blockdiff.types import Filled, Hole, InfillRequest, Refinement, Span

CONTEXT_LINES = 3
_NO_NEWLINE = "\\ No newline at end of file\n"


def unified_diff(source: SourceFile, hole: Hole, text: str) -> Iterator[str]:
    """Lines of the diff, each ending with a newline; nothing if the text is what was there.

    A diff knows no line ending but LF: a CR before it is part of the line.
    """
    before = source.text
    after = source.replaced(hole, text)
    if before == after:
        return
    start, first_line = _window_start(before, hole.start)
    old = _lines(before[start : _window_end(before, hole.end)])
    end = _window_end(after, hole.start + len(text))
    new = _lines(after[start:end])

    yield from _header(source)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        old_range = _range(first_line, group[0][1], group[-1][2])
        new_range = _range(first_line, group[0][3], group[-1][4])
        yield f"@@ -{old_range} +{new_range} @@\n"
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                yield from _marked(" ", old[old_from:old_to])
                continue
            yield from _marked("-", old[old_from:old_to])
            yield from _marked("+", new[new_from:new_to])


def _window_start(text: str, offset: int) -> tuple[int, int]:
    """Start of the line `CONTEXT_LINES` above an offset, and its 0-based number."""
    start = offset
    for _ in range(CONTEXT_LINES + 1):
        start = text.rfind("\n", 0, start)
        if start < 0:
            return 0, 0
    return start + 1, text.count("\n", 0, start + 1)


def _window_end(text: str, offset: int) -> int:
    """End of the line `CONTEXT_LINES` below an offset, its newline included."""
    end = offset
    for _ in range(CONTEXT_LINES + 1):
        end = text.find("\n", end) + 1
        if end == 0:
            return len(text)
    return end


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def _header(source: SourceFile) -> tuple[str, str]:
    path = PurePath("stdin") if source.path is None else source.path
    if path.is_absolute():
        return f"--- {path}\n", f"+++ {path}\n"
    name = path.as_posix()
    return f"--- a/{name}\n", f"+++ b/{name}\n"


def _range(first_line: int, start: int, stop: int) -> str:
    length = stop - start
    line = first_line + start + (1 if length else 0)  # an empty range names the line before it
    return str(line) if length == 1 else f"{line},{length}"


def _marked(mark: str, lines: list[str]) -> Iterator[str]:
    for line in lines:
        yield mark + line
        if not line.endswith("\n"):
            yield "\n"
            yield _NO_NEWLINE


@dataclass(slots=True)
class Stretch:
    """Puts the drafts of a request's holes between the text that stays."""

    request: InfillRequest
    _drafts: dict[int, Refinement] = field(default_factory=dict)

    @property
    def hole(self) -> Hole:
        """Of the document, all holes within it."""
        holes = self.request.holes
        return Hole(min(hole.start for hole in holes), max(hole.end for hole in holes))

    def shown(self, draft: Refinement) -> Refinement:
        """The stretch with this draft and the latest one of every other hole."""
        self._drafts[draft.hole] = draft
        text, spans, at = "", list[Span](), self.hole.start
        for index, hole in self._in_order():
            text = self._kept(text, spans, at, hole.start)
            if (own := self._drafts.get(index)) is not None:
                moved = len(text)
                spans += [replace(s, start=s.start + moved, end=s.end + moved) for s in own.spans]
                text += own.text
            at = hole.end
        latest = self._drafts.values()
        return replace(
            draft,
            hole=0,
            text=text,
            spans=tuple(spans),
            step=sum(one.step for one in latest),
            forwards=sum(one.forwards for one in latest),
        )

    def text(self, end: Filled) -> str:
        """The stretch as it is at the end."""
        held = self.request.holding([hole.text for hole in end.holes])
        behind = len(self.request.document) - self.hole.end
        return held.document[self.hole.start : len(held.document) - behind]

    def _in_order(self) -> list[tuple[int, Hole]]:
        return sorted(enumerate(self.request.holes), key=lambda one: one[1].start)

    def _kept(self, text: str, spans: list[Span], start: int, end: int) -> str:
        kept = self.request.document[start:end]
        if kept:
            spans.append(Span(len(text), len(text) + len(kept), True, 1.0))
        return text + kept
