"""The diff says exactly what changed, and the tools that apply diffs agree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.cli.source_file import SourceFile
from blockdiff.cli.textdiff import Stretch, unified_diff
from blockdiff.types import (
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Refinement,
    Span,
    SyntaxState,
)

TEXT = st.text(alphabet="ab\r\n é", max_size=60)


def split(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def applied(text: str, diff: list[str]) -> str:
    """A plain patch tool that trusts nothing: every line of context must be where it should."""
    rows = split("".join(diff))
    old, new, at = split(text), [], 0
    for index, row in enumerate(rows[2:], start=2):
        if row.startswith("\\"):
            continue
        if row.startswith("@@"):
            start, length, new_start = hunk(row)
            new += old[at : start - (length > 0)]
            at = start - (length > 0)
            assert len(new) in (new_start, new_start - 1)
            continue
        unfinished = rows[index + 1 : index + 2] == ["\\ No newline at end of file\n"]
        line = row[1:-1] if unfinished else row[1:]
        if row[0] in " -":
            assert old[at] == line
            at += 1
        if row[0] in " +":
            new.append(line)
    return "".join(new + old[at:])


def hunk(row: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,\d+)? @@\n", row)
    assert match, row
    return int(match[1]), int(match[2] or 1), int(match[3])


@given(TEXT, TEXT, TEXT, TEXT)
def test_applying_the_diff_fills_the_hole(prefix: str, old: str, new: str, suffix: str) -> None:
    source = SourceFile.from_text(prefix + old + suffix, Path("f.py"))
    diff = list(unified_diff(source, Hole(len(prefix), len(prefix + old)), new))
    if old == new:
        assert diff == []
    else:
        assert applied(source.text, diff) == prefix + new + suffix


MANY = "".join(f"line {i}\n" for i in range(1, 41))


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (MANY, "line 20\n", "new\nand newer\n"),
        (MANY, "line 1\n", ""),
        (MANY, "line 40\n", "last, without a newline"),
        (MANY[:-1], "line 40", "last\n"),
        (MANY.replace("\n", "\r\n"), "line 7", "CRLF stays"),
        (MANY, "line 5\nline 6\nline 7\n", "line 5\nline six\nline 7\n"),
        ("only\n", "only", "other"),
    ],
)
def test_git_applies_it(tmp_path: Path, text: str, old: str, new: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    start = text.index(old)
    hole = Hole(start, start + len(old))
    source = SourceFile.from_text(text, Path("file.txt"))
    (tmp_path / "file.txt").write_bytes(text.encode())
    diff = "".join(unified_diff(source, hole, new)).encode()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", "--whitespace=nowarn"], cwd=tmp_path, input=diff, check=True)
    assert (tmp_path / "file.txt").read_bytes() == source.replaced(hole, new).encode()


def test_three_lines_of_context_and_the_numbers_of_the_file() -> None:
    start = MANY.index("line 20")
    source = SourceFile.from_text(MANY, Path("src") / "file.txt")
    assert list(unified_diff(source, Hole(start, start + 7), "other")) == [
        "--- a/src/file.txt\n",
        "+++ b/src/file.txt\n",
        "@@ -17,7 +17,7 @@\n",
        " line 17\n",
        " line 18\n",
        " line 19\n",
        "-line 20\n",
        "+other\n",
        " line 21\n",
        " line 22\n",
        " line 23\n",
    ]


def test_standard_input_and_absolute_paths_have_names_too() -> None:
    hole = Hole(0, 1)
    assert next(unified_diff(SourceFile.from_text("a\n"), hole, "b")) == "--- a/stdin\n"
    absolute = Path("/").absolute() / "f.py"
    source = SourceFile.from_text("a\n", absolute)
    assert next(unified_diff(source, hole, "b")) == f"--- {absolute}\n"


# Several holes shown as one


DOCUMENT = "def f(a, b):\n    return a\n"


def draft(hole: int, text: str) -> Refinement:
    spans = tuple(Span(i, i + 1, i % 2 == 0, 0.5) for i in range(len(text)))
    return Refinement("r", 7, hole, text, spans, 3, 4, 9.0)


def finished(hole: int, text: str) -> Finished:
    return Finished("r", hole, text, 1, 1, FinishReason.EOM, SyntaxState.OK, "ar", "m", 1.0, 1.0, 1)


@given(
    cuts=st.lists(st.integers(0, len(DOCUMENT)), min_size=4, max_size=4, unique=True),
    texts=st.lists(st.text("ab\n", max_size=4), min_size=2, max_size=2),
    turned=st.booleans(),
)
def test_what_is_shown_at_last_is_what_is_written(
    cuts: list[int], texts: list[str], turned: bool
) -> None:
    a, b, c, d = sorted(cuts)
    holes = [Hole(c, d), Hole(a, b)] if turned else [Hole(a, b), Hole(c, d)]
    stretch = Stretch(InfillRequest(DOCUMENT, holes[0], also=(holes[1],)))
    assert stretch.hole == Hole(a, d)
    first = stretch.shown(draft(0, texts[0]))
    assert (first.step, first.forwards) == (3, 4)
    shown = stretch.shown(draft(1, texts[1]))
    end = Filled("r", (finished(0, texts[0]), finished(1, texts[1])), 1.0)
    early, late = reversed(texts) if turned else texts
    assert shown.text == stretch.text(end) == early + DOCUMENT[b:c] + late
    assert (shown.hole, shown.step, shown.forwards) == (0, 6, 8)
    ends = [0, *(span.end for span in shown.spans)]
    assert [span.start for span in shown.spans] == ends[:-1] and ends[-1] == len(shown.text)
    kept = Span(len(early), len(early) + c - b, True, 1.0)
    assert kept in shown.spans
