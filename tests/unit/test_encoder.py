"""What a stream writes is what the wire says, whatever was written before."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.client import wire
from blockdiff.service.stream import EventEncoder
from blockdiff.types import Refinement, Span, Unread

pieces = st.tuples(
    st.text(min_size=1, max_size=4), st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 1 / 3])
)


def drawn(draft: list[tuple[str, bool, float]], hole: int, seq: int) -> Refinement:
    spans, at = [], 0
    for text, settled, confidence in draft:
        spans.append(Span(at, at + len(text), settled, confidence))
        at += len(text)
    text = "".join(text for text, _, _ in draft)
    return Refinement("r", seq, hole, text, tuple(spans), seq + 1, seq + 2, 1.25)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.lists(pieces, max_size=4), st.integers(0, 1)),
                max_size=8))  # fmt: skip
def test_a_refinement_is_written_as_the_wire_says(
    changes: list[tuple[int, list[tuple[str, bool, float]], int]],
) -> None:
    """Drafts that go on behind what is settled, and others that take some of it back."""
    encoder, drafts = EventEncoder(), {0: [], 1: []}  # type: ignore[var-annotated]
    for seq, (kept, more, hole) in enumerate(changes):
        drafts[hole] = [*drafts[hole][:kept], *more]
        refinement = drawn(drafts[hole], hole, seq)
        name, data = encoder.event(refinement).decode().rstrip("\n").split("\n")
        assert name == "event: refinement"
        assert data.removeprefix("data: ") == json.dumps(wire.event_to_json(refinement))


def test_a_refinement_is_built_when_it_is_written() -> None:
    built: list[int] = []

    def build() -> Refinement:
        built.append(1)
        return drawn([("x", True, 1.0)], 0, 0)

    unread = Unread(build, seq=7, forwards=9, hole=2)
    assert not built
    written = json.loads(EventEncoder().event(unread).decode().split("data: ")[1])
    assert (written["seq"], written["forwards"], written["hole"]) == (7, 9, 2)
    assert len(built) == 1
