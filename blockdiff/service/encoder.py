"""The messages of one stream as server-sent events.

Successive refinements begin with the same settled text: what was written of it stays written, so
that a long draft costs no more with every one of them than what is new in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from blockdiff.client import wire
from blockdiff.errors import BlockdiffError
from blockdiff.service.scheduler import Message
from blockdiff.types import Refinement, Span, Unread


@dataclass
class _Start:
    """The settled start of a draft, and what it looks like in JSON.

    Attributes:
        text_json, spans_json: without the quotes, the brackets and the comma at the end.
        settled: ranges of the text, as of `Refinement`.
        confidence: sum over its spans.
    """

    text: str = ""
    spans: tuple[Span, ...] = ()
    text_json: str = ""
    spans_json: str = ""
    settled: list[list[int]] = field(default_factory=list)
    confidence: float = 0.0

    def begins(self, draft: Refinement) -> bool:
        return draft.spans[: len(self.spans)] == self.spans and draft.text.startswith(self.text)

    def with_next(self, draft: Refinement, count: int) -> _Start:
        """What the first `count` spans of a draft look like that begins with this."""
        spans = draft.spans[len(self.spans) : count]
        if not spans:
            return self
        start, end = len(self.text), spans[-1].end
        settled, confidence = [list(some) for some in self.settled], self.confidence
        for span in spans:
            confidence += span.confidence
            if span.settled and settled and settled[-1][1] == span.start:
                settled[-1][1] = span.end
            elif span.settled:
                settled.append([span.start, span.end])
        more = ", ".join(map(_span, spans))
        return _Start(
            draft.text[:end],
            draft.spans[:count],
            self.text_json + json.dumps(draft.text[start:end])[1:-1],
            f"{self.spans_json}, {more}" if self.spans_json else more,
            settled,
            confidence,
        )


class EventEncoder:
    """Of one stream."""

    def __init__(self) -> None:
        self._starts: dict[int, _Start] = {}  # by hole

    def event(self, message: Message) -> bytes:
        """A message as a server-sent event; a refinement is built here."""
        if isinstance(message, Unread):
            message = message.read()
        if isinstance(message, Refinement):
            return f"event: refinement\ndata: {self.refinement(message)}\n\n".encode()
        if isinstance(message, BlockdiffError):
            value = wire.error_to_json(message)
        else:
            value = wire.event_to_json(message)
        return f"event: {value['event']}\ndata: {json.dumps(value)}\n\n".encode()

    def refinement(self, draft: Refinement) -> str:
        """The JSON of `wire.event_to_json`."""
        start = self._starts.get(draft.hole, _Start())
        if not start.begins(draft):
            start = _Start()
        spans, count = draft.spans, len(start.spans)
        while count < len(spans) and spans[count].settled:
            count += 1
        start = self._starts[draft.hole] = start.with_next(draft, count)
        whole = start.with_next(draft, len(spans))
        rest = json.dumps(draft.text[len(start.text) :])[1:-1]
        confidence = whole.confidence / len(spans) if spans else 1.0
        frame = wire.event_to_json(
            Refinement(
                draft.request_id, draft.seq, draft.hole, "", (),
                draft.step, draft.forwards, draft.elapsed_ms,
            )
        )  # fmt: skip
        values = {name: json.dumps(value) for name, value in frame.items()} | {
            "text": f'"{start.text_json}{rest}"',
            "settled": json.dumps(whole.settled),
            "confidence": json.dumps(round(confidence, 4)),
            "spans": f"[{whole.spans_json}]",
        }
        return "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"


def _span(span: Span) -> str:
    settled = "true" if span.settled else "false"
    return f"[{span.start}, {span.end}, {settled}, {round(span.confidence, 4)!r}]"
