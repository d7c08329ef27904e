"""Ways to go on are scored as each would be by itself."""

from __future__ import annotations

import pytest
import torch

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.branches import END, scored, weighed
from blockdiff.engine.batch import events_of
from tests.unit.tiny import forward, sampler, toy_base

PROMPT = [1, 2, 3]
WAYS = [[4, 5, 9], [6], [7, 8, 9, 1, 2], [5, END]]


def expected(text: list[int], stop: set[int]) -> list[float]:
    tokens = [token for token in text if token != END]
    rows = forward(toy_base(), PROMPT + tokens)[len(PROMPT) - 1 :].log_softmax(-1)
    return [
        -float(row[sorted(stop)].logsumexp(-1) if token == END else row[token])
        for row, token in zip(rows, text, strict=False)
    ]


def test_no_way_sees_another() -> None:
    loop = sampler(toy_base(), None, DecodingConfig(mode=Mode.AR))
    with torch.inference_mode():
        loop.prefill(PROMPT)
        (found,) = events_of(weighed(loop, PROMPT[-1], WAYS), loop.alone)
    for nats, way in zip(found, WAYS, strict=True):
        assert nats == pytest.approx(expected(way, set(loop.stop)), abs=1e-4)
    assert loop.forwards == 1 and loop.cache.length == len(PROMPT) - 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_committed_of_the_first_way_is_as_if_it_had_been_read(count: int) -> None:
    first, *_ = WAYS
    loop = sampler(toy_base(), None, DecodingConfig(mode=Mode.AR))
    with torch.inference_mode():
        loop.prefill(PROMPT)
        list(events_of(weighed(loop, PROMPT[-1], WAYS), loop.alone))
        loop.cache.commit(count)
        rest = [*first[count:], 2]
        last = [*PROMPT, *first][len(PROMPT) - 1 + count]
        (found,) = events_of(scored(loop, last, rest, 3), loop.alone)
    assert [one.nll for one in found] == pytest.approx(
        expected([*first, 2], set())[count:], abs=1e-4
    )


def test_how_far_a_token_lies_behind_the_likeliest() -> None:
    loop = sampler(toy_base(), None, DecodingConfig(mode=Mode.AR))
    rows = forward(toy_base(), [*PROMPT, 4])[len(PROMPT) - 1 :].log_softmax(-1)
    with torch.inference_mode():
        loop.prefill(PROMPT)
        (found,) = events_of(scored(loop, PROMPT[-1], [4], 3), loop.alone)
    assert found[0].likeliest == tuple(rows[0].topk(3).indices.tolist())
    assert found[0].gap == pytest.approx(float(rows[0].max() - rows[0, 4]), abs=1e-4)
