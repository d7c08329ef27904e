"""The live view: what is settled reads as text, what is not looks unsettled, and it fits."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from blockdiff.cli import tui
from blockdiff.cli.source_file import SourceFile
from blockdiff.types import (
    Drafted,
    Filled,
    Finished,
    FinishReason,
    Hole,
    Refinement,
    Span,
    SyntaxState,
)

BEFORE, AFTER = "import os\n\n\ndef f(x):\n    return ", "\n\n\nprint(f(1))\n"
SOURCE = SourceFile.from_text(BEFORE + AFTER)
HOLE = Hole(len(BEFORE), len(BEFORE))


def refinement(*tokens: tuple[str, bool, float], forwards: int = 2) -> Refinement:
    spans, text = [], ""
    for token, settled, confidence in tokens:
        spans.append(Span(len(text), len(text + token), settled, confidence))
        text += token
    return Refinement("", 0, 0, text, tuple(spans), 3, forwards, 1234.5)


def drawn(draft: Refinement, width: int = 60, height: int = 20) -> list[str]:
    around = tui.Surroundings.of(SOURCE, HOLE)
    return tui.draw(around, draft, width, height).plain.split("\n")


def test_the_draft_stands_between_the_lines_around_it() -> None:
    draft = refinement(("x", True, 1.0), (" +", False, 0.6), (" 1", False, 0.01))
    assert drawn(draft) == [
        "   2 │ ",
        "   3 │ ",
        "   4 │ def f(x):",
        "   5 │     return x +░░",
        "   6 │ ",
        "   7 │ ",
        "   8 │ print(f(1))",
    ]


def test_lines_are_numbered_as_in_the_filled_file() -> None:
    assert drawn(refinement(("x +\n    1", True, 1.0)))[3:5] == [
        "   5 │     return x +",
        "   6 │     1",
    ]


def test_unsettled_tokens_are_tinted_by_confidence() -> None:
    draft = refinement(("a", True, 1.0), ("b", False, 0.3), ("c", False, 0.7), ("d", False, 0.9))
    frame = tui.draw(tui.Surroundings.of(SOURCE, HOLE), draft, 60, 20)
    at = frame.plain.index("abcd")
    styles = {
        frame.plain[at + i]: [str(s.style) for s in frame.spans if s.start <= at + i < s.end]
        for i in range(4)
    }
    assert styles == {"a": [], "b": ["italic red"], "c": ["italic yellow"], "d": ["italic cyan"]}


def test_an_empty_draft_and_an_empty_token_can_be_drawn() -> None:
    assert drawn(refinement())[3] == "   5 │     return "
    assert drawn(refinement(("", False, 0.0)))[3] == "   5 │     return ░"


@given(
    st.lists(
        st.tuples(
            st.text(alphabet="ab \n\t\r日本😀\x1b\x00e\u0301\u202e", max_size=12),
            st.booleans(),
            st.floats(0, 1),
        ),
        max_size=20,
    ),
    st.integers(1, 100),
    st.integers(1, 30),
)
def test_every_frame_fits_the_terminal(
    tokens: list[tuple[str, bool, float]], width: int, height: int
) -> None:
    lines = drawn(refinement(*tokens), width, height)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= max(width, tui._GUTTER + 1)
    assert not set("".join(lines)) & {"\x1b", "\x00", "\r", "\u202e"}


def test_a_draft_taller_than_the_terminal_shows_its_end() -> None:
    draft = refinement(*((f"line {i}\n", True, 1.0) for i in range(50)), ("end", True, 1.0))
    lines = drawn(draft, height=8)
    assert len(lines) == 8
    assert any(line.endswith("│ end") for line in lines)


def test_a_draft_far_to_the_right_stays_in_sight() -> None:
    source = SourceFile.from_text("x" * 5000 + "y" * 5000)
    around = tui.Surroundings.of(source, Hole(5000, 5000))
    frame = tui.draw(around, refinement(("HERE", True, 1.0)), 60, 5).plain
    assert "…" in frame
    assert "xHERE" in frame


def test_the_surroundings_of_a_large_file_are_small() -> None:
    source = SourceFile.from_text("x = 1\r\n" * 100_000)
    hole = Hole(350_000, 350_005)
    around = tui.Surroundings.of(source, hole)
    assert (len(around.before), len(around.after), around.first_number) == (4, 4, 49_998)


def test_the_footer_says_how_far_it_is() -> None:
    draft = refinement(("a", True, 1.0), ("b", True, 1.0), ("c", False, 0.5), forwards=4)
    line = tui.footer(draft, "verify", 100).plain
    assert line == "verify · step 3 · 2 of 3 tokens settled · 0.5 tokens/forward · 1234 ms"
    assert cell_len(tui.footer(draft, "verify", 20).plain) <= 20
    assert "tokens/forward" not in tui.footer(refinement(forwards=0), "ar", 100).plain


def test_the_summary_says_when_the_text_was_cut_off() -> None:
    finished = Finished(
        "", 0, "x", 6, 3, FinishReason.LENGTH, SyntaxState.BROKEN, "ar", "m", 900.0, 80.0, 40
    )
    assert tui.summary(finished) == (
        "ar · 6 tokens in 3 forwards · 2.0 tokens/forward · 900 ms, first draft after 80 · "
        "syntax broken · cut off at --max-tokens (finish: length)"
    )


def test_the_summary_says_what_drafted_the_text() -> None:
    one = Finished(
        "", 0, "x", 9, 3, FinishReason.EOM, SyntaxState.OK, "verify", "m", 90.0, 8.0, 40,
        drafted=Drafted(adapter=2, copy=4),
    )  # fmt: skip
    assert "3.0 tokens/forward · drafted: 2 adapter, 4 copy · 90 ms" in tui.summary(one)
    both = Filled("", (one, replace(one, hole=1, drafted=Drafted(table=1))), 90.0)
    assert "drafted: 2 adapter, 4 copy, 1 table" in tui.summary(both)


def test_the_live_view_leaves_the_cursor_visible_and_nothing_behind() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, height=20, color_system="standard")
    with pytest.raises(KeyboardInterrupt), tui.LiveView(console, SOURCE, HOLE, "verify") as view:
        view.show(refinement(("x", True, 1.0)))
        raise KeyboardInterrupt
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    assert out.getvalue().endswith("\x1b[2K")  # the last frame is erased


def test_progress_without_a_terminal_is_a_line_a_phase(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tui.ProgressBar() as bar:
        bar.transfer("hub", 0, 10_000_000)
        bar.transfer("hub", 5_000_000, 10_000_000)
        bar.transfer("check", 10_000_000, 10_000_000)
        bar.share("loading", 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "downloading from the hub 0 of 10 MB",
        "checking 10 of 10 MB",
        "loading 50%",
    ]


def test_quiet_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with tui.ProgressBar(quiet=True) as bar:
        bar.share("loading", 0.5)
    assert capsys.readouterr().err == ""
