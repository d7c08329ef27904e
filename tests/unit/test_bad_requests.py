"""Whatever a request holds, it is answered or refused by a typed error, and the next one works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.client import strict, wire
from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.engine.engine import Engine
from blockdiff.errors import BlockdiffError, InvalidRequest, ModelUnsupported
from blockdiff.types import (
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Request,
    RewriteRequest,
)
from tests.unit.tiny_checkpoint import checkpoint

DOCUMENT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"
ENGINE = Engine(checkpoint())

integers = st.sampled_from(
    [0, 1, 2, 3, 16, 64, 65, 512, 8192, 8193, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30]
).flatmap(lambda n: st.sampled_from([n, -n, -n - 1]))
numbers = st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-300, 1e-39, 1e-8, 0.5, 1.0 - 2**-53, 1.0, 1.0 + 2**-52,
     10.0, 1e39, 1e308]
)  # fmt: skip
others: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, "", "1", "NaN", [], {}, [1], 1.5, float("nan"), float("inf"), "\ud800"]
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Of the right type, or in one of sixteen cases of another."""
    return st.integers(0, 15).flatmap(lambda n: others if n == 15 else usual)


def enum(kind: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([member.value for member in kind])


decodings = st.fixed_dictionaries(
    {"max_tokens": mostly(st.sampled_from([1, 2, 5, 5, 5, 8193]))},
    optional={
        "mode": mostly(enum(Mode)), "rule": mostly(enum(Rule)), "cache": mostly(enum(Reuse)),
        "block_size": mostly(st.integers(0, 8) | integers),
        "denoising_steps": mostly(integers), "seed": mostly(integers),
        "threshold": mostly(numbers), "entropy_bound": mostly(numbers),
        "edit_threshold": mostly(numbers), "temperature": mostly(numbers),
        "top_p": mostly(numbers),
    },
)  # fmt: skip
documents = st.sampled_from(
    [DOCUMENT, "", "\ufeff\r\n", "\0", "x" * 3000, "a = 1\n" * 200, "é\u0301😀\u2028\x85\t",
     "\ud800"]
)  # fmt: skip
offsets = mostly(st.integers(0, 9) | integers)
holes = mostly(st.fixed_dictionaries({"start": offsets, "end": offsets}))
common: dict[str, st.SearchStrategy[Any]] = {
    "path": mostly(st.sampled_from(["a.py", "", "/" * 40, "a\0b.rs", "x" * 999])),
    "language": mostly(st.sampled_from(["python", "", "PYTHON ", "no such"])),
    "indentation": mostly(st.sampled_from(["", "\t", "  ", "x", " " * 17])),
    "decoding": mostly(decodings),
    "context_tokens": mostly(st.sampled_from([16, 64, 64, 450, 500]) | integers),
    "request_id": mostly(st.sampled_from(["", "r", "x" * 1025])),
    "snippets": mostly(
        st.lists(st.fixed_dictionaries({"path": mostly(documents), "text": mostly(documents)}),
                 max_size=2)
    ),
}  # fmt: skip
infills = st.fixed_dictionaries(
    {"document": mostly(documents), "hole": holes},
    optional={
        **common, "also": mostly(st.lists(holes, max_size=9)), "revise": mostly(st.booleans())
    },
)  # fmt: skip
rewrites = st.fixed_dictionaries(
    {"document": mostly(documents), "span": holes},
    optional={
        **common, "instruction": mostly(st.sampled_from(["", " ", "x" * 600, "shorter"])),
        "strength": mostly(numbers),
    },
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "bodies"), [(InfillRequest, infills), (RewriteRequest, rewrites)]
)
def test_every_request_is_answered_or_refused(
    kind: type[Request], bodies: st.SearchStrategy[Any]
) -> None:
    @settings(max_examples=150, deadline=None)
    @given(bodies)
    def hold(body: dict[str, Any]) -> None:
        try:
            wanted = wire.call_from_json(strict.parse(json.dumps(body).encode()), kind).request
        except InvalidRequest:
            return
        ask = ENGINE.rewrite if isinstance(wanted, RewriteRequest) else ENGINE.infill
        try:
            *_, end = ask(wanted)  # type: ignore[operator]
        except (InvalidRequest, ModelUnsupported) as error:
            assert error.code != BlockdiffError.code
        else:
            assert isinstance(end, (Finished, Filled))

    hold()


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="seed must be -2"):
        DecodingConfig(seed=seed)


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**63, 2**64 - 1])
def test_every_other_seed_is_taken(seed: int) -> None:
    decoding = DecodingConfig(seed=seed, temperature=1.0, max_tokens=2)
    request = InfillRequest(DOCUMENT, Hole(29, 29), decoding=decoding)
    assert isinstance([*ENGINE.infill(request)][-1], Finished)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("size", range(490, 516, 5))
def test_a_request_may_reach_the_end_of_the_context(mode: Mode, size: int) -> None:
    """The model has 512 positions; what is left of them is written, no more is an error."""
    for rule in (Rule.THRESHOLD, Rule.SYNTAX):
        decoding = DecodingConfig(mode=mode, rule=rule, max_tokens=64)
        document = "\x01" * size + "\n"
        request = InfillRequest(document, Hole(size, size), "a.py", decoding=decoding,
                                context_tokens=8 * size)  # fmt: skip
        try:
            *_, end = ENGINE.infill(request)
        except InvalidRequest as error:
            assert "exceed the model's context of 512" in error.message
            continue
        assert isinstance(end, Finished)
        left = 512 - end.context_tokens + 1
        assert end.tokens == min(left, 64) or end.finish is FinishReason.EOM
