"""What does not parse is written again, by `syntax` and by `trust`, and nothing gets worse."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import pytest

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.engine import infilling, remasking
from blockdiff.engine.engine import Engine
from blockdiff.engine.remasking import Draft
from blockdiff.errors import Cancelled
from blockdiff.syntax.check import Faults, faults
from blockdiff.types import (
    Event,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Refinement,
    SyntaxState,
)
from tests.unit.tiny_checkpoint import checkpoint, tokenizer

TOKENS = tokenizer()


def snapshot(text: str, forwards: int = 1) -> Snapshot:
    tokens = tuple(TOKENS.encode(text))
    return Snapshot(tokens, (True,) * len(tokens), (0.5,) * len(tokens), forwards, True)


def faults_of(draft: Draft) -> remasking.Writing[Faults]:
    """As if every `!` were an error."""
    yield from ()
    text = TOKENS.decode(draft.snapshot.settled_prefix)
    spans = tuple((i, i + 1) for i, character in enumerate(text) if character == "!")
    return Faults(len(spans), spans)


def attempt(then: str | None, seen: list[str]) -> remasking.Remask:
    """Writes `then`, whatever it starts from."""

    def write(draft: Draft, faults: Faults) -> remasking.Writing[Draft | None]:
        seen.append(TOKENS.decode(draft.snapshot.tokens))
        yield then
        return None if then is None else Draft(snapshot(then), FinishReason.LENGTH)

    return write


@pytest.mark.parametrize(
    ("first", "then", "best", "starts"),
    [
        ("ab", ["!"], "ab", []),
        ("a!", ["ab", "cd"], "ab", ["a!"]),
        ("a!!", ["!b", "ab"], "ab", ["a!!", "!b"]),
        ("a!", ["b!", "c!"], "a!", ["a!", "a!"]),
        ("a!", ["!!", None, "ab"], "ab", ["a!", "a!", "a!"]),
        ("a!!", ["!b", "!!c", "!!!"], "!b", ["a!!", "!b", "!b"]),
    ],
    ids=["parses", "mended", "in two steps", "no better", "at last", "a little better"],
)
def test_the_best_attempt_counts_and_none_follows_one_that_parses(
    first: str, then: list[str | None], best: str, starts: list[str]
) -> None:
    seen: list[str] = []
    draft = Draft(snapshot(first), FinishReason.EOM)
    found = remasking.mended(draft, faults_of, [attempt(text, seen) for text in then])
    try:
        while True:
            next(found)
    except StopIteration as end:
        assert TOKENS.decode(end.value.snapshot.tokens) == best
        assert (end.value is draft) == (best == first)
    assert seen == starts


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([(0, 1)], ""),
        ([(5, 6)], "one\n"),
        ([(4, 6), (8, 9)], "one\n"),
        ([(3, 4)], ""),
        ([(8, 13)], "one\ntwo\n"),
        ([], ""),
    ],
)
def test_lines_before_the_first_with_an_error_are_kept(
    spans: list[tuple[int, int]], kept: str
) -> None:
    text = "one\ntwo\nthree"
    assert text[: remasking.first_line(text, spans)] == kept


def test_tokens_before_an_offset_end_before_it() -> None:
    draft = snapshot("a def +b")
    assert [remasking.before(draft, TOKENS, offset) for offset in (0, 1, 3, 4, 5, 6, 99)] == [
        0, 1, 2, 2, 3, 4, 6,
    ]  # fmt: skip


def request(seed: int, decoding: DecodingConfig) -> InfillRequest:
    document = f"def area{seed}(width):\n    return width + \n"
    return InfillRequest(
        document, Hole(len(document) - 1, len(document) - 1), path="area.py", decoding=decoding
    )


def filled(engine: Engine, rule: Rule, seed: int) -> tuple[list[Event], Finished]:
    decoding = DecodingConfig(mode=Mode.DIFFUSION, rule=rule, max_tokens=10, threshold=0.4)
    *drafts, end = engine.infill(request(seed, decoding))
    assert isinstance(end, Finished)
    return drafts, end


def size_of_faults(seed: int, text: str) -> int:
    asked = request(seed, DecodingConfig())
    document = asked.prefix + text + asked.suffix
    return faults(document, asked.hole.start, asked.hole.start + len(text), "python").size


def test_what_parses_is_as_by_threshold_and_what_does_not_is_tried_again() -> None:
    engine = Engine(checkpoint())
    tried = mended = 0
    for seed in range(8):
        plain, before = filled(engine, Rule.THRESHOLD, seed)
        drafts, after = filled(engine, Rule.SYNTAX, seed)
        assert len(drafts) >= len(plain)
        last = drafts[-1]
        assert isinstance(last, Refinement) and all(span.settled for span in last.spans)
        assert last.text.startswith(after.text), "what is shown last is what was written"
        if before.syntax is SyntaxState.OK:
            assert (after.text, after.forwards) == (before.text, before.forwards)
            continue
        tried += after.forwards > before.forwards
        mended += after.syntax is SyntaxState.OK
        sizes = [size_of_faults(seed, end.text) for end in (before, after)]
        assert sizes[1] < sizes[0] or after.text == before.text
    assert tried, "random drafts do not parse"


def test_what_trust_wrote_and_does_not_parse_becomes_the_text_of_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if nothing parsed but what the base alone writes."""
    own = ""

    def judge(document: str, start: int, end: int, language: str) -> Faults:
        right = document[start:end] == own
        return Faults(0, ()) if right else Faults(end - start + 1, ((start, end),))

    engine, bold = Engine(checkpoint()), DecodingConfig(mode=Mode.DIFFUSION, trust=1e-6)
    departed = 0
    for seed in range(24):
        document = f"x{seed} = \n"
        end = len(document) - 1
        asked = InfillRequest(document, Hole(end, end), path="area.py")
        texts = {}
        for name, decoding in ("own", DecodingConfig()), ("free", bold), ("mended", bold):
            if name == "mended":
                own = texts["own"].text
                monkeypatch.setattr(infilling, "faults", judge)
            decoding = replace(decoding, max_tokens=24, block_size=2)
            *_, texts[name] = engine.infill(replace(asked, decoding=decoding))
            monkeypatch.undo()
        if any(found.finish is FinishReason.LENGTH for found in texts.values()):
            continue  # what is cut off is left alone
        assert texts["mended"].text == own
        departed += texts["free"].text != own
    assert departed >= 3


@pytest.mark.parametrize("forwards", [1, 4, 12, 20, 10_000])
def test_whenever_it_is_cancelled_the_next_request_starts_clean(forwards: int) -> None:
    """Left to right the kept lines are encoded behind the prompt: the cache must lose them."""
    seed, engine, asked = forwards % 3, Engine(checkpoint()), itertools.count(1)
    decoding = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.SYNTAX, max_tokens=10, threshold=0.4)
    with contextlib.suppress(Cancelled):
        list(engine.infill(request(seed, decoding), lambda: next(asked) > forwards))
    plain = request(seed, DecodingConfig(mode=Mode.AR, max_tokens=8))
    *_, after = engine.infill(plain)
    *_, fresh = Engine(checkpoint()).infill(plain)
    assert isinstance(after, Finished) and isinstance(fresh, Finished)
    assert after.text == fresh.text
