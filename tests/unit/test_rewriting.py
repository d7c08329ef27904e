"""The engine rewrites a span of a tiny checkpoint's document: what may change and what may not."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.client import wire
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.engine.batch import events_of
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.engine import Engine
from blockdiff.engine.infilling import Infilling
from blockdiff.engine.renoise import Renoise, most_tokens
from blockdiff.errors import AnswerIsProse, Cancelled, InvalidRequest, ModelUnsupported
from blockdiff.infill.rewrite import Frame
from blockdiff.syntax.check import check_rewrite
from blockdiff.types import Finished, FinishReason, Hole, Refinement, RewriteRequest, SyntaxState
from tests.unit import scripted_service, tiny
from tests.unit.scripted_service import collect, run, served, until
from tests.unit.tiny import sampler, surprise, toy_adapter, toy_base
from tests.unit.tiny_checkpoint import checkpoint

DOCUMENT = "def area(width, height):\n    return width * height\n\nprint(area(3, 4))\n"
SPAN = Hole(25, 51)  # the second line, its indentation and its end included


@functools.cache
def engine() -> Engine:
    return Engine(checkpoint())


def request(document: str = DOCUMENT, span: Hole = SPAN, **changes: object) -> RewriteRequest:
    made = RewriteRequest(document, span, path="area.py", request_id="r1")
    return replace(made, **changes)  # type: ignore[arg-type]


def instructed(**decoding: object) -> RewriteRequest:
    config = DecodingConfig(**{"max_tokens": 12} | decoding)  # type: ignore[arg-type]
    return request(instruction="use add", decoding=config)


def finish(wanted: RewriteRequest, by: Engine | None = None) -> Finished:
    *_, end = (by or engine()).rewrite(wanted)
    assert isinstance(end, Finished)
    return end


def after(looks: int) -> Callable[[], bool]:
    counted = itertools.count()
    return lambda: next(counted) >= looks


def test_an_answer_follows_the_original_from_what_is_healed_on() -> None:
    document = "class Box:\n  def area(self):\n    return 1\n"
    hole = Frame.of(document, Hole(document.index("  def"), len(document))).hole
    wanted = replace(request(document, hole, context_tokens=64), instruction="use add")
    roomy = replace(checkpoint().model.config, max_positions=4096)
    roomy_engine = Engine(replace(checkpoint(), model=tiny.transformer(roomy)))
    inner, instruction = wanted.infill(hole), wanted.instruction
    writer = Infilling(roomy_engine.contexts, inner, lambda: False, instruction)
    written = roomy_engine.tokenizer.decode(writer._original())
    assert writer._prompt.heal == "  ", "the model may indent otherwise"
    assert written == "  def area(self):\n    return 1"


WAYS = pytest.mark.parametrize(
    "wanted",
    [request(), request(strength=1.0), instructed(), instructed(mode=Mode.DIFFUSION)],
    ids=["half", "all", "instruction", "instruction-diffusion"],
)


@WAYS
def test_a_stream_is_refinements_of_the_whole_span_and_then_one_end(wanted: RewriteRequest) -> None:
    *refinements, end = engine().rewrite(wanted)
    assert isinstance(end, Finished) and end.request_id == "r1"
    assert refinements
    for number, refinement in enumerate(refinements):
        assert isinstance(refinement, Refinement) and refinement.seq == number
        edges = [(span.start, span.end) for span in refinement.spans]
        assert "".join(refinement.text[a:b] for a, b in edges) == refinement.text
        assert refinement.text.startswith("    ") and refinement.text.endswith("\n")
    assert end.text.startswith("    ") and end.text.endswith("\n")
    assert end.forwards >= refinements[-1].forwards > 0
    assert end.context_tokens > end.cached_tokens


@WAYS
def test_the_same_request_gives_the_same_text_cold_or_warm(wanted: RewriteRequest) -> None:
    wanted = replace(wanted, decoding=replace(wanted.decoding, temperature=1.0, seed=5))
    cold = Engine(checkpoint())
    first, warm = finish(wanted, cold), finish(wanted, cold)
    assert first.text == warm.text
    assert first.cached_tokens == 0 and warm.cached_tokens > first.context_tokens // 2


@WAYS
def test_a_cancelled_rewrite_leaves_nothing_behind(wanted: RewriteRequest) -> None:
    fresh = Engine(checkpoint())
    expected = finish(wanted, fresh).text
    other = replace(wanted, document="x = 1\n" * 9)
    for allowed in range(6):
        with pytest.raises(Cancelled):
            list(fresh.rewrite(other, after(allowed)))
        assert finish(wanted, fresh).text == expected
    stream = fresh.rewrite(wanted)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert finish(wanted, fresh).text == expected


# Without an instruction

PIECES = st.sampled_from(
    ["return ", "width", " = ", "x", "1", "(", ")", ":\n    ", "\n", "\r\n", "    ", "é", "e\u0301",
     "한", "😀", "def ", "in"]
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=10).map("".join)


@st.composite
def rewrites(draw: st.DrawFn) -> RewriteRequest:
    before, text, behind = draw(TEXTS), draw(TEXTS.filter(str.strip)), draw(TEXTS)
    span = Hole(len(before), len(before + text))
    strength = draw(st.floats(0.01, 0.99))
    decoding = DecodingConfig(
        rule=draw(st.sampled_from(Rule)),
        block_size=draw(st.integers(0, 6)),
        temperature=draw(st.sampled_from([0.0, 1.0])),
        seed=draw(st.integers(0, 9)),
    )
    return request(before + text + behind, span, strength=strength, decoding=decoding)


def canvas_of(wanted: RewriteRequest) -> tuple[Renoise, Canvas]:
    """What the engine would start from."""
    inner = wanted.infill(Frame.of(wanted.document, wanted.span).hole)
    writer = Renoise(engine().contexts, inner, wanted.strength, lambda: False)
    decoding = replace(wanted.decoding, max_tokens=9)
    with engine().contexts.context(writer._prompt, decoding, bool) as made:
        made.encode(writer._prompt.tokens)
        *_, canvas = events_of(writer._canvas(made), engine().forward)
        return writer, canvas


@settings(max_examples=40, deadline=None)
@given(rewrites())
def test_tokens_that_are_not_masked_never_change(wanted: RewriteRequest) -> None:
    """Invariant 3."""
    frame = Frame.of(wanted.document, wanted.span)
    writer, canvas = canvas_of(wanted)
    end = finish(wanted)
    original = wanted.document[frame.hole.start : frame.hole.end]
    kept = [u for u in writer._span.units if not any(canvas.masked[slice(*u.tokens)])]
    at = len(frame.before)
    for unit in kept:  # in order, each with the document's own code points
        text = original[slice(*unit.source)]
        at = end.text.index(text, at) + len(text)
    if not any(canvas.masked):
        assert end.text == wanted.document[wanted.span.start : wanted.span.end]
    assert end.text.startswith(frame.before) and end.text.endswith(frame.after)
    assert end.tokens == sum(canvas.masked) and end.finish is FinishReason.EOM
    for number in "\n", "\r":  # lines stay lines
        assert end.text.count(number) == frame.before.count(number) + original.count(
            number
        ) + frame.after.count(number)


@given(TEXTS, TEXTS.filter(str.strip), TEXTS)
@settings(max_examples=30, deadline=None)
def test_a_strength_of_0_is_the_text_itself_without_a_forward(
    before: str, text: str, behind: str
) -> None:
    span = Hole(len(before), len(before + text))
    events = list(engine().rewrite(request(before + text + behind, span, strength=0.0)))
    assert len(events) == 1
    end = events[0]
    assert isinstance(end, Finished) and end.text == text
    assert (end.tokens, end.forwards, end.finish) == (0, 0, FinishReason.EOM)


def test_a_strength_of_1_masks_everything_and_fills_no_more_than_the_span() -> None:
    writer, canvas = canvas_of(request(strength=1.0))
    assert all(canvas.masked)
    end = finish(request(strength=1.0))
    assert end.tokens <= len(canvas.tokens)
    assert end.finish is (
        FinishReason.LENGTH if end.tokens == len(canvas.tokens) else FinishReason.EOM
    )


def test_line_breaks_and_indentation_are_never_masked_below_1() -> None:
    document = "if a:\n    b = c\n    while d:\n        e()\n"
    wanted = request(document, Hole(0, len(document)), strength=0.999)
    writer, canvas = canvas_of(wanted)
    for unit in writer._span.units:
        said = document[slice(*unit.source)]
        assert any(canvas.masked[slice(*unit.tokens)]) == bool(said.strip() and "\n" not in said)
    text = finish(wanted).text
    indents = [line[: len(line) - len(line.lstrip())] for line in text.splitlines()]
    assert indents == ["", "    ", "    ", "        "]


def test_a_word_that_starts_before_the_span_goes_on_as_it_began() -> None:
    """The span starts within a token: `re` stays, whatever `turn` becomes."""
    document = "def f(x):\n    return x\n"
    at = document.index("turn")
    for strength in (0.5, 1.0):
        end = finish(request(document, Hole(at, at + 6), strength=strength))
        assert isinstance(end.text, str) and not end.text.startswith("re")


def test_a_checkpoint_without_an_adapter_is_refused_with_a_typed_error() -> None:
    bare = Engine(replace(checkpoint(), adapter=None))
    with pytest.raises(ModelUnsupported, match="adapter"):
        list(bare.rewrite(request()))
    assert finish(instructed(mode=Mode.AR), bare).text


def test_fewer_tokens_than_the_span_has_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="max_tokens is 2"):
        list(engine().rewrite(request(decoding=DecodingConfig(max_tokens=2))))


def test_a_result_that_does_not_parse_is_reported() -> None:
    states = {
        finish(request(decoding=DecodingConfig(seed=seed, temperature=3.0))).syntax
        for seed in range(8)
    }
    assert SyntaxState.BROKEN in states
    assert finish(request(strength=0.0)).syntax is SyntaxState.OK


def test_a_rewrite_is_judged_by_what_stood_there_before() -> None:
    """Both texts close a brace too few once the span is taken out; only the new one is broken."""
    document = "f() {\n  if (a) {\n    b();\n  }\n  c();\n}\n"
    document = f"function {document}"
    span = Hole(document.index("b();"), document.index("  c();"))
    cut = document[: span.start] + "d();\n" + document[span.end :]
    end = span.start + len("d();\n")
    judged = check_rewrite(document, cut, span.start, end, "javascript")
    assert judged is SyntaxState.BROKEN
    broken_elsewhere = document + "\nlet = ;\n"  # then it is judged as a filled hole is
    for same in (document, broken_elsewhere):
        judged = check_rewrite(same, same, span.start, span.end, "javascript")
        assert judged is SyntaxState.OK
    assert check_rewrite("a", "b", 0, 1, "unknown") is SyntaxState.SKIPPED


# The canvas in the block loop


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=14),
       st.integers(1, 5), st.sampled_from(Rule))  # fmt: skip
def test_the_block_loop_fills_the_masks_of_a_canvas_and_nothing_else(
    given_: list[tuple[int, bool]], size: int, rule: Rule
) -> None:
    tokens, masked = zip(*given_, strict=True)
    canvas = Canvas(tokens, masked, (0.5,) * len(tokens))
    decoding = DecodingConfig(mode=Mode.DIFFUSION, block_size=size, max_tokens=3, rule=rule)
    loop = sampler(toy_base(), toy_adapter(), decoding)
    snapshots = list(loop.run([1, 2, 3], canvas))
    for snapshot in snapshots:
        assert len(snapshot.tokens) == len(snapshot.settled) == len(tokens)
        kept = [i for i, hidden in enumerate(masked) if not hidden]
        assert all(snapshot.settled[i] and snapshot.tokens[i] == tokens[i] for i in kept)
    assert all(all(s.settled) for s in snapshots[-1:])
    assert loop.cache.length == 2
    assert bool(snapshots) == (loop.forwards > 0) == any(masked)


def test_surprise_is_the_base_s_own_log_probability() -> None:
    from tests.unit.tiny import forward

    prompt, text = [1, 2, 3], [4, 5, 9, 1]
    loop = sampler(toy_base(), None, DecodingConfig(mode=Mode.AR))
    logits = forward(toy_base(), prompt + text)[2:-1].log_softmax(-1)
    expected = [-float(logits[i, token]) for i, token in enumerate(text)]
    assert surprise(loop, prompt, text) == pytest.approx(expected, abs=1e-4)
    assert loop.cache.length == 2 and loop.forwards == 1


# With an instruction


def test_a_checkpoint_that_cannot_chat_is_refused_with_a_typed_error() -> None:
    point = checkpoint()

    class Mute:
        """The tokenizer without chat tokens."""

        def __init__(self) -> None:
            self.special = replace(point.tokenizer.special, im_start=-1)

        def __getattr__(self, name: str) -> object:
            return getattr(point.tokenizer, name)

    mute: Checkpoint = replace(point, tokenizer=Mute())  # type: ignore[arg-type]
    with pytest.raises(ModelUnsupported, match="chat"):
        list(Engine(mute).rewrite(instructed()))


def test_a_result_cut_at_the_limit_says_so() -> None:
    end = finish(instructed(max_tokens=3))
    assert (end.finish, end.tokens) == (FinishReason.LENGTH, 3)


def test_an_open_limit_suffices_for_the_span() -> None:
    assert most_tokens(10, 10_000) == 79
    assert most_tokens(10, 20) == 20
    assert most_tokens(100_000, 100_000) == 8192
    assert finish(request(instruction="longer")).tokens <= most_tokens(26, 10_000)


def test_verify_writes_what_ar_writes() -> None:
    texts = {finish(instructed(mode=mode)).text for mode in (Mode.AR, Mode.VERIFY)}
    assert len(texts) == 1


# Over the service


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    made = Runtime(tmp_path_factory.mktemp("rewriting") / "run")
    with served(made, lambda report: Engine(checkpoint())):
        yield made


@WAYS
def test_the_service_streams_what_the_engine_yields(
    runtime: Runtime, wanted: RewriteRequest
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            *refinements, end = await collect(client, wanted)
        *drafts, expected = engine().rewrite(wanted)
        assert isinstance(end, Finished) and isinstance(expected, Finished)
        assert (end.text, end.tokens, end.forwards) == (
            expected.text, expected.tokens, expected.forwards,
        )  # fmt: skip
        texts = {draft.text for draft in drafts if isinstance(draft, Refinement)}
        assert refinements and {r.text for r in refinements if isinstance(r, Refinement)} <= texts

    run(story())


def test_what_the_engine_refuses_is_its_own_typed_error(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            with pytest.raises(InvalidRequest, match="max_tokens is 2"):
                await collect(client, request(decoding=DecodingConfig(max_tokens=2)))

    run(story())


class Saying(Engine):
    """An engine whose model says what it is told to, and then ends."""

    def __init__(self, text: str) -> None:
        super().__init__(checkpoint())
        self._says, self._ids = text, list[int]()
        self._sampler = self.contexts.sampler
        self.contexts.sampler = self._saying  # type: ignore[method-assign]

    def allowed(self, so_far: Sequence[int]) -> Sequence[int]:
        return self._ids[len(so_far) : len(so_far) + 1]

    def _saying(self, cache: Any, prompt: Any, *args: Any, **options: Any) -> Any:
        made = self._sampler(cache, prompt, *args, **options)
        ids = self.tokenizer.encode(prompt.heal + self._says)
        self._ids = [*ids, min(self.tokenizer.special.stop)]
        made.constraint = self
        return made


@pytest.mark.parametrize("answer", ["Sure, here it is:", "This function is not good enough"])
def test_talk_instead_of_code_is_refused(answer: str) -> None:
    wanted = request(instruction="make it faster")
    with pytest.raises(AnswerIsProse, match="talk instead of code"):
        finish(wanted, Saying(answer))


def test_code_that_only_reads_like_talk_is_code() -> None:
    *_, end = Saying("Sure = 1").rewrite(request(instruction="assign it"))
    assert isinstance(end, Finished) and "Sure = 1" in end.text


def test_closing_the_iterator_cancels(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = Runtime(tmp_path_factory.mktemp("cancel") / "run")
    scripted = scripted_service.ScriptedEngine()

    async def story() -> None:
        async with EngineClient(runtime=made) as client:
            slow = request(decoding=DecodingConfig(max_tokens=4000, seed=10))
            events = client.rewrite(slow)
            await anext(events)
            await events.aclose()
            await until(lambda: scripted.cancelled == ["r1"])

    with served(made, lambda report: scripted):
        run(story())


def test_a_rewrite_survives_the_way() -> None:
    call = wire.Call(request(instruction="é", strength=0.25), source="s")
    body = wire.call_to_json(call) | {"snippets": []}
    assert wire.call_from_json(body, RewriteRequest) == call
    with pytest.raises(InvalidRequest, match="strength must be 0..1"):
        wire.call_from_json(body | {"strength": 2}, RewriteRequest)
