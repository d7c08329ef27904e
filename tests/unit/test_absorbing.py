"""The loop of checkpoints that are diffusion models themselves: blocks, ends, lengths, readers.

That its text is the published one is tested in `tests/parity/test_generation_parity.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.length import calibrated_length, length_bias
from blockdiff.diffusion.dllm.readers import BlockReader, CanvasReader, KeptReader
from blockdiff.diffusion.dllm.sampler import AbsorbingSampler, as_diffusion
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.diffusion.unmask import timestep_counts
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.model import masks
from blockdiff.model.cuda.graphs import GraphedRunner
from blockdiff.model.cuda.shapes import GraphShape
from blockdiff.model.load.kinds import AttentionPattern, Body, DiffusionKind, Family
from tests.unit import learnt, tiny

MASK, EXPAND, DELETE = 31, 30, 29
SHAPE = tiny.FAMILIES["qwen3"]
MODEL = tiny.transformer(SHAPE)
CANVAS = DiffusionKind(Family.LLADA, Body.QWEN3, AttentionPattern.FULL, False, MASK, None)
RESIZING = replace(
    CANVAS, family=Family.DREAMON, shift=True, expand_token_id=EXPAND, delete_token_id=DELETE
)
BLOCK = DiffusionKind(Family.SDAR, Body.QWEN3, AttentionPattern.BLOCK, False, MASK, 4)
SHIFTED = replace(BLOCK, shift=True, family=Family.FAST_DLLM)
DIFFUSION = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.SCHEDULE, max_tokens=10)
PROMPT = [3, 1, 4, 1, 5, 9]


def sampler(
    kind: DiffusionKind, config: DecodingConfig = DIFFUSION, **more: object
) -> AbsorbingSampler:
    values: dict[str, object] = {
        "model": MODEL, "kind": kind, "cache": tiny.cache_for(MODEL), "config": config,
        "chooser": Chooser([MASK], config.temperature, config.top_p, config.seed),
        "stop": frozenset(), "cancelled": lambda: False,
    }  # fmt: skip
    return AbsorbingSampler(**(values | more))  # type: ignore[arg-type]


def texts(snapshots: Sequence[Snapshot]) -> list[int]:
    return list(snapshots[-1].tokens)


RULES = [
    DIFFUSION,
    replace(DIFFUSION, denoising_steps=2),
    replace(DIFFUSION, rule=Rule.THRESHOLD, threshold=0.4),
    replace(DIFFUSION, rule=Rule.ENTROPY_BOUND, entropy_bound=1.5),
    replace(DIFFUSION, temperature=1.0, seed=3),
]


@pytest.mark.parametrize("config", RULES)
@pytest.mark.parametrize("kind", [CANVAS, BLOCK, SHIFTED, replace(SHIFTED, sub_block_size=2)])
def test_a_settled_token_never_changes(kind: DiffusionKind, config: DecodingConfig) -> None:
    made = sampler(kind, config, after=[2, 6] if kind is CANVAS else ())
    known: dict[int, int] = {}
    for snapshot in made.run(PROMPT):
        for at, token in known.items():
            assert snapshot.tokens[at] == token and snapshot.settled[at]
        known = {i: t for i, t in enumerate(snapshot.tokens) if snapshot.settled[i]}
    assert all(snapshot.settled) and MASK not in snapshot.tokens
    if kind is not CANVAS:
        assert len(snapshot.tokens) == config.max_tokens


@pytest.mark.parametrize(
    ("attention", "cache"),
    [*((AttentionPattern.FULL, cache) for cache in Reuse), (AttentionPattern.BLOCK, Reuse.EXACT)],
)
def test_what_was_learned_is_written(attention: AttentionPattern, cache: Reuse) -> None:
    """Letter for letter by every rule, and with an approximate cache, too: of what a checkpoint has
    learned that is near enough. Rules that go by confidence take fewer forwards."""
    canvas = attention is AttentionPattern.FULL
    model = learnt.masked_diffusion(attention)
    kind = replace(CANVAS if canvas else BLOCK, mask_token_id=learnt.MASK)
    size = len(learnt.HOLE)
    forwards = []
    for rule in (
        DIFFUSION,
        replace(DIFFUSION, denoising_steps=2),
        replace(DIFFUSION, rule=Rule.THRESHOLD, threshold=0.9),
        replace(DIFFUSION, rule=Rule.ENTROPY_BOUND, entropy_bound=0.1),
    ):
        forwards.append(0)
        for line in learnt.lines(8):
            made = sampler(
                kind, replace(rule, cache=cache, max_tokens=size), model=model,
                cache=tiny.cache_for(model), chooser=Chooser([learnt.MASK], 0.0, 1.0, 0),
                after=line[learnt.HOLE.stop :] if canvas else (), length=size if canvas else None,
            )  # fmt: skip
            written = texts(list(made.run(line[: learnt.HOLE.start])))
            assert written == line[learnt.HOLE.start : learnt.HOLE.stop]
            forwards[-1] += made.forwards
    one_by_one, *fewer = forwards
    assert max(fewer) < one_by_one


@pytest.mark.parametrize("at", range(10))
@pytest.mark.parametrize("block_size", [0, 3])
@pytest.mark.parametrize("cache", [Reuse.EXACT, Reuse.DUAL])
def test_a_canvas_is_cut_at_its_first_end_token(at: int, block_size: int, cache: Reuse) -> None:
    """With nothing behind the hole, what the checkpoint fills behind its end token is no text."""
    config = replace(DIFFUSION, block_size=block_size, cache=cache)
    whole = sampler(CANVAS, config, length=10)
    tokens = texts(list(whole.run(PROMPT)))
    assert len(tokens) == 10
    end = tokens[at]
    cut = sampler(CANVAS, config, length=10, stop=frozenset({end}))
    snapshots = list(cut.run(PROMPT))
    assert texts(snapshots) == tokens[: tokens.index(end)]
    assert snapshots[-1].ended and all(snapshots[-1].settled)
    assert cut.forwards <= whole.forwards


def test_a_canvas_without_an_end_token_ends_at_its_limit() -> None:
    last = list(sampler(CANVAS, length=10, stop=frozenset({MASK})).run(PROMPT))[-1]
    assert len(last.tokens) == 10 and not last.ended
    assert list(sampler(CANVAS, after=[2, 6]).run(PROMPT))[-1].ended  # its length was found


@pytest.mark.parametrize("kind", [BLOCK, SHIFTED, replace(SHIFTED, sub_block_size=2)])
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 11])
def test_a_cache_of_the_prompt_changes_nothing(kind: DiffusionKind, length: int) -> None:
    prompt = [(7 * i) % 23 for i in range(length)]
    if not prompt and kind.shift:
        prompt = [2]
    cold = sampler(kind)
    expected = texts(list(cold.run(prompt)))
    assert cold.cache.length == len(prompt) // 4 * 4
    for kept in range(cold.cache.length + 1):  # also one that ends within a block
        cache = cold.cache.fork(length=kept)
        assert texts(list(sampler(kind, cache=cache).run(prompt))) == expected


@pytest.mark.parametrize("kind", [BLOCK, SHIFTED], ids=["plain", "shifted"])
def test_blocks_are_denoised_by_the_runner_that_pads_small_forwards(kind: DiffusionKind) -> None:
    bodies: list[Callable[[], None]] = []

    def record(body: Callable[[], None]) -> Callable[[], None]:
        return lambda: (bodies.append(body), body())[1]

    shapes = [GraphShape(1, rows, 64, False) for rows in (4, 8)]
    runner = GraphedRunner(MODEL, None, record, shapes)
    for size in (3, 4, 6, 13):
        prompt = [(3 * i) % 29 for i in range(size)]
        bodies.clear()
        made = sampler(kind, runner=runner)
        found = texts(list(made.run(prompt)))
        assert found == texts(list(sampler(kind).run(prompt)))
        assert len(bodies) >= made.forwards


def test_blocks_are_committed_once_and_exactly() -> None:
    """One forward for each denoising step, none for a commit: the next step takes it along."""
    made = sampler(BLOCK, replace(DIFFUSION, max_tokens=8))
    tokens = texts(list(made.run(PROMPT[:4])))
    assert made.forwards == 8
    # what the last step of the second block saw is what one forward of everything says
    made = sampler(BLOCK, replace(DIFFUSION, max_tokens=4))
    reader = BlockReader(MODEL, tiny.cache_for(MODEL), 4, False, lambda: None)
    reader.prefill(PROMPT[:4])
    sequence = [*PROMPT[:4], *tokens[:4], *[MASK] * 4]
    rows = reader.logits(sequence, 8, 12)
    whole = tiny.forward(MODEL, sequence, masks.block(0, 12, 4))
    torch.testing.assert_close(rows, whole[8:12], atol=1e-5, rtol=1e-5)
    assert reader.cache.length == 8


@pytest.mark.parametrize("shift", [False, True])
def test_a_canvas_is_one_forward_of_everything(shift: bool) -> None:
    reader = CanvasReader(MODEL, shift)
    sequence = [1, 2, MASK, MASK, 3]
    whole = tiny.forward(MODEL, sequence, masks.full(0, 5))
    rows = reader.logits(sequence, 0, 5)
    expected = torch.cat([whole[:1], whole[:-1]]) if shift else whole
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


REUSED = [(KeptReader(MODEL, shift, both), shift, both) for shift in (False, True)
          for both in (False, True)]  # fmt: skip


@pytest.mark.parametrize(("reader", "shift", "both"), REUSED)
def test_an_approximate_cache_is_exact_in_the_first_step_of_a_window_and_then_is_not(
    reader: KeptReader, shift: bool, both: bool
) -> None:
    exact = CanvasReader(MODEL, shift)
    sequence = [1, 2, 7, MASK, MASK, MASK, MASK, 3, 4]
    torch.testing.assert_close(
        reader.logits(sequence, 3, 5), exact.logits(sequence, 3, 5), atol=1e-5, rtol=1e-5
    )
    sequence[3] = 8  # settles; the positions around do not hear of it
    apart = (reader.logits(sequence, 3, 5) - exact.logits(sequence, 3, 5)).abs().max()
    assert 1e-4 < apart
    # the next window begins anew
    torch.testing.assert_close(
        reader.logits(sequence, 5, 7), exact.logits(sequence, 5, 7), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_with_one_layer_an_approximate_cache_is_exact(shift: bool, both: bool) -> None:
    """Keys of the first layer depend on nothing but their own token, and so never grow stale."""
    model = tiny.transformer(tiny.config(n_layers=1))
    exact, reader = CanvasReader(model, shift), KeptReader(model, shift, both)
    sequence = [5, 6, MASK, MASK, MASK, 9, 1]
    for at, token in ((3, 4), (2, 7), (4, 11)):
        torch.testing.assert_close(
            reader.logits(sequence, 2, 5), exact.logits(sequence, 2, 5), atol=1e-5, rtol=1e-5
        )
        sequence[at] = token
    sequence.insert(3, MASK)  # longer: everything is read again
    torch.testing.assert_close(
        reader.logits(sequence, 2, 6), exact.logits(sequence, 2, 6), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("reuse", [Reuse.PREFIX, Reuse.DUAL])
def test_an_approximate_cache_reads_fewer_positions(
    reuse: Reuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def positions(cache: Reuse) -> list[int]:
        seen: list[int] = []
        hidden = MODEL.hidden

        def counted(tokens: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
            seen.append(tokens.shape[1])
            return hidden(tokens, *more, **named)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(MODEL, "hidden", counted)
            config = replace(DIFFUSION, max_tokens=8, block_size=4, cache=cache)
            list(sampler(CANVAS, config, after=[2, 6, 4], length=8).run(PROMPT))
        return seen

    assert positions(Reuse.EXACT) == [17] * 8
    window = 4 if reuse is Reuse.DUAL else 11
    assert positions(reuse)[:5] == [17, window, window, window, 17]


def test_the_end_token_ends_the_text_and_what_is_behind_it_does_not_count() -> None:
    free = sampler(BLOCK)
    tokens = texts(list(free.run(PROMPT)))
    ends = 0
    for at in range(1, len(tokens)):
        if tokens[at] in tokens[:at]:
            continue
        ends += 1
        made = sampler(BLOCK, stop=frozenset({tokens[at]}))
        snapshots = list(made.run(PROMPT))
        assert texts(snapshots) == tokens[:at] and snapshots[-1].ended
        assert made.forwards <= free.forwards
    assert ends >= 2
    assert not list(free.run(PROMPT))[-1].ended


@pytest.mark.parametrize("kind", [CANVAS, BLOCK, SHIFTED])
def test_cancelled_between_any_two_forwards(kind: DiffusionKind) -> None:
    expected = texts(list(sampler(kind).run(PROMPT)))
    cancellations = 0
    while True:
        asked = [0]

        def cancelled(asked: list[int] = asked, allowed: int = cancellations) -> bool:
            asked[0] += 1
            return asked[0] > allowed

        made = sampler(kind, cancelled=cancelled)
        try:
            list(made.run(PROMPT))
            break
        except Cancelled:
            cancellations += 1
        assert made.cache.length <= len(PROMPT) and made.cache.length % 4 == 0
        assert texts(list(sampler(kind, cache=made.cache).run(PROMPT))) == expected
    assert cancellations > 10


class _Spelled:
    """Binds the first tokens, as token healing does."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        return [self._ids[len(so_far)], 28] if len(so_far) < len(self._ids) else None


@pytest.mark.parametrize("kind", [CANVAS, RESIZING, BLOCK, SHIFTED])
def test_bound_tokens_come_first_and_only_they(kind: DiffusionKind) -> None:
    bound = [11, 12, 13]
    for snapshot in sampler(kind, constraint=_Spelled(bound), after=()).run(PROMPT):
        done = [i for i, settled in enumerate(snapshot.settled) if settled]
        if len(done) <= len(bound):
            assert done == list(range(len(done)))
    assert all(t in (b, 28) for t, b in zip(snapshot.tokens, bound, strict=False))


def test_a_hole_in_place_keeps_to_its_limit_and_to_the_context() -> None:
    lengths = set()
    for seed in range(12):
        config = replace(DIFFUSION, temperature=3.0, seed=seed)
        snapshot = tiny.last(sampler(RESIZING, config, after=[2, 6]).run(PROMPT))
        assert len(snapshot.tokens) <= config.max_tokens
        assert not {EXPAND, DELETE, MASK} & set(snapshot.tokens)
        lengths.add(len(snapshot.tokens))
    assert len(lengths) > 2
    long = [1] * (SHAPE.max_positions - 4)
    assert len(tiny.last(sampler(CANVAS, after=[2]).run(long)).tokens) <= 3
    with pytest.raises(InvalidRequest, match="context"):
        list(sampler(CANVAS, after=[2] * 4).run(long))


@pytest.mark.parametrize("kind", [BLOCK, SHIFTED, replace(SHIFTED, sub_block_size=2)])
@pytest.mark.parametrize("last", [18, 20])  # positions of the context, also within a block
def test_blocks_are_written_up_to_the_last_position(kind: DiffusionKind, last: int) -> None:
    model = tiny.transformer(replace(SHAPE, max_positions=last))
    for room in range(1, 11):
        cache, prompt = tiny.cache_for(model), [n % 7 for n in range(last - room)]
        for limit in (room, 200):
            decoding = replace(DIFFUSION, max_tokens=limit)
            made = sampler(kind, decoding, model=model, cache=cache)
            found = tiny.last(made.run(prompt))
            assert len(found.tokens) == room and all(found.settled)


def test_rules_of_ours_and_another_block_size_are_refused() -> None:
    for rule in set(Rule) - {Rule.TRUST, Rule.SCHEDULE, Rule.THRESHOLD, Rule.ENTROPY_BOUND}:
        with pytest.raises(InvalidRequest, match=rule.value):
            sampler(BLOCK, replace(DIFFUSION, rule=rule))
    with pytest.raises(InvalidRequest, match="blocks of 4"):
        sampler(BLOCK, replace(DIFFUSION, block_size=5))
    with pytest.raises(InvalidRequest, match="mode ar"):
        as_diffusion(DecodingConfig(mode=Mode.AR))
    assert as_diffusion(DecodingConfig()).mode is Mode.DIFFUSION


# --- lengths and schedules ----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80))
def test_dreams_schedule_settles_every_mask_once(masked: int, steps: int) -> None:
    counts = timestep_counts(masked, steps)
    assert len(counts) == steps and sum(counts) == masked and min(counts) >= 0


@pytest.mark.parametrize("peak", [1, 2, 5, 8, 13, 40])
def test_the_length_with_the_highest_calibrated_confidence_is_found(peak: int) -> None:
    asked: list[int] = []

    def confidence(length: int) -> float:
        asked.append(length)
        return length_bias(length) * (2.0 - abs(length - peak) / 64)

    assert calibrated_length(confidence, 64) == peak
    assert len(asked) == len(set(asked)) <= 64  # nothing is computed twice


def test_a_search_gives_up_after_four_lengths_that_are_no_better() -> None:
    asked: list[int] = []

    def flat(length: int) -> float:
        asked.append(length)
        return length_bias(length)

    assert calibrated_length(flat, 64) == 8
    assert sorted(asked) == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert calibrated_length(lambda length: 1.0, 3) <= 3
