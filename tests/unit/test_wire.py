"""What crosses a process boundary comes out as it went in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.client import strict, wire
from blockdiff.config import SEEDS, DecodingConfig, Mode, Rule
from blockdiff.errors import BlockdiffError, Cancelled, EngineMismatch, InvalidRequest
from blockdiff.types import (
    Extent,
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Priority,
    Progress,
    Refinement,
    Snippet,
    Span,
    SyntaxState,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
shares = st.floats(0, 1).map(lambda share: round(share, 4))
counts = st.integers(0, 10**6)
times = st.floats(0, 1e6).map(lambda time: round(time, 1))
decodings = st.builds(
    DecodingConfig,
    mode=st.sampled_from(Mode),
    rule=st.sampled_from(Rule),
    block_size=st.integers(0, 64),
    threshold=st.floats(0.01, 1),
    max_tokens=st.integers(1, 8192),
    temperature=st.floats(0, 10),
    seed=st.integers(*SEEDS),
)


@st.composite
def calls(draw: st.DrawFn) -> wire.Call:
    document = draw(texts)
    start = draw(st.integers(0, len(document)))
    end = draw(st.integers(start, len(document)))
    behind = range(end + 1, len(document) + 1)[:7]
    request = InfillRequest(
        document=document,
        hole=Hole(start, end),
        also=tuple(Hole(at, at) for at in behind if draw(st.booleans())),
        revise=draw(st.booleans()),
        path=draw(texts),
        snippets=tuple(draw(st.lists(st.builds(Snippet, texts, texts), max_size=2))),
        decoding=draw(decodings),
        context_tokens=draw(st.integers(16, 10**6)),
        request_id=draw(texts),
        extent=draw(st.sampled_from(Extent)),
    )
    return wire.Call(request, draw(st.sampled_from(Priority)), draw(texts))


spans = st.builds(Span, counts, counts, st.booleans(), shares)
finished = st.builds(
    Finished, request_id=texts, hole=counts, text=texts, tokens=counts, forwards=counts,
    finish=st.sampled_from(FinishReason), syntax=st.sampled_from(SyntaxState), mode=texts,
    model=texts, elapsed_ms=times, first_ms=times, context_tokens=counts, cached_tokens=counts,
)  # fmt: skip
events = st.one_of(
    st.builds(Progress, texts, texts, shares),
    st.builds(
        Refinement, texts, counts, counts, texts, st.lists(spans).map(tuple), counts, counts, times
    ),
    finished,
    st.builds(Filled, texts, st.lists(finished, min_size=1, max_size=3).map(tuple), times),
)


@given(calls())
def test_a_request_survives_the_way(call: wire.Call) -> None:
    body = json.dumps(wire.call_to_json(call)).encode()
    assert wire.call_from_json(strict.parse(body)) == call


@given(events)
def test_an_event_survives_the_way(event: Any) -> None:
    line = json.dumps(wire.event_to_json(event))
    assert len(line.splitlines()) == 1  # whatever the text holds, U+2028 and form feeds included
    assert wire.event_from_json(json.loads(line)) == event


def kinds(base: type[BlockdiffError] = BlockdiffError) -> list[type[BlockdiffError]]:
    return [base, *(kind for sub in base.__subclasses__() for kind in kinds(sub))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_every_error_survives_the_way_with_its_type(kind: type[BlockdiffError]) -> None:
    with pytest.raises(BlockdiffError) as failure:
        wire.event_from_json(wire.error_to_json(kind("what", "how")))
    assert type(failure.value) is kind
    assert (failure.value.message, failure.value.hint) == ("what", "how")


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(codes) == len(set(codes))


def test_an_error_of_a_newer_version_is_still_an_error() -> None:
    error = wire.error_from_json({"code": "not_yet_invented", "message": "what"})
    assert type(error) is BlockdiffError and error.message == "what"


@pytest.mark.parametrize(
    "value",
    [{}, {"event": "other"}, {"event": "refinement"}, {"event": "refinement", "spans": [[1]]}],
)
def test_what_is_no_event_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        wire.event_from_json(value)


def test_an_engine_of_another_protocol_is_told_apart_from_no_engine() -> None:
    with pytest.raises(EngineMismatch, match="0.9"):
        wire.Health.from_json({"api": 999, "version": "0.9", "new": "field"})
    with pytest.raises(InvalidRequest):
        wire.Health.from_json({"status": "ok"})


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | texts,
                    lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))  # fmt: skip
def test_no_json_value_is_more_than_an_invalid_request(value: Any) -> None:
    for where in ("document", "hole", "snippets", "decoding", "priority", "context_tokens"):
        body = {"document": "", "hole": {"start": 0, "end": 0}, where: value}
        try:
            wire.call_from_json(body)
        except InvalidRequest as error:
            assert error.message


@given(st.binary(max_size=50))
def test_no_bytes_are_more_than_an_invalid_request(body: bytes) -> None:
    try:
        wire.call_from_json(strict.parse(body))
    except InvalidRequest as error:
        assert error.message


def test_cancelled_is_what_a_superseded_request_is_too() -> None:
    assert isinstance(wire.error_from_json({"code": "superseded"}), Cancelled)


@pytest.mark.parametrize(
    ("speed", "most", "tokens"),
    [
        (0.0, 4096, 512), (220.0, 4096, 323), (260.0, 4096, 323), (280.0, 4096, 406),
        (1.0, 4096, 128), (1e9, 4096, 4096), (1e9, 300, 300), (150.0, 200, 200),
    ],
)  # fmt: skip
def test_the_context_that_a_machine_affords_is_one_of_a_few_sizes(
    speed: float, most: int, tokens: int
) -> None:
    """A speed that is measured a little otherwise moves no window."""
    assert wire.affordable_context(speed, 1.5, most) == tokens
