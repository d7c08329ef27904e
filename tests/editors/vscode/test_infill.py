"""Infill in a real VS Code, through the real language server and engine service."""

from __future__ import annotations

import json
import time

import pytest

from tests.editors.nvim.script import Frame, Scripted
from tests.editors.vscode.conftest import Open
from tests.editors.vscode.vscode import Window

AREA = "def area(width, height):\n    return todo\n\n\nprint(area(2, 3))\n"


def ready(window: Window) -> None:
    """Wait for a draft that can be accepted, and for its keys to be bound."""
    window.sees("Accept")
    window.bound()


def gone(window: Window) -> None:
    """Wait until nothing of a draft can be seen."""
    window.until(
        lambda: (
            window.shows_document()
            and not any(word in window.screen() for word in ("Accept", "Writing…", "Stop"))
        )
    )


def in_diff(window: Window, name: str) -> None:
    """Wait for the diff of a draft, its right side active."""
    window.until(lambda: window.tab == f"{name}: Draft of BlockDiff")
    window.until(lambda: window.scheme == "blockdiff-draft")


def infill(window: Window, text: str) -> None:
    window.find(text)
    window.begin("blockdiff.infillSelection")


def test_a_selection_is_filled_while_one_watches(window: Window, engine: Scripted) -> None:
    engine.writes(
        Frame("width or height", 5), Frame("width * heigth", 8, "heigth"), "width * height"
    )
    engine.wait_for_steps()
    file = window.open("area.py", AREA)
    before = window.version
    window.find("todo")
    window.palette("BlockDiff: Infill Selection")
    window.sees("Writing…")
    for draft in ("width or height", "width * heigth", "width * height"):
        engine.step()
        window.sees(f"    return {draft}")
        assert window.text == AREA
    ready(window)
    assert window.text == AREA and window.version == before and not window.dirty
    window.press("Tab")
    window.until(lambda: window.text == AREA.replace("todo", "width * height"))
    gone(window)
    window.press("Control+z")
    window.until(lambda: window.text == AREA)
    assert not window.dirty and file.read_text() == AREA
    assert window.notices() == []


def test_tokens_have_the_colour_of_their_state(window: Window, engine: Scripted) -> None:
    engine.writes(Frame("width * heigth", 5, "heigth"))
    engine.hold = True
    window.open("area.py", AREA)
    infill(window, "todo")
    window.sees("width * heigth")
    style = window.style_of("width * heigth")
    colours = [f"blockdiff-{name}Foreground" for name in ("settled", "masked", "uncertain")]
    expected = [window.theme_colour(name) for name in colours]
    assert len(set(expected)) == 3
    places = [style.find(colour) for colour in expected]
    assert -1 not in places and places == sorted(places), style


def test_reject_leaves_everything_as_it_was(window: Window, engine: Scripted) -> None:
    engine.writes("width\n    # two lines")
    text = AREA.replace("\n", "\r\n") + "\ttabs, é🦊, no end of line"
    file = window.open("area.py", text)
    before = window.version
    infill(window, "todo")
    ready(window)
    window.sees("# two lines")
    window.press("Escape")
    gone(window)
    assert (window.text, window.version, window.dirty) == (text, before, False)
    window.press("Control+s", "Control+z")
    window.run("workbench.action.files.saveAll")
    assert file.read_bytes() == text.encode() and window.text == text
    assert window.notices() == []


def test_several_cursors_are_several_holes_and_one_undo_step(
    window: Window, engine: Scripted
) -> None:
    engine.frames = [[Frame("one", 3)], [Frame("two\n  three", 4)], [Frame("four", 2)]]
    text = "é = aa\n🦊 = bb\n\nx = cc\n"
    window.open("holes.py", text)
    window.select((0, 4, 0, 6), (1, 5, 1, 7), (3, 4, 3, 6))
    window.palette("BlockDiff: Fill All Holes")
    ready(window)
    assert window.text == text and len(engine.requests) == 3
    window.press("Tab")
    window.until(lambda: window.text == "é = one\n🦊 = two\n  three\n\nx = four\n")
    gone(window)
    window.press("Control+z")
    window.until(lambda: window.text == text)


def test_next_goes_from_hole_to_hole(window: Window, engine: Scripted) -> None:
    engine.frames = [[Frame("1", 1)], [Frame("22", 2)], [Frame("333", 3)]]
    window.open("holes.py", "a = ?\nb = ?\nc = [?]\n")
    window.select((0, 4, 0, 5), (1, 4, 1, 5), (2, 5, 2, 6))
    window.begin("blockdiff.fillAllHoles")
    ready(window)
    window.cursor(0, 0)
    window.focus()
    for place in ([0, 4], [1, 4], [2, 5], [0, 4]):
        window.press("Alt+]")
        window.until(lambda place=place: window.place == place)
    assert window.text == "a = ?\nb = ?\nc = [?]\n"


def test_a_draft_is_taken_word_by_word_and_line_by_line(window: Window, engine: Scripted) -> None:
    engine.writes("one two\n    three\n    four")
    text = "def f():\n    todo\n# end\n"
    window.open("lines.py", text)
    infill(window, "todo")
    ready(window)
    taken = [
        "def f():\n    onetodo\n# end\n",
        "def f():\n    one two\ntodo\n# end\n",
        "def f():\n    one two\n    three\ntodo\n# end\n",
        "def f():\n    one two\n    three\n    four\n# end\n",
    ]
    for key, state in zip(("Alt+w", "Alt+l", "Alt+l", "Alt+l"), taken, strict=True):
        window.bound()
        window.press(key)
        window.until(lambda state=state: window.text == state)
    gone(window)
    for state in [*reversed(taken[:-1]), text]:
        window.press("Control+z")
        window.until(lambda state=state: window.text == state)


def test_the_lens_accepts_and_rejects(window: Window, engine: Scripted) -> None:
    engine.writes("width * height")
    window.open("area.py", AREA)
    infill(window, "todo")
    ready(window)
    window.click_lens("Reject")
    gone(window)
    assert window.text == AREA
    infill(window, "todo")
    ready(window)
    window.click_lens("Accept")
    window.until(lambda: window.text == AREA.replace("todo", "width * height"))
    gone(window)


def test_a_running_request_is_cancelled_by_the_key(window: Window, engine: Scripted) -> None:
    engine.writes("never seen whole")
    engine.hold = True
    window.open("area.py", AREA)
    infill(window, "todo")
    window.sees("never seen")
    window.run("blockdiff.accept")
    window.until(lambda: any("not finished" in notice for notice in window.notices()))
    window.run("notifications.clearAll")
    window.focus()
    window.bound()
    window.watch("never seen")
    pressed = time.monotonic()
    window.press("Escape")
    window.misses("never seen")
    window.until(lambda: engine.cancelled)
    print(
        f"from the key: preview gone after {window.watched():.0f} ms,"
        f" engine stopped after {1000 * (engine.cancelled[0] - pressed):.0f} ms"
    )
    gone(window)
    assert window.text == AREA and window.notices() == []

    infill(window, "todo")
    window.sees("never seen")
    window.run("blockdiff.stop")
    gone(window)
    window.until(lambda: len(engine.cancelled) == 2)


def test_typing_elsewhere_moves_a_draft(window: Window, engine: Scripted) -> None:
    engine.writes("width", "width *", "width * height")
    engine.wait_for_steps()
    window.open("area.py", AREA)
    infill(window, "todo")
    engine.step()
    window.sees("    return width")
    window.cursor(0, 0)
    window.focus()
    window.type("# above")
    window.press("Enter")
    window.until(lambda: window.text.startswith("# above\n"))
    window.cursor(5, 0)
    window.type("# below")
    window.press("Enter")
    window.until(lambda: "# below\n" in window.text)
    engine.step()
    window.sees("    return width *")
    engine.step()
    ready(window)
    changed = "# above\n" + AREA.replace("print", "# below\nprint")
    assert window.text == changed
    window.run("blockdiff.accept")
    window.until(lambda: window.text == changed.replace("todo", "width * height"))
    assert window.notices() == []


def test_typing_inside_ends_a_draft(window: Window, engine: Scripted) -> None:
    engine.writes("width")
    engine.hold = True
    window.open("area.py", AREA)
    infill(window, "todo")
    window.sees("    return width")
    window.cursor(1, 13)
    window.focus()
    window.type("x")
    window.until(lambda: engine.cancelled)
    gone(window)
    assert window.text == AREA.replace("todo", "toxdo") and window.notices() == []


def test_an_edit_inside_ends_a_finished_draft_and_undo_does_not_revive_it(
    window: Window, engine: Scripted
) -> None:
    window.open("area.py", AREA)
    infill(window, "todo")
    ready(window)
    window.press("Control+Shift+k")
    gone(window)
    window.until(lambda: "todo" not in window.text)
    window.press("Control+z")
    window.until(lambda: window.text == AREA)
    window.run("blockdiff.accept")
    window.until(lambda: any("nothing to accept" in notice for notice in window.notices()))
    assert window.text == AREA


def test_nothing_moves_while_a_draft_changes(window: Window, engine: Scripted) -> None:
    engine.writes("a\n    b\n    c", "a", "a\n    b", "", "x\n    y\n    z")
    engine.wait_for_steps()
    window.open("area.py", AREA.replace("\n\n\n", "\n" + "\n" * 8))
    infill(window, "todo")
    window.sees("Writing…")
    window.until(lambda: window.height_of("print(area") > 0)
    height = window.height_of("print(area")
    for seen in ("    c", "return a", "    b", "", "    z"):
        engine.step()
        window.sees(seen)
        assert window.height_of("print(area") == height
    ready(window)
    assert window.height_of("print(area") == height


@pytest.mark.parametrize(
    ("text", "answer", "after"),
    [
        ("x = 1\r\ny = ?\r\nz\r\n", "2\n# three", "x = 1\r\ny = 2\r\n# three\r\nz\r\n"),
        ('s = "🦊🦊é" + ?\n', "'ß🦊'", "s = \"🦊🦊é\" + 'ß🦊'\n"),
        ("\tif x:\n\t\t?\n", "y\n\t\tz", "\tif x:\n\t\ty\n\t\tz\n"),
        ("a = '\x0c\u2028' + ?\n", "'b'", "a = '\x0c\u2028' + 'b'\n"),
        ("no end = ?", "of line", "no end = of line"),
        ("?", "def f():\n    pass", "def f():\n    pass"),
    ],
    ids=["crlf", "emoji", "tabs", "separators", "no-end", "only"],
)
def test_line_endings_tabs_and_wide_characters(
    window: Window, engine: Scripted, text: str, answer: str, after: str
) -> None:
    engine.writes(Frame(answer, 1), answer)
    file = window.open("odd.py", text)
    infill(window, "?")
    ready(window)
    assert window.text == text
    window.press("Tab")
    window.until(lambda: window.text == after)
    window.run("workbench.action.files.save")
    assert file.read_bytes() == after.encode()
    window.press("Control+z")
    window.until(lambda: window.text == text)


def test_20_000_lines_and_a_very_long_one(window: Window, engine: Scripted) -> None:
    engine.writes("'short'")
    lines = [f"value_{n} = {n}" for n in range(20_000)]
    lines[15_000] = "long = ? + '" + "x" * 200_000 + "'"
    text = "\n".join(lines) + "\n"
    window.open("large.py", text)
    infill(window, "?")
    ready(window)
    window.sees("long = 'short' + ")
    window.press("Tab")
    window.until(lambda: "'short'" in window.text)
    assert window.text == text.replace("?", "'short'")


def test_two_windows_share_one_engine(open_window: Open, window: Window, engine: Scripted) -> None:
    engine.writes("width")
    with open_window() as other:
        for one in (window, other):
            one.open("area.py", AREA)
            infill(one, "todo")
        for one in (window, other):
            ready(one)
        window.press("Tab")
        window.until(lambda: window.text == AREA.replace("todo", "width"))
        assert other.text == AREA
        other.press("Escape")
        gone(other)
    assert len({request.request_id for request in engine.requests}) == 2


def test_a_rewrite_of_several_lines_is_shown_as_a_diff(window: Window, engine: Scripted) -> None:
    engine.writes("for a in b:\n        keep\n        new")
    text = "def f():\n    for x in y:\n        keep\n    end\n"
    window.open("loop.py", text)
    window.select((1, 4, 2, 12))
    window.palette("BlockDiff: Rewrite Selection")
    window.answer("use better names")
    in_diff(window, "loop.py")
    assert engine.requests[0].instruction == "use better names"
    window.sees("for x in y:")
    window.sees("for a in b:")
    assert window.text_of("loop.py") == text
    window.run("blockdiff.accept")
    after = text.replace("x in y", "a in b").replace("keep\n", "keep\n        new\n")
    window.until(lambda: window.text_of("loop.py") == after)
    window.until(lambda: window.tab == "loop.py")
    window.focus()
    window.press("Control+z")
    window.until(lambda: window.text == text)


def test_a_diff_closes_with_its_draft(window: Window, engine: Scripted) -> None:
    engine.writes("width\n    # two")
    window.open("area.py", AREA)
    infill(window, "todo")
    ready(window)
    assert window.tab == "area.py"
    window.click_lens("Show Diff")
    in_diff(window, "area.py")
    window.run("blockdiff.reject")
    window.until(lambda: window.tab == "area.py")
    gone(window)
    assert window.text == AREA


def test_a_rewrite_of_one_line_is_shown_in_place(window: Window, engine: Scripted) -> None:
    engine.writes("return width * height")
    window.open("area.py", AREA)
    window.cursor(1, 6)
    window.begin("blockdiff.rewriteSelection", {"instruction": "multiply"})
    ready(window)
    window.sees("    return width * height")
    assert window.tab == "area.py" and window.text == AREA
    window.press("Tab")
    window.until(lambda: window.text == AREA.replace("todo", "width * height"))


def test_a_buffer_without_a_file(window: Window, engine: Scripted) -> None:
    engine.writes("filled")
    window.js(
        """const options = {content: 'one = ?', language: 'python'};
        await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(options));"""
    )
    window.focus()
    infill(window, "?")
    ready(window)
    window.press("Tab")
    window.until(lambda: window.text == "one = filled")


def test_a_language_without_a_parser(window: Window, engine: Scripted) -> None:
    engine.writes("filled")
    window.open("notes.txt", "one = ?\n")
    infill(window, "?")
    ready(window)
    window.press("Tab")
    window.until(lambda: window.text == "one = filled\n")
    assert window.notices() == []


def test_a_read_only_file_is_refused(window: Window, engine: Scripted) -> None:
    update = """await vscode.workspace.getConfiguration()
        .update('files.readonlyInclude', args[0] ?? undefined)"""
    window.js(update, {"**/fixed.py": True})
    window.open("fixed.py", AREA)
    window.find("todo")
    window.run("blockdiff.infillSelection")
    window.until(lambda: any("read-only" in notice for notice in window.notices()))
    window.js(update, None)
    assert engine.requests == [] and window.text == AREA


def test_a_document_that_is_no_file_is_refused(window: Window, engine: Scripted) -> None:
    window.run("blockdiff.showOutput")
    window.until(lambda: window.scheme == "output")
    window.run("blockdiff.infillSelection")
    window.until(lambda: any("cannot be changed" in notice for notice in window.notices()))
    assert engine.requests == []


def test_a_notebook_cell_is_refused(window: Window, engine: Scripted) -> None:
    cell = {"cell_type": "code", "metadata": {}, "source": ["x = 1"], "outputs": []}
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = window.path("book.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book))
    show = "await vscode.commands.executeCommand('vscode.open', vscode.Uri.file(args[0]))"
    window.js(show, str(path))
    window.until(lambda: window.js("return vscode.window.activeNotebookEditor?.notebook.cellCount"))
    window.run("notebook.cell.edit")
    window.until(lambda: window.scheme == "vscode-notebook-cell")
    window.run("blockdiff.infillSelection")
    window.until(lambda: any("notebook" in notice for notice in window.notices()))
    assert engine.requests == []


def test_without_an_editor_a_command_says_so(window: Window, engine: Scripted) -> None:
    window.run("blockdiff.infillSelection")
    window.until(lambda: any("open a file first" in notice for notice in window.notices()))
    assert engine.requests == []
