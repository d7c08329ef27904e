"""The engine over a tiny random checkpoint: requests in, refinements and one end out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.engine.contexts import resolved
from blockdiff.engine.draft_text import DraftText, draft_text
from blockdiff.engine.engine import Engine
from blockdiff.engine.forward_times import ContextSpeed
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.types import Finished, FinishReason, Hole, InfillRequest, Refinement, SyntaxState
from tests.unit.tiny_checkpoint import checkpoint

DOCUMENT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"
HOLE = Hole(29, 29)
LOOKS_A_CHUNK = 1 + checkpoint().model.config.n_layers  # at the cancel flag, before and while


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(checkpoint())


def request(**changes: object) -> InfillRequest:
    decoding = DecodingConfig(**{"max_tokens": 12, "seed": 3} | changes)  # type: ignore[arg-type]
    return InfillRequest(DOCUMENT, HOLE, path="area.py", decoding=decoding, request_id="r1")


def after(looks: int) -> Callable[[], bool]:
    """A cancel flag that is up from the look after `looks` ones."""
    counted = itertools.count()
    return lambda: next(counted) >= looks


def finish(engine: Engine, wanted: InfillRequest) -> Finished:
    last = list(engine.infill(wanted))[-1]
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize("mode", list(Mode))
def test_a_stream_is_refinements_and_then_one_end(engine: Engine, mode: Mode) -> None:
    *refinements, end = engine.infill(request(mode=mode))
    assert isinstance(end, Finished) and end.mode == mode.value and end.request_id == "r1"
    assert refinements and all(isinstance(r, Refinement) for r in refinements)
    assert [r.seq for r in refinements] == list(range(len(refinements)))
    assert end.forwards == refinements[-1].forwards <= 2 * 12 + 1
    assert end.tokens <= 12 and end.finish in FinishReason


@pytest.mark.parametrize("mode", list(Mode))
def test_spans_cover_the_text_of_every_refinement(engine: Engine, mode: Mode) -> None:
    for refinement in list(engine.infill(request(mode=mode)))[:-1]:
        edges = [(span.start, span.end) for span in refinement.spans]
        assert "".join(refinement.text[a:b] for a, b in edges) == refinement.text
        assert all(0.0 <= span.confidence <= 1.0 for span in refinement.spans)


def test_verify_writes_what_ar_writes(engine: Engine) -> None:
    texts = {finish(engine, request(mode=mode)).text for mode in (Mode.AR, Mode.VERIFY)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("path", "language", "head", "known"),
    [
        ("area.py", "", "", True),
        ("area.txt", " Python ", "", True),
        ("area", "", "#!/usr/bin/env python3\r\n", True),
        ("area", "", "", False),
    ],
)
def test_the_language_is_found_by_its_id_the_path_or_the_first_line(
    engine: Engine, path: str, language: str, head: str, known: bool
) -> None:
    at = len(head) + HOLE.start
    wanted = InfillRequest(head + DOCUMENT, Hole(at, at), path, language)
    end = finish(engine, replace(wanted, decoding=request().decoding))
    assert (end.syntax is not SyntaxState.SKIPPED) == known


@pytest.mark.parametrize("mode", list(Mode))
def test_the_same_request_and_seed_give_the_same_text_cold_or_warm(mode: Mode) -> None:
    wanted = request(mode=mode, temperature=1.0, top_p=0.9)
    cold = Engine(checkpoint())
    first, warm = finish(cold, wanted), finish(cold, wanted)
    assert first.text == warm.text
    assert first.cached_tokens == 0 and warm.cached_tokens > first.context_tokens // 2


@pytest.mark.parametrize("mode", list(Mode))
def test_a_cancelled_request_leaves_nothing_behind(mode: Mode) -> None:
    engine, wanted = Engine(checkpoint()), request(mode=mode)
    expected = finish(engine, wanted).text
    other = replace(wanted, document="x = 1\n" * 9)
    for allowed in range(4):
        with pytest.raises(Cancelled):
            list(engine.infill(other, after(allowed)))
        assert finish(engine, wanted).text == expected


# One session of an editor: what is typed where, and how soon it is given up (-1: not at all).
EDITS = st.lists(
    st.tuples(st.sampled_from(["re", "turn w", "\n    ", "", "x = 1\n"]), st.integers(0, 60),
              st.integers(-1, 3)),
    max_size=5,
)  # fmt: skip


@settings(deadline=None, max_examples=15)
@given(edits=EDITS, mode=st.sampled_from(list(Mode)), kept=st.sampled_from([0, 1 << 16, 1 << 29]))
def test_whatever_was_asked_before_the_text_is_the_same(
    edits: list[tuple[str, int, int]], mode: Mode, kept: int
) -> None:
    """Invariants 6 and 7, for any history and any size of the cache."""
    warm, document = Engine(checkpoint(), kept), DOCUMENT * 3
    for text, at, patience in edits:
        document = document[:at] + text + document[at:]
        hole = Hole(at + len(text), at + len(text))
        wanted = replace(request(mode=mode, max_tokens=4), document=document, hole=hole)
        if patience >= 0:
            with contextlib.suppress(Cancelled):
                list(warm.infill(wanted, after(patience)))
        else:
            expected = finish(Engine(checkpoint()), wanted)
            got = finish(warm, wanted)
            assert (got.text, got.forwards) == (expected.text, expected.forwards)
        assert warm.cache_bytes <= kept


def test_context_that_a_cancelled_request_encoded_is_not_encoded_again() -> None:
    engine, wanted = Engine(checkpoint()), replace(request(), document=DOCUMENT * 5)
    with pytest.raises(Cancelled):
        list(engine.infill(wanted, after(LOOKS_A_CHUNK)))
    end = finish(engine, wanted)
    assert 16 < end.cached_tokens < end.context_tokens - 16
    assert end.text == finish(Engine(checkpoint()), wanted).text


def test_encoding_ahead_writes_nothing_and_is_kept_as_far_as_it_came() -> None:
    engine, wanted = Engine(checkpoint()), replace(request(), document=DOCUMENT * 5)
    with pytest.raises(Cancelled):
        engine.warm(wanted, after(LOOKS_A_CHUNK))
    first = engine.warm(wanted)
    assert 16 < first.cached_tokens < first.context_tokens - 16
    again = engine.warm(wanted)
    assert again.cached_tokens >= again.context_tokens - 1
    assert finish(engine, wanted).cached_tokens == first.context_tokens - 1


def test_the_speed_of_encoding_is_unknown_until_something_was_encoded() -> None:
    engine = Engine(checkpoint())
    assert engine.context_speed == 0.0
    finish(engine, request())
    assert engine.context_speed > 0.0
    measured = Engine(checkpoint())
    measured.measure()
    assert measured.context_speed > 0.0 and measured.cache_entries == 0


def spoken_of(*measured: tuple[int, float]) -> float:
    speed = ContextSpeed()
    for tokens, seconds in measured:
        speed.add(tokens, seconds)
    return speed.per_second


@pytest.mark.parametrize(
    ("measured", "speed"),
    [
        ([(31, 1.0)], 0.0),  # too few to tell
        ([(100, 1.0)], 100.0),
        ([(100, 1.0), (100, 4.0)] * 10, 25.0),  # not the mean: every other one would be late
        ([*[(100, 1.0)] * 15, (100, 9.0), *[(100, 1.0)] * 15], 100.0),  # one that stuck
        ([*[(100, 4.0)] * 20, *[(100, 1.0)] * 200], 100.0),  # the machine has other work no more
        ([*[(100, 1.0)] * 200, *[(100, 4.0)] * 5], 25.0),  # or has some again
    ],
)
def test_the_speed_of_encoding_is_one_that_most_of_it_is_done_at(
    measured: list[tuple[int, float]], speed: float
) -> None:
    assert spoken_of(*measured) == pytest.approx(speed)


def test_closing_a_stream_early_is_a_cancel(engine: Engine) -> None:
    expected = finish(engine, request()).text
    stream = engine.infill(request())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert finish(engine, request()).text == expected


def test_a_context_longer_than_the_model_is_refused(engine: Engine) -> None:
    long = InfillRequest("a" * 9000, Hole(4500, 4500), path="a.py", context_tokens=8000)
    with pytest.raises(InvalidRequest, match="context"):
        list(engine.infill(long))
    assert finish(engine, request()).text is not None


def test_a_request_may_choose_the_block_size_the_checkpoint_fills_it_in(engine: Engine) -> None:
    drafting = checkpoint().drafting
    assert resolved(DecodingConfig(block_size=3), drafting).block_size == 3
    assert resolved(DecodingConfig(mode=Mode.VERIFY), drafting).block_size == drafting.draft_length
    assert resolved(DecodingConfig(mode=Mode.DIFFUSION), drafting).block_size == drafting.block_size


def test_special_tokens_written_in_the_document_stay_text(engine: Engine) -> None:
    document = "a = '<|fim_middle|><|endoftext|>'\nb = \n"
    end = finish(engine, InfillRequest(document, Hole(38, 38), path="a.py"))
    special = engine.checkpoint.tokenizer.is_special
    ids = engine.checkpoint.tokenizer.encode(document[:38] + end.text + document[38:])
    assert not any(special(i) for i in ids)


class Bytes:
    """A tokenizer whose tokens are the bytes that a test gives them."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.token_bytes = pieces.__getitem__


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5), min_size=1, max_size=6), st.integers(0, 8), st.data())
def test_every_character_of_a_draft_belongs_to_one_token(
    pieces: list[bytes], skip: int, data: st.DataObject
) -> None:
    """Whatever was read before: drafts that go on, others that take settled tokens back."""
    drafts = DraftText(Bytes(pieces), "r", skip)  # type: ignore[arg-type]
    drafts.before, drafts.after = data.draw(st.sampled_from([("", ""), ("  ", "\n"), ("x", "")]))
    tokens = st.lists(st.integers(0, len(pieces) - 1), max_size=8)
    written: list[int] = []
    for _ in range(4):
        written = written[: data.draw(st.sampled_from([len(written), 1]))] + data.draw(tokens)
        settled = data.draw(st.integers(0, len(written)))
        flags = [n < settled or data.draw(st.booleans()) for n in range(len(written))]
        shares = [data.draw(st.sampled_from([1.0, 1.0, 1.0, 0.5])) for _ in written]
        draft = Snapshot(tuple(written), tuple(flags), tuple(shares), 1, False)
        read = drafts.refinement(draft, 1.0).read()
        whole = b"".join(pieces[token] for token in written).decode("utf-8", "replace")
        assert read.text == drafts.before + whole[skip:] + drafts.after
        assert "".join(read.text[span.start : span.end] for span in read.spans) == read.text
        afresh = DraftText(Bytes(pieces), "r", skip)  # type: ignore[arg-type]
        afresh.before, afresh.after = drafts.before, drafts.after
        assert afresh.refinement(draft, 1.0).read().spans == read.spans


def test_a_character_cut_between_tokens_belongs_to_the_one_that_completes_it() -> None:
    halves = ["é".encode()[:1], "é".encode()[1:]]
    assert draft_text(halves) == ("é", [0, 1])
    assert torch.is_inference_mode_enabled() is False
