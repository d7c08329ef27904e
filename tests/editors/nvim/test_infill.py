"""Infill in a real Neovim, through the real language server and engine service."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockdiff.client.endpoint import Runtime
from tests.editors.nvim.conftest import Open
from tests.editors.nvim.neovim import HERE, Neovim, neovim
from tests.editors.nvim.script import Frame, Scripted

AREA = "def area(width, height):\n    return todo\n\n\nprint(area(2, 3))\n"


def select_todo(nvim: Neovim) -> None:
    nvim.keys("2G$bve")
    nvim.until(lambda: nvim.call("nvim_get_mode")["mode"] == "v")


def ready_state(nvim: Neovim) -> None:
    """Wait for a draft that can be accepted."""
    nvim.until(
        "(require('blockdiff').session(vim.api.nvim_get_current_buf()) or {}).state == 'ready'"
    )


def ready(nvim: Neovim) -> None:
    """The same, and that it can be seen."""
    ready_state(nvim)
    nvim.sees("<Tab> accept")


def follows(nvim: Neovim) -> None:
    """Wait for a draft of the text as it stands now."""
    nvim.until("(drafts[#drafts] or {}).version == vim.lsp.util.buf_versions[1]")


def is_open(nvim: Neovim) -> bool:
    return bool(nvim.lua("return require('blockdiff').session(vim.api.nvim_get_current_buf())"))


def no_marks(nvim: Neovim) -> bool:
    return not nvim.lua(
        "return vim.api.nvim_buf_get_extmarks(0, require('blockdiff.ui').ns, 0, -1, {})"
    )


def test_a_selection_is_filled_while_one_watches(editor: Open, engine: Scripted) -> None:
    engine.wait_for_steps()
    engine.writes(
        Frame("width or height", 5), Frame("width * heigth", 8, "heigth"), "width * height"
    )
    with editor(AREA) as nvim:
        select_todo(nvim)
        nvim.keys(":BlockDiff infill<CR>")
        engine.step()
        nvim.sees("width or height")
        assert nvim.groups_of("width or") == {"DiffAdd", "Comment"}
        engine.step()
        nvim.sees("heigth")
        assert "DiagnosticUnderlineWarn" in nvim.groups_of("heigth")
        assert "DiffDelete" in nvim.groups_of("todo")
        engine.step()
        ready(nvim)
        assert nvim.lines == AREA.splitlines()
        nvim.keys("<Tab>")
        nvim.until(lambda: not is_open(nvim))
        assert nvim.lines[1] == "    return width * height"
        assert no_marks(nvim)
        nvim.keys("u")
        nvim.until(lambda: nvim.lines == AREA.splitlines())
        assert nvim.notices == []


def test_reject_leaves_everything_as_it_was(editor: Open, engine: Scripted) -> None:
    engine.writes("width\n    # two lines")
    with editor(AREA) as nvim:
        before = nvim.lua("return { vim.b.changedtick, vim.fn.undotree().seq_cur }")
        select_todo(nvim)
        nvim.lua("vim.api.nvim_feedkeys(vim.keycode('<Plug>(blockdiff-infill)'), 'm', false)")
        ready(nvim)
        assert nvim.call("nvim_get_mode")["mode"] == "n"
        nvim.keys("<Esc>")
        nvim.misses("two lines")
        assert nvim.lua("return { vim.b.changedtick, vim.fn.undotree().seq_cur }") == before
        assert nvim.lines == AREA.splitlines() and no_marks(nvim)
        assert not nvim.lua("return vim.bo.modified")


def test_text_behind_the_cursor_is_shown_where_it_would_stand(
    editor: Open, engine: Scripted
) -> None:
    engine.writes("(\n        width,\n    ")
    with editor("total = sum(items) or  # rest\n") as nvim:
        nvim.command("call cursor(1, 23)")
        nvim.command("BlockDiff infill")
        ready(nvim)
        screen = nvim.screen().splitlines()
        assert screen[0].startswith("total = sum(items) or (  ")
        assert screen[1:3] == ["        width,", "     # rest"]
        nvim.command("BlockDiff accept")
        assert nvim.lines == ["total = sum(items) or (", "        width,", "     # rest"]


def test_whole_lines_keep_their_indentation(editor: Open, engine: Scripted) -> None:
    engine.writes("yes = 1\n    no = 2")
    with editor("def f():\n    one\n    two\n    three\n") as nvim:
        nvim.command("2,3BlockDiff infill")
        ready(nvim)
        screen = nvim.screen()
        assert screen.index("two") < screen.index("    yes = 1\n    no = 2\n    three")
        nvim.command("BlockDiff accept")
        assert nvim.lines == ["def f():", "    yes = 1", "    no = 2", "    three"]


def test_a_block_selection_is_several_holes_and_one_undo_step(
    editor: Open, engine: Scripted
) -> None:
    engine.frames = [[Frame("one", 3)], [Frame("two\n  three", 4)], [Frame("four", 2)]]
    text = "é = aa\nß = bb\n\nx = cc\n"
    with editor(text) as nvim:
        nvim.command("call cursor(1, 6)")
        nvim.keys("<C-v>3jl")
        nvim.until(lambda: nvim.call("nvim_get_mode")["mode"] == "\x16")
        nvim.keys(":BlockDiff infill<CR>")
        ready(nvim)
        nvim.keys("<Tab>")
        nvim.until(lambda: not is_open(nvim))
        assert nvim.lines == ["é = one", "ß = two", "  three", "", "x = four"]
        nvim.keys("u")
        nvim.until(lambda: nvim.lines == text.splitlines())


def test_matches_of_a_pattern_are_holes_and_next_goes_round(editor: Open, engine: Scripted) -> None:
    engine.frames = [[Frame("1", 1)], [Frame("22", 2)], [Frame("333", 3)]]
    with editor("a = ?\nb = ?\nc = [?]\n") as nvim:
        nvim.command("BlockDiff infill /?/")
        ready(nvim)
        places = []
        for _ in range(4):
            nvim.command("BlockDiff next")
            places.append(nvim.cursor)
        assert places == [(1, 4), (2, 4), (3, 5), (1, 4)]
        nvim.command("3")
        nvim.command("BlockDiff accept")
        assert nvim.lines == ["a = 1", "b = 22", "c = [333]"]
        nvim.command("BlockDiff infill /?/")
        assert nvim.notices == ["blockdiff: there is nothing to fill"]


def test_a_draft_is_taken_word_by_word_and_line_by_line(editor: Open, engine: Scripted) -> None:
    engine.writes("one two\n    three\n    four")
    with editor("def f():\n    todo\n# end\n") as nvim:
        nvim.command("2BlockDiff infill")
        ready(nvim)
        states = []
        for part in ("word", "line", "line", ""):
            nvim.command(f"BlockDiff accept {part}")
            states.append(nvim.lines[1:-1])
        assert states == [
            ["    onetodo"],
            ["    one two", "todo"],
            ["    one two", "    three", "todo"],
            ["    one two", "    three", "    four"],
        ]
        assert not is_open(nvim)
        for state in [*reversed(states[:-1]), ["    todo"]]:
            nvim.command("undo")
            assert nvim.lines[1:-1] == state


def test_a_running_request_stops_at_a_key_and_at_stop(editor: Open, engine: Scripted) -> None:
    engine.writes("never seen whole")
    engine.hold = True
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill")
        nvim.sees("never seen")
        nvim.keys("<Esc>")
        nvim.misses("never seen")
        nvim.until(lambda: engine.cancelled)
        assert nvim.lines == AREA.splitlines() and nvim.notices == []

        nvim.command("2BlockDiff infill")
        nvim.sees("never seen")
        nvim.command("BlockDiff accept")
        assert nvim.notices == ["blockdiff: the draft is not finished yet"]
        nvim.command("BlockDiff stop")
        nvim.misses("never seen")
        nvim.until(lambda: len(engine.cancelled) == 2)


def test_typing_elsewhere_moves_a_draft_and_typing_inside_ends_it(
    editor: Open, engine: Scripted
) -> None:
    engine.writes("width", "width * height")
    engine.hold = True
    with editor(AREA) as nvim:
        select_todo(nvim)
        nvim.keys(":BlockDiff infill<CR>")
        nvim.sees("width * height")
        nvim.keys("ggO# above<Esc>Go# below<Esc>3G0xi  <Esc>")
        nvim.until(lambda: nvim.lines[2] == "     return todo" and nvim.lines[-1] == "# below")
        follows(nvim)
        engine.hold = False
        ready(nvim)
        nvim.command("BlockDiff accept")
        assert nvim.lines[2] == "     return width * height"
        assert nvim.lines[0] == "# above" and nvim.lines[-1] == "# below"

        engine.hold = True
        nvim.command("3BlockDiff infill")
        nvim.sees("writing")
        nvim.until("require('blockdiff').session(1).seq > 2")
        nvim.keys("3G$a?<Esc>")
        nvim.until(lambda: not is_open(nvim) and no_marks(nvim))
        nvim.until(lambda: engine.cancelled)
        assert nvim.notices == []


def test_an_edit_inside_ends_a_finished_draft_and_undo_does_not_revive_it(
    editor: Open, engine: Scripted
) -> None:
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.keys("2Gdd")
        nvim.until(lambda: not is_open(nvim) and no_marks(nvim))
        nvim.keys("u")
        nvim.until(lambda: nvim.lines == AREA.splitlines())
        nvim.command("BlockDiff accept")
        assert nvim.lines == AREA.splitlines()
        assert nvim.notices == ["blockdiff: there is nothing to accept"]


def test_the_same_draft_can_be_reloaded_away(editor: Open, engine: Scripted) -> None:
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.command("edit!")
        nvim.until(lambda: not is_open(nvim) and no_marks(nvim))


@pytest.mark.parametrize(
    ("text", "place", "answer", "line"),
    [
        ("x = 1\r\ny = ?\r\nz\r\n", (2, 5), "2\r\n# three", ["y = 2", "# three"]),
        ('s = "🦊🦊é" + ?\r\n', (1, 19), "'ß'", ["s = \"🦊🦊é\" + 'ß'"]),
        ("\tif x:\n\t\t?\n", (2, 3), "y\n\t\tz", ["\t\ty", "\t\tz"]),
        ("a = '\x0c\u2028' + ?\n", (1, 13), "'b'", ["a = '\x0c\u2028' + 'b'"]),
    ],
)
def test_line_endings_tabs_and_wide_characters(
    editor: Open, engine: Scripted, text: str, place: tuple[int, int], answer: str, line: list[str]
) -> None:
    engine.writes(Frame(answer, 1), answer)
    with editor(text) as nvim:
        before = nvim.lines
        nvim.command(rf"{place[0]}BlockDiff infill /?/")
        ready(nvim)
        nvim.command("BlockDiff accept")
        assert nvim.lines[place[0] - 1 : place[0] - 1 + len(line)] == line
        nvim.command("write")
        written = Path(nvim.call("nvim_buf_get_name", 0)).read_bytes().decode()
        assert ("\r\n" in text) == ("\r\n" in written)
        assert written.count("\n") - written.count("\r\n") in (0, written.count("\n"))
        nvim.command("undo")
        assert nvim.lines == before


def test_tabs_and_control_characters_of_a_draft_are_painted_as_cells(
    editor: Open, engine: Scripted
) -> None:
    engine.writes("a\tb\x1bc\n\tz")
    with editor("x\n") as nvim:
        nvim.command("set tabstop=4")
        nvim.command("1BlockDiff infill")
        ready(nvim)
        assert nvim.screen().splitlines()[1:3] == ["a   b^[c", "    z"]


def test_20_000_lines_and_a_very_long_one(editor: Open, engine: Scripted) -> None:
    engine.writes("'short'\n    ")
    lines = [f"value_{n} = {n}" for n in range(20_000)]
    lines[15_000] = "long = ? + '" + "x" * 200_000 + "'"
    with editor("\n".join(lines) + "\n") as nvim:
        nvim.command("15001BlockDiff infill /?/")
        ready_state(nvim)
        nvim.command("BlockDiff accept")
        assert nvim.lines[15_000] == "long = 'short'" and len(nvim.lines) == 20_001


def test_two_editors_share_one_engine(
    script: tuple[Runtime, Scripted], engine: Scripted, tmp_path: Path
) -> None:
    setup = {"ghost": {"enabled": False}}
    file = tmp_path / "area.py"
    file.write_text(AREA)
    homes = [tmp_path / "one", tmp_path / "two"]
    engine.writes("width")
    with (
        neovim(homes[0], script[0].folder, file, setup=setup) as one,
        neovim(homes[1], script[0].folder, file, setup=setup) as other,
    ):
        one.command("2BlockDiff infill")
        other.command("2BlockDiff infill")
        ready(one)
        ready(other)
        one.command("BlockDiff accept")
        assert one.lines[1] == "    width" and other.lines == AREA.splitlines()
        assert len({request.request_id for request in engine.requests}) == 2


def test_nothing_jumps_while_a_draft_changes(editor: Open, engine: Scripted) -> None:
    engine.wait_for_steps()
    engine.writes("a\n    b\n    c", "a", "a\n    b", "", "x\n    y\n    z")
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill")
        for number in range(1, 6):
            engine.step()
            nvim.until(f"#drafts >= {number}")
        ready(nvim)
        rows = []
        for screen in nvim.screens:
            found = [i for i, line in enumerate(screen.splitlines()) if "print(area" in line]
            rows += found
        assert rows == sorted(rows), "a line below a draft moved up again"


def test_the_hint_does_not_move_back_while_a_draft_changes(editor: Open, engine: Scripted) -> None:
    engine.wait_for_steps()
    engine.writes("one", "one, two", "", "1", "one, two, three")
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill /todo/")
        for number in range(1, 6):
            engine.step()
            nvim.until(f"#drafts >= {number}")
        ready(nvim)
        lines = [screen.splitlines()[1] for screen in nvim.screens]
        columns = [line.find("writing") for line in lines if "writing" in line]
        assert columns == sorted(columns) and len(set(columns)) >= 3
        line = nvim.screen().splitlines()[1]
        assert line.startswith("    return todo one, two, three   <Tab> accept")


def test_a_line_is_rewritten_and_several_are_shown_as_a_diff(
    editor: Open, engine: Scripted
) -> None:
    engine.writes("for a in b:\n        keep\n        new")
    text = "def f():\n    for x in y:\n        keep\n    end\n"
    with editor(text) as nvim:
        nvim.command("2,3BlockDiff rewrite use better names")
        ready(nvim)
        assert engine.requests[0].instruction == "use better names"
        screen = [line.split("  <Tab>")[0].rstrip() for line in nvim.screen().splitlines()]
        assert screen[:3] == ["def f():", "    for x in y:", "    for a in b:"]
        assert screen[3:6] == ["        keep", "        new", "    end"]
        assert nvim.groups_of("for x in y") >= {"DiffDelete"}
        assert nvim.groups_of("for a in b") == {"DiffAdd"}
        nvim.command("BlockDiff accept")
        assert nvim.lines == [screen[0], *screen[2:6]]
        nvim.command("undo")
        assert nvim.lines == text.splitlines()


def test_in_insert_mode_acceptance_is_an_undo_step_of_its_own(
    editor: Open, engine: Scripted
) -> None:
    engine.writes("width * height")
    with editor("def area(width, height):\n    return\n") as nvim:
        nvim.keys("2GA ")
        nvim.until(lambda: nvim.lines[1] == "    return ")
        nvim.lua("vim.api.nvim_feedkeys(vim.keycode('<Plug>(blockdiff-infill)'), 'm', false)")
        ready(nvim)
        nvim.keys("<Tab>")
        nvim.until(lambda: nvim.lines[1] == "    return width * height")
        nvim.keys("  # done<Esc>")
        nvim.until(lambda: nvim.lines[1].endswith("# done"))
        nvim.in_mode("n")
        for state in ("    return width * height", "    return ", "    return"):
            nvim.command("undo")
            assert nvim.lines[1] == state


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_editor_and_server_follow_the_same_edits_to_the_same_place(
    editor: Open, engine: Scripted, ending: str, encoding: str
) -> None:
    """Neovim tells the server of edits by comparing lines; the plugin sees their bytes."""
    engine.hold = True
    engine.writes("draft 🦊")
    lines = [f"line {n} 🦊 é" for n in range(20)]
    lines[10] = "  🦊 here = ?"
    choose = (
        "require('blockdiff').setup(...); vim.lsp.config('blockdiff',"
        f" {{ capabilities = {{ general = {{ positionEncodings = {{ '{encoding}' }} }} }} }})"
    )
    edits = (HERE / "lua" / "edits.lua").read_text(encoding="utf-8")
    with editor(ending.join(lines) + ending, lua=choose) as nvim:
        nvim.command("11BlockDiff infill /?/")
        nvim.until("#drafts > 0")
        assert nvim.lua("return vim.lsp.get_clients()[1].offset_encoding") == encoding
        for seed in range(1, 60):
            assert nvim.lua(edits, seed, 3), nvim.lines
            if seed % 8 == 0:
                follows(nvim)  # else Neovim tells the server of several edits at once
        engine.hold = False
        ready_state(nvim)
        versions = "vim.tbl_map(function(draft) return draft.version end, drafts)"
        assert len(set(nvim.lua(f"return {versions}"))) > 6
        nvim.command("BlockDiff accept")
        assert nvim.lines.count("  🦊 here = draft 🦊") == 1 and nvim.notices == []


def test_what_comes_of_a_code_action_is_said(editor: Open, engine: Scripted) -> None:
    engine.writes("return todo")
    with editor(AREA) as nvim:
        nvim.until("#vim.lsp.get_clients({ name = 'blockdiff' }) == 1")
        span = {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 15}}
        asked = {"action": "fill", "range": span}
        nvim.lua(
            """
            local asked, client = ..., vim.lsp.get_clients({ name = "blockdiff" })[1]
            asked.textDocument = { uri = vim.uri_from_bufnr(0) }
            client:exec_cmd({ title = "", command = "blockdiff.run", arguments = { asked } })
            """,
            asked,
        )
        nvim.until(lambda: nvim.notices == ["blockdiff: there is nothing to change"])
        engine.writes("return width * height")
        nvim.lua(
            """
            local asked, client = ..., vim.lsp.get_clients({ name = "blockdiff" })[1]
            asked.textDocument = { uri = vim.uri_from_bufnr(0) }
            client:exec_cmd({ title = "", command = "blockdiff.run", arguments = { asked } })
            """,
            asked,
        )
        nvim.until(lambda: nvim.lines[1] == "    return width * height")
