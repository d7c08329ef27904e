"""Several holes of one request: written together, each as it would be written alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockdiff.config import DecodingConfig, Layout, Mode, Reuse
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.row_costs import INT8
from blockdiff.engine.batch import Batch, Told, events_of
from blockdiff.engine.contexts import never
from blockdiff.engine.engine import Engine
from blockdiff.engine.infilling import Infilling
from blockdiff.errors import Cancelled, InvalidRequest, OutOfMemory
from blockdiff.infill.joint import build_prompts
from blockdiff.infill.layout import build_prompt
from blockdiff.model.forward import Forward
from blockdiff.types import (
    Filled,
    Finished,
    Hole,
    InfillRequest,
    Refinement,
)
from tests.unit.tiny_checkpoint import checkpoint, tokenizer

DOCUMENT = "import re\n\ndef area(width, height):\n    TODO\n\nprint(area(?, ?))\nprint(re)\n"
BLANKS = ("TODO", "?", "?")
GREEDY = DecodingConfig(mode=Mode.AR, max_tokens=6)


def holes(document: str = DOCUMENT, blanks: Sequence[str] = BLANKS) -> tuple[Hole, ...]:
    found, at = [], 0
    for blank in blanks:
        at = document.index(blank, at)
        found.append(Hole(at, at + len(blank)))
        at += len(blank)
    return tuple(found)


def request(decoding: DecodingConfig = GREEDY, **changes: object) -> InfillRequest:
    first, *rest = holes()
    made = InfillRequest(DOCUMENT, first, "area.py", "python", also=tuple(rest), request_id="x")
    return replace(made, decoding=decoding, **changes)  # type: ignore[arg-type]


def filled(engine: Engine, wanted: InfillRequest) -> tuple[list[Refinement], Filled]:
    *drafts, end = engine.infill(wanted)
    assert isinstance(end, Filled)
    assert all(isinstance(draft, Refinement) for draft in drafts)
    return drafts, end  # type: ignore[return-value]


def alone(wanted: InfillRequest, speculation: Speculation | None = None) -> list[Finished]:
    """Each hole with the prompt that it has in company, by an engine of its own."""
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM)
    ends = []
    for index, prompt in enumerate(prompts):
        engine = Engine(checkpoint())
        engine.contexts.speculation = speculation or engine.contexts.speculation
        one = Infilling(engine.contexts, wanted.only(index), never, prompt=prompt)
        *_, end = events_of(one.steps(), engine.forward)
        assert isinstance(end, Finished)
        ends.append(end)
    return ends


def texts(ends: Sequence[Finished]) -> list[object]:
    return [(end.text, end.tokens, end.finish, end.syntax) for end in ends]


# --- the request ---------------------------------------------------------------------------------


def test_one_hole_by_itself_stands_between_the_others() -> None:
    wanted = request()
    assert wanted.only(0).document == DOCUMENT.replace("?", "")
    last = wanted.only(2, ["pass", "3", "4"])
    assert last.document == DOCUMENT.replace("TODO", "pass").replace("(?,", "(3,")
    assert last.document[last.hole.start : last.hole.end] == "?" and last.also == ()
    held = wanted.holding(["", "3", "44"])
    assert [held.document[h.start : h.end] for h in held.holes] == ["", "3", "44"]
    assert held.document == DOCUMENT.replace("TODO", "").replace("(?, ?", "(3, 44")


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ([Hole(2, 5)], "overlap"), ([Hole(4, 4)], "overlap"), ([Hole(4, 9)], "overlap"),
        ([Hole(9, 90_000)], "hole ends at offset 90000"),
        ([Hole(n, n) for n in range(10, 18)], "9 holes, a request has 8 at most"),
    ],
)  # fmt: skip
def test_holes_that_cannot_be_are_refused(also: list[Hole], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        InfillRequest(DOCUMENT, Hole(4, 6), also=tuple(also))


# --- prompts -------------------------------------------------------------------------------------


def parts(tokens: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    special = tokenizer().special
    marks = [special.fim_prefix, special.fim_suffix, special.fim_middle]
    at = [list(tokens).index(mark) for mark in marks]
    cuts = zip(at, [*at[1:], len(tokens)], strict=True)
    before, after, begun = (list(tokens[start + 1 : end]) for start, end in cuts)
    return before, after, begun


LINES = st.lists(
    st.sampled_from(["x = 1", "def f():", "    return é", "", "  # 𝕏", "#"]),
    min_size=1,
    max_size=30,
)


@given(lines=LINES, ending=st.sampled_from(["\n", "\r\n"]), start=st.sampled_from(["", "\ufeff"]),
       lend=st.booleans(), data=st.data())  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_a_joint_prompt_is_the_text_on_both_sides_of_its_hole(
    lines: list[str], ending: str, start: str, lend: bool, data: st.DataObject
) -> None:
    """Nothing is lost or doubled at any seam, and each prefix goes on where the last one ended."""
    document = start + ending.join(lines)
    spots = st.integers(len(start), len(document))
    spots = spots.filter(lambda at: document[at - 1 : at + 1] != "\r\n")
    at = sorted(data.draw(st.lists(spots, min_size=2, max_size=4, unique=True)))
    first, *rest = [Hole(i, i) for i in at]
    wanted = InfillRequest(document, first, also=tuple(rest), context_tokens=4096)
    shown = document.removeprefix("\ufeff").replace("\r\n", "\n")
    longest: list[int] = []
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM, lend=lend)
    for hole, prompt in zip(at, prompts, strict=True):
        before, after, begun = parts(prompt.tokens)
        before_text = tokenizer().decode([*before, *begun]) + prompt.heal
        place = len(document[:hole].removeprefix("\ufeff").replace("\r\n", "\n"))
        assert before_text == shown[:place]
        assert tokenizer().decode(after) == shown[place:]
        keeps = min(len(before), len(longest)) - 4  # but for what is healed
        assert before[: max(keeps, 0)] == longest[: max(keeps, 0)]
        longest = before
        if (lent := prompt.lent) is not None:
            assert lend and prompt.tokens[lent.start :][: lent.count] == lent.source[lent.at :]
            assert lent.source[: len(before)] == prompt.tokens[: len(before)]


def test_context_is_bounded_and_less_than_that_of_single_requests() -> None:
    document = "".join(f"value_{n} = {n}\n" for n in range(400))
    at = [document.index(f"value_{n} ") for n in (190, 194, 200, 204)]
    first, *rest = [Hole(i, i) for i in at]
    wanted = InfillRequest(document, first, also=tuple(rest), context_tokens=512)
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM)
    single = [build_prompt(wanted.only(i), tokenizer(), Layout.PSM) for i in range(4)]
    assert all(prompt.context_tokens <= 512 for prompt in prompts)
    seen: set[tuple[int, ...]] = set()
    for prompt in prompts:
        seen |= {prompt.tokens[:n] for n in range(1, len(prompt.tokens) + 1)}
    assert len(seen) < 0.6 * sum(len(prompt.tokens) for prompt in single)


def test_holes_far_apart_and_other_layouts_get_prompts_of_their_own() -> None:
    document = "".join(f"value_{n} = {n}\n" for n in range(4000))
    at = [document.index(f"value_{n} ") for n in (3000, 10, 1500, 1502)]
    first, *rest = [Hole(i, i) for i in at]
    wanted = InfillRequest(document, first, also=tuple(rest), context_tokens=256)
    single = {
        layout: [build_prompt(wanted.only(i), tokenizer(), layout) for i in range(4)]
        for layout in (Layout.PSM, Layout.SPM)
    }
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM)
    assert prompts[:2] == single[Layout.PSM][:2] and prompts[2:] != single[Layout.PSM][2:]
    assert build_prompts(wanted, tokenizer(), Layout.SPM) == single[Layout.SPM]


SPREAD = "import re\n" + "".join(
    f"def area_{n}(width, height):\n    return width * height + {n}  # of all\n" for n in range(6)
)


def spread(**changes: object) -> InfillRequest:
    """Four holes in a document with some lines behind each, keys and values lent."""
    at = [SPREAD.index(f"+ {n}") for n in range(4)]
    first, *rest = [Hole(i, i) for i in at]
    decoding = DecodingConfig(mode=Mode.AR, max_tokens=6, cache=Reuse.SUFFIX)
    made = InfillRequest(SPREAD, first, "a.py", "python", also=tuple(rest), decoding=decoding)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_what_is_lent_is_encoded_once_and_only_what_is_exact_is_kept() -> None:
    engine, wanted = Engine(checkpoint()), spread()
    encoded: list[int] = []

    def counting(waiting: Sequence[Forward]) -> list[Tensor]:
        encoded.extend(one.encoded for one in waiting)
        return engine.forward(waiting)

    *_, end = events_of(engine.steps(wanted, never), counting)
    assert isinstance(end, Filled)
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM, lend=True)
    lent = [prompt.lent for prompt in prompts]
    assert all(lent) and len({one.source for one in lent if one}) == 1
    source = len(lent[0].source) if lent[0] else 0
    apart = sum(len(p.tokens) - p.lent.count for p in prompts if p.lent)
    front = sum(len(parts(p.tokens)[0]) + 1 for p in prompts)
    few = 16 * len(prompts)  # are encoded again rather than copied
    assert source < sum(encoded) <= source + apart - front + few
    uncached = end.context_tokens - end.cached_tokens
    assert source < uncached <= sum(encoded) + len(prompts)
    for prompt in prompts:
        assert prompt.lent and engine.contexts.store.take(prompt.tokens).length <= prompt.lent.start


def test_lending_depends_on_nothing_that_was_asked_before() -> None:
    cold = texts(filled(Engine(checkpoint()), spread())[1].holes)
    engine = Engine(checkpoint())
    exact = spread(decoding=GREEDY)
    expected = texts(filled(Engine(checkpoint()), exact)[1].holes)
    for _ in range(2):
        assert texts(filled(engine, spread())[1].holes) == cold
        assert texts(filled(engine, exact)[1].holes) == expected


def test_lending_is_for_several_holes_in_a_layout_that_has_a_suffix() -> None:
    one = replace(spread(), also=())
    other = replace(checkpoint(), drafting=replace(checkpoint().drafting, layout=Layout.SPM))
    for engine, wanted in ((Engine(checkpoint()), one), (Engine(other), spread())):
        with pytest.raises(InvalidRequest, match="approximate-suffix is for several holes"):
            list(engine.infill(wanted))


# --- the engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
def test_a_revision_is_written_with_the_texts_of_the_others_in_place(mode: Mode) -> None:
    wanted = request(DecodingConfig(mode=mode, max_tokens=6))
    first = filled(Engine(checkpoint()), wanted)[1]
    drafts, second = filled(Engine(checkpoint()), replace(wanted, revise=True))
    written = [hole.text for hole in first.holes]
    assert any(written)
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM, written)
    for index, (before, after) in enumerate(zip(first.holes, second.holes, strict=True)):
        engine = Engine(checkpoint())
        one = Infilling(engine.contexts, wanted.only(index, written), never, prompt=prompts[index])
        *_, end = events_of(one.steps(), engine.forward)
        assert isinstance(end, Finished) and texts([after]) == texts([end])
        assert after.forwards > before.forwards
        assert after.context_tokens == before.context_tokens + len(prompts[index].tokens)
    assert [draft.seq for draft in drafts] == list(range(len(drafts)))


def test_only_holes_that_see_another_are_revised() -> None:
    before = "def first():\n    \n\n" + "x = 1\n" * 600
    far, *near = Hole(17, 17), *(Hole(h.start + len(before), h.end + len(before)) for h in holes())
    wanted = InfillRequest(
        before + DOCUMENT, far, also=tuple(near), context_tokens=128, decoding=GREEDY, revise=True
    )
    twice = filled(Engine(checkpoint()), wanted)[1].holes
    once = filled(Engine(checkpoint()), replace(wanted, revise=False))[1].holes
    written = [bool(hole.text) for hole in once]
    others = [False, *(any(written[1:i] + written[i + 1 :]) for i in (1, 2, 3))]
    assert any(others)
    revised = [one.forwards < other.forwards for one, other in zip(once, twice, strict=True)]
    assert revised == others


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_is_written_as_it_would_be_alone(mode: Mode, temperature: float) -> None:
    wanted = request(DecodingConfig(mode=mode, max_tokens=6, temperature=temperature, seed=3))
    drafts, end = filled(Engine(checkpoint()), wanted)
    assert texts(end.holes) == texts(alone(wanted))
    assert [hole.hole for hole in end.holes] == [0, 1, 2]
    assert {draft.hole for draft in drafts} == {0, 1, 2}
    assert [draft.seq for draft in drafts] == list(range(len(drafts)))
    for hole in end.holes:
        assert [d for d in drafts if d.hole == hole.hole][-1].text.startswith(hole.text)


def test_drafting_less_in_company_changes_no_greedy_text() -> None:
    crowded = Speculation(INT8, 8, shared=True)
    engine = Engine(checkpoint())
    engine.contexts.speculation = crowded
    wanted = request(DecodingConfig(mode=Mode.VERIFY, max_tokens=12))
    assert texts(filled(engine, wanted)[1].holes) == texts(alone(wanted, crowded))


def test_the_order_in_the_request_changes_nothing_but_the_numbers() -> None:
    wanted = request()
    first, second, third = wanted.holes
    turned = replace(wanted, hole=third, also=(first, second))
    straight = texts(filled(Engine(checkpoint()), wanted)[1].holes)
    assert texts(filled(Engine(checkpoint()), turned)[1].holes) == [straight[2], *straight[:2]]


def test_context_is_encoded_once_and_forwards_are_shared() -> None:
    engine, wanted = Engine(checkpoint()), request()
    encoded: list[int] = []
    wrote: list[int] = []

    def counting(waiting: Sequence[Forward]) -> list[Tensor]:
        encoded.extend(one.encoded for one in waiting)
        wrote.append(sum(one.wanted is not None for one in waiting))
        return engine.forward(waiting)

    *_, end = events_of(engine.steps(wanted, never), counting)
    assert isinstance(end, Filled)
    prompts = build_prompts(wanted, tokenizer(), Layout.PSM)
    distinct = {p.tokens[:n] for p in prompts for n in range(1, len(p.tokens))}
    few = 16 * len(prompts)  # are encoded again rather than copied
    assert len(distinct) <= sum(encoded) <= len(distinct) + few
    assert end.context_tokens - end.cached_tokens == sum(encoded) + len(prompts)
    assert max(wrote) == 3 and sum(wrote) == end.forwards


@given(looks=st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_cancelled_at_any_point_all_end_and_nothing_is_left(looks: int) -> None:
    engine, wanted = Engine(checkpoint()), request()
    counted = itertools.count()
    try:
        end = [*engine.infill(wanted, lambda: next(counted) >= looks)][-1]
    except Cancelled:
        pass
    else:
        assert isinstance(end, Filled)
    assert engine.contexts.open == 0
    assert texts(filled(engine, wanted)[1].holes) == texts(alone(wanted))


def test_without_memory_the_request_fails_as_a_whole_and_the_next_one_does_not() -> None:
    engine, wanted = Engine(checkpoint()), request()
    full = False

    def runner(waiting: Sequence[Forward]) -> list[Tensor]:
        nonlocal full
        full = full or len(waiting) == 3
        if full:
            raise torch.OutOfMemoryError("out of memory")
        return engine.forward(waiting)

    with pytest.raises(OutOfMemory):
        list(events_of(engine.steps(wanted, never), runner))
    assert full and engine.contexts.open == 0
    *_, end = events_of(engine.steps(wanted, never), engine.forward)
    assert isinstance(end, Filled) and texts(end.holes) == texts(alone(wanted))


def test_where_memory_does_not_suffice_for_all_holes_they_are_written_in_turn() -> None:
    engine, wanted = Engine(checkpoint()), request()
    failed = 0

    def runner(waiting: Sequence[Forward]) -> list[Tensor]:
        nonlocal failed
        if len(waiting) > 1:
            failed += 1
            raise torch.OutOfMemoryError("out of memory")
        return engine.forward(waiting)

    *_, end = events_of(engine.steps(wanted, never), runner)
    assert failed and isinstance(end, Filled) and texts(end.holes) == texts(alone(wanted))


def listen(batch: Batch[int], told: dict[int, list[Told]]) -> None:
    for key, what in batch.step():
        told[key].append(what)


@given(starts=st.lists(st.integers(0, 10), min_size=2, max_size=4))
@settings(max_examples=8, deadline=None)
def test_beside_other_requests_they_are_told_the_same(starts: list[int]) -> None:
    engine = Engine(checkpoint())
    told: dict[int, list[Told]] = {n: [] for n in range(len(starts))}
    batch: Batch[int] = engine.batch()
    wanted = [request() if n % 2 else request().only(1) for n in range(len(starts))]
    for step in range(max(starts) + 1):
        for number, start in enumerate(starts):
            if start == step:
                batch.add(number, engine.steps(wanted[number], never))
        listen(batch, told)
    while len(batch):
        listen(batch, told)
    several, single = texts(alone(request())), list(Engine(checkpoint()).infill(wanted[0]))[-1]
    assert isinstance(single, Finished)
    for number in told:
        *_, end = told[number]
        if isinstance(end, Filled):
            assert number % 2 and texts(end.holes) == several
        else:
            assert isinstance(end, Finished) and texts([end]) == texts([single])


def test_many_requests_with_many_holes_hold_no_more_contexts_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockdiff.engine.contexts._TOGETHER", 4)
    engine, most = Engine(checkpoint()), 0
    told: dict[int, list[Told]] = {n: [] for n in range(3)}
    batch: Batch[int] = engine.batch()
    for number in told:
        batch.add(number, engine.steps(request(), never))
    while len(batch):
        listen(batch, told)
        most = max(most, engine.contexts.open)
    assert 4 <= most <= 6  # each request has one, whatever the others hold
    for events in told.values():
        *_, end = events
        assert isinstance(end, Filled)
        assert texts(end.holes) == texts(alone(request()))


def test_closing_the_stream_gives_every_copy_of_the_context_back() -> None:
    engine = Engine(checkpoint())
    events = engine.infill(request())
    while engine.contexts.open < 3:
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert engine.contexts.open == 0 and engine.contexts.store._lent == []
