"""The rule `syntax`: what does not parse is masked, what does stays, and nothing gets worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.sampler import Snapshot
from blockdiff.engine import remasking
from blockdiff.engine.engine import Engine
from blockdiff.types import Event, Finished, Hole, InfillRequest, SyntaxState
from tests.unit.tiny_checkpoint import checkpoint, tokenizer

TOKENS = tokenizer()


def snapshot(text: str, forwards: int = 1) -> Snapshot:
    tokens = tuple(TOKENS.encode(text))
    return Snapshot(tokens, (True,) * len(tokens), (0.5,) * len(tokens), forwards, True)


@pytest.mark.parametrize(
    ("spans", "hidden"),
    [
        ([(0, 1)], "a"),
        ([(2, 3)], "def"),  # one token: all of it, however little of it is wrong
        ([(0, 1), (6, 7)], "a+"),
        ([(5, 5)], ""),
        ([(8, 99)], ""),  # what is left out is not masked
    ],
)
def test_the_tokens_under_errors_are_masked(spans: list[tuple[int, int]], hidden: str) -> None:
    draft = snapshot("a def +b rest")
    canvas = remasking.remasked(draft, TOKENS, 8, spans)
    if not hidden:
        assert canvas is None
        return
    assert canvas is not None and TOKENS.decode(canvas.tokens) == "a def +b"
    masked = [t for t, gone in zip(canvas.tokens, canvas.masked, strict=True) if gone]
    assert TOKENS.decode(masked) == hidden


class Scripted:
    """A sampler that finds one text after the other."""

    def __init__(self, *texts: str) -> None:
        self._texts, self.forwards, self.canvases = iter(texts), 0, list[Canvas]()

    def steps(self, prompt: Sequence[int], canvas: Canvas) -> Iterator[Snapshot]:
        self.canvases.append(canvas)
        self.forwards += 1
        yield snapshot(next(self._texts), self.forwards)


def canvas_of(draft: Snapshot) -> Canvas | None:
    """As if every `!` were an error."""
    text = TOKENS.decode(draft.settled_prefix)
    spans = [(i, i + 1) for i, character in enumerate(text) if character == "!"]
    return remasking.remasked(draft, TOKENS, len(text), spans)


@pytest.mark.parametrize(
    ("first", "then", "last", "forwards"),
    [
        ("ab", [], None, 0),
        ("a!", ["ab"], "ab", 1),
        ("a!", ["!b", "ab"], "ab", 2),
        ("a!", ["a!"], "a!", 1),
        ("!!", ["a!", "!b"], "!!", 2),
    ],
    ids=["nothing to do", "mended", "mended at last", "no change", "the first comes back"],
)
def test_rounds_end_and_the_result_is_never_worse(
    first: str, then: list[str], last: str | None, forwards: int
) -> None:
    sampler: Any = Scripted(*then)
    found = list(remasking.rounds(sampler, [0], snapshot(first), canvas_of))
    assert sampler.forwards == forwards <= remasking.ROUNDS
    assert ([TOKENS.decode(s.tokens) for s in found] or [None])[-1] == last
    assert all(any(canvas.masked) for canvas in sampler.canvases)


def filled(engine: Engine, rule: Rule, seed: int) -> tuple[list[Event], Finished]:
    document = f"def area{seed}(width):\n    return width + \n"
    hole = len(document) - 1
    decoding = DecodingConfig(mode=Mode.DIFFUSION, rule=rule, max_tokens=10, threshold=0.4)
    request = InfillRequest(document, Hole(hole, hole), path="area.py", decoding=decoding)
    *drafts, end = engine.infill(request)
    assert isinstance(end, Finished)
    return drafts, end


def test_what_parses_is_as_by_threshold_and_what_does_not_is_tried_again() -> None:
    engine = Engine(checkpoint())
    tried = 0
    for seed in range(6):
        plain, before = filled(engine, Rule.THRESHOLD, seed)
        drafts, after = filled(engine, Rule.SYNTAX, seed)
        assert drafts[: len(plain)] != [] and len(drafts) >= len(plain)
        if before.syntax is SyntaxState.OK:
            assert (after.text, after.forwards) == (before.text, before.forwards)
        else:
            assert after.syntax is SyntaxState.OK or after.text == before.text
        tried += after.forwards > before.forwards
        assert after.finish == before.finish
    assert tried, "random drafts do not parse"
