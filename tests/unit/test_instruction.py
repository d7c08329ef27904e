"""Instructions in comments of a selection."""

from __future__ import annotations

import pytest

from lsp_server.instruction import instruction_in

CODE = "total = 0\nfor x in xs:\n    total += x\n"


@pytest.mark.parametrize(
    "comment",
    [
        "# TODO(ai): use sum", "# todo(AI): use sum", "#AI: use sum", "// ai: use sum",
        "/* TODO(ai): use sum */", "-- AI: use sum", "; AI: use sum", "<!-- AI: use sum -->",
        "% TODO(ai): use sum", "(* AI: use sum *)", "/// TODO (ai): use sum", '" AI: use sum',
    ],
)  # fmt: skip
def test_the_first_or_last_line_may_say_what_to_do(comment: str) -> None:
    for text, shown in (
        (f"{comment}\n{CODE}", CODE),
        (f"{CODE}{comment}\n", CODE),
        (f"\n{CODE}{comment}", "\n" + CODE[:-1]),
        (f"    {comment}\r\n{CODE}", CODE),
    ):
        found = instruction_in(text, 0, len(text))
        assert found is not None
        assert (found.what, found.shown) == ("use sum", shown)


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        "# TODO: use sum\n" + CODE,
        "# the ai: it sums\n" + CODE,
        "x = 1  # AI: use sum\n" + CODE,
        "total = 0\n# AI: use sum\nfor x in xs:\n    total += x\n",
        "# AI:\n" + CODE,
        "ai: use sum\n" + CODE,
        "   \n",
    ],
)
def test_other_comments_say_nothing(text: str) -> None:
    assert instruction_in(text, 0, len(text)) is None


def test_a_selection_that_begins_behind_its_indentation_is_taken_from_its_line() -> None:
    text = "def f(xs):\n    # AI: use sum\n    return 1\n"
    found = instruction_in(text, text.index("#"), len(text))
    assert found is not None
    assert (found.start, found.shown) == (text.index("    #"), "    return 1\n")


def test_a_comment_by_itself_becomes_the_code() -> None:
    text = "# AI: read the file into lines\n"
    found = instruction_in(text, 0, len(text))
    assert found is not None and found.shown is None and found.what == "read the file into lines"


def test_a_long_instruction_is_cut_in_the_menu() -> None:
    found = instruction_in("# AI: " + "word " * 40 + "\nx = 1\n", 0, 300)
    assert found is not None and len(found.short) <= 60 and found.short.endswith("…")
