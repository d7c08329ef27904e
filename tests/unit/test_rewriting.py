"""The engine rewrites a span of a tiny checkpoint's document: what may change and what may not."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockdiff.client import wire
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.engine import Engine
from blockdiff.engine.infilling import Infilling
from blockdiff.engine.renoise import Renoise, most_tokens
from blockdiff.errors import AnswerIsProse, Cancelled, InvalidRequest, ModelUnsupported
from blockdiff.infill.rewrite import Frame
from blockdiff.model.forward import Forward
from blockdiff.syntax.check import check_rewrite
from blockdiff.types import Finished, FinishReason, Hole, Refinement, RewriteRequest, SyntaxState
from tests.unit import scripted_service, tiny
from tests.unit.scripted_service import collect, run, served, until
from tests.unit.tiny import sampler, toy_adapter, toy_base
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


@settings(max_examples=15, deadline=None)
@given(rewrites())
def test_a_text_changes_within_its_frame_and_parses_as_before(wanted: RewriteRequest) -> None:
    frame = Frame.of(wanted.document, wanted.span)
    original = wanted.document[wanted.span.start : wanted.span.end]
    end = finish(wanted)
    assert end.text.startswith(frame.before) and end.text.endswith(frame.after)
    inside = end.text.removeprefix(frame.before).removesuffix(frame.after)
    assert inside and inside == inside.strip()
    assert end.finish is FinishReason.EOM and (end.tokens > 0 or end.text == original)
    state = check_rewrite(
        wanted.document, wanted.document, frame.hole.start, frame.hole.end, "python"
    )
    if state is SyntaxState.OK:
        assert end.syntax is SyntaxState.OK


@pytest.mark.parametrize("strength", [0.01, 0.3, 0.6, 1.0])
def test_no_more_than_the_share_of_the_text_changes(strength: float) -> None:
    document = "width = print(height)\nreturn = height\n" * 3
    wanted = request(document, Hole(0, len(document)), strength=strength)
    size = len(engine().tokenizer.encode(document.rstrip()))
    end = finish(wanted)
    assert end.tokens > 0, "the tiny model would have written something else"
    assert end.tokens <= math.ceil(strength * size)


class Knowing(Engine):
    """An engine whose model has learned by heart which token of a text follows which."""

    def __init__(self, text: str) -> None:
        super().__init__(checkpoint())
        special, ids = self.tokenizer.special, self.tokenizer.encode(text)
        self._next = dict(itertools.pairwise([special.fim_middle, *ids, min(special.stop)]))

    def forward(self, waiting: Sequence[Forward]) -> list[Tensor]:
        answers = super().forward(waiting)
        for one, logits in zip(waiting, answers, strict=True):
            logits.zero_()
            for row, token in zip(logits, one.tokens[0, -len(logits) :].tolist(), strict=False):
                if token in self._next:
                    row[self._next[token]] = 20.0
        return answers


@pytest.mark.parametrize(
    ("spoilt", "known"),
    [
        ("width=x(height)", "width=x(height)"),
        ("width=def(height)", "width=x(height)"),
        ("width=x+(height)", "width=x(height)"),
        ("width=xheight)", "width=x(height)"),
        ("width=1defx(height)", "width=1\r\nx(height)"),
        ("width=def(re)", "width=x(height)"),
    ],
    ids=["nothing", "another", "one less", "one more", "a line break", "two"],
)
def test_what_is_much_less_likely_is_mended_and_nothing_else(spoilt: str, known: str) -> None:
    by = Knowing(known.replace("\r", ""))
    end = finish(request(spoilt + "\r\n", Hole(0, len(spoilt))), by)
    assert end.text == known
    assert bool(end.tokens) == (spoilt != known)


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


def test_a_word_that_starts_before_the_span_goes_on_as_it_began() -> None:
    """The span starts within a token: `re` stays, whatever `turn` becomes."""
    document = "def f(x):\n    return x\n"
    at = document.index("turn")
    for strength in (0.5, 1.0):
        end = finish(request(document, Hole(at, at + 6), strength=strength))
        assert isinstance(end.text, str) and not end.text.startswith("re")


def test_a_checkpoint_without_an_adapter_will_do() -> None:
    bare = Engine(replace(checkpoint(), adapter=None))
    assert finish(request(), bare).text == finish(request()).text
    assert finish(instructed(mode=Mode.AR), bare).text


def test_a_text_longer_than_the_context_is_refused_and_the_engine_goes_on() -> None:
    fresh = Engine(checkpoint())
    expected = finish(request(), fresh).text
    document = "a = b\n" * 400
    with pytest.raises(InvalidRequest, match="context of 512"):
        finish(request(document, Hole(0, len(document))), fresh)
    assert finish(request(), fresh).text == expected


@pytest.mark.parametrize("left", range(1, 12))
def test_a_text_that_fills_the_context_is_read_as_far_as_others_can_be_weighed(left: int) -> None:
    document = "x = width\n" * 60
    wanted = replace(request(document, Hole(0, len(document.rstrip()))), context_tokens=16)
    inner = wanted.infill(wanted.span)
    writer = Renoise(engine().contexts, inner, 1.0, lambda: False)
    size = len(writer._prompt.tokens) + sum(len(piece.tokens) for piece in writer._pieces)
    shape = replace(checkpoint().model.config, max_positions=size + left)
    end = finish(wanted, Engine(replace(checkpoint(), model=tiny.transformer(shape))))
    assert end.text


def test_fewer_tokens_than_the_span_has_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="max_tokens is 2"):
        list(engine().rewrite(request(decoding=DecodingConfig(max_tokens=2))))


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
