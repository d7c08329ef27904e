"""The text from the first of several holes to the last, shown and written as if it were one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from blockdiff.types import Filled, Hole, InfillRequest, Refinement, Span


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
