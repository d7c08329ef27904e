"""What the model sees of a file hardly moves while somebody types in it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.config import Layout
from blockdiff.infill.layout import build_prompt
from blockdiff.infill.windows import Windows, windows
from blockdiff.types import Hole, InfillRequest
from tests.unit.toy_tokenizers import ToyTokenizer

BYTES = ToyTokenizer()
LINES = st.lists(st.text(st.sampled_from("ab \r\té😀("), max_size=30), max_size=40)
CODE = "import os\n\n\nclass Shape:\n    def area(self, scale):\n" + "".join(
    f"        value_{i} = scale * {i}\n" for i in range(300)
)


def request(prefix: str, suffix: str, budget: int = 1024) -> InfillRequest:
    at = Hole(len(prefix), len(prefix))
    return InfillRequest(prefix + suffix, at, "shape.py", "python", context_tokens=budget)


@settings(deadline=None)
@given(before=LINES, line=st.text("ab (", max_size=20), typed=st.text("ab (", max_size=20),
       after=LINES, budget=st.integers(200, 600))  # fmt: skip
def test_what_is_typed_in_a_line_moves_nothing_else(
    before: list[str], line: str, typed: str, after: list[str], budget: int
) -> None:
    prefix, suffix = "\n".join(before) + "\n" + line, "\n" + "\n".join(after)
    one = windows(request(prefix, suffix, budget), BYTES)
    other = windows(request(prefix + typed, suffix, budget), BYTES)
    if len(other.begun) == len(one.begun) + len(typed):  # else the line has become too long
        assert (one.before, one.after, one.used) == (other.before, other.after, other.used)
        assert other.begun == one.begun + BYTES.encode(typed)


@pytest.mark.parametrize("layout", [Layout.PSM, Layout.SPM])
def test_typing_changes_the_end_of_the_prompt_only(layout: Layout) -> None:
    """A new line moves the suffix in `psm`, but neither the lines before it nor the window."""
    at = CODE.index("        value_203")
    prefix, suffix = CODE[:at], CODE[CODE.index("        value_250") :]
    typed = "        total = value_1\n        if total:\n            retu"
    tokens = build_prompt(request(prefix, suffix, 4096), BYTES, layout, heal=False).tokens
    for end in range(1, len(typed) + 1):
        wanted = request(prefix + typed[:end], suffix, 4096)
        after = build_prompt(wanted, BYTES, layout, heal=False)
        kept = _common(tokens, after.tokens)
        new_line = typed[end - 1] == "\n" and layout is Layout.PSM
        most = len(suffix) + 40 if new_line else 1
        assert len(after.tokens) - kept <= most
        assert kept > 1000
        tokens = after.tokens


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_the_start_of_the_prefix_moves_rarely() -> None:
    starts = set()
    for value in range(100, 300):
        end = CODE.index(f"        value_{value} ")
        before = BYTES.decode(windows(request(CODE[:end], CODE[end:], 4096), BYTES).before)
        starts.add(before[before.index("        value_") :][:20])
    assert len(starts) <= 200 // 16 + 1


def text_of(window: Windows) -> tuple[str, str, str]:
    return BYTES.decode(window.before), BYTES.decode(window.begun), BYTES.decode(window.after)


def test_imports_and_signatures_come_before_the_nearest_lines() -> None:
    at = CODE.index("        value_200")
    before, begun, _ = text_of(windows(request(CODE[:at], CODE[at:]), BYTES))
    head = "import os\nclass Shape:\n    def area(self, scale):\n"
    assert before.startswith(head + "        value_1")
    assert (before.removeprefix(head) + begun).endswith("value_199 = scale * 199\n")


def test_what_is_in_the_window_is_not_said_twice() -> None:
    at = CODE.index("        value_9 ")
    before, begun, _ = text_of(windows(request(CODE[:at], CODE[at:]), BYTES))
    assert before + begun == CODE[:at]


def test_the_outline_takes_a_quarter_of_the_prefix_at_most() -> None:
    imports = "".join(f"import module_{i}\n" for i in range(200))
    code = imports + CODE
    at = code.index("        value_200")
    before, _, _ = text_of(windows(request(code[:at], code[at:]), BYTES))
    head = before[: before.index("        value_")]
    assert "import module_0\n" in head and "    def area(self, scale):\n" in head
    assert len(head) <= 1024 // 4 and len(before) > 400


def test_a_line_too_long_for_an_anchor_is_the_prefix_itself() -> None:
    window = windows(request("x" * 500, "\n", 256), BYTES)
    assert window.begun == [] and text_of(window)[0] == "x" * len(window.before)


@pytest.mark.parametrize("layout", [Layout.PSM, Layout.SPM])
def test_the_byte_order_mark_is_not_forced_upon_the_model(layout: Layout) -> None:
    wanted = replace(request("\ufeffa = ", "\n"), path="")
    assert "\ufeff" not in BYTES.show(build_prompt(wanted, BYTES, layout).tokens)
