"""Everything around a draft: ghost text, keys, commands, status, health, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.errors import ModelNotFound
from blockdiff.types import Extent, SyntaxState
from tests.editors.nvim.conftest import Open
from tests.editors.nvim.neovim import PLUGIN, ROOT, Neovim, neovim
from tests.editors.nvim.script import Scripted
from tests.editors.nvim.test_infill import AREA, is_open, no_marks, ready
from tests.unit.cloned_project import Project
from tests.unit.scripted_service import served

GHOST = {"ghost": {"enabled": True, "debounce": 20, "native": False}}


def attached(nvim: Neovim) -> None:
    nvim.until("(vim.lsp.get_clients({ name = 'blockdiff', bufnr = 0 })[1] or {}).initialized")


def logged(nvim: Neovim) -> str:
    log = Path(nvim.lua("return vim.lsp.log.get_filename()"))
    return log.read_text(encoding="utf-8") if log.exists() else ""


def types(nvim: Neovim, keys: str, last: str) -> None:
    """Types, completions being asked for behind the last key only."""
    nvim.lua("vim.b.blockdiff_ghost = false")
    nvim.keys(keys)
    nvim.in_mode("i")
    nvim.lua("vim.b.blockdiff_ghost = nil")
    nvim.keys(last)


# Ghost text


def test_ghost_text_comes_while_typing_and_tab_takes_it(editor: Open, engine: Scripted) -> None:
    engine.writes(" * height\n    # done")
    with editor("def f():\n    return width\n", setup=GHOST) as nvim:
        attached(nvim)
        types(nvim, "2GA", " ")
        nvim.sees("# done")
        assert nvim.groups_of("# done") == {"Comment"}
        assert nvim.lines == ["def f():", "    return width "]
        nvim.keys("<Tab>")
        nvim.until(lambda: nvim.lines[2:] == ["    # done"])
        assert nvim.call("nvim_get_mode")["mode"] == "i"
        nvim.keys("<Esc>u")
        nvim.until(lambda: nvim.lines == ["def f():", "    return width "])
        assert nvim.notices == []


def test_ghost_text_stays_while_what_is_typed_agrees(editor: Open, engine: Scripted) -> None:
    engine.writes("abcdef()")
    with editor("x\n\n", setup=GHOST) as nvim:
        attached(nvim)
        types(nvim, "2Gi", " ")
        nvim.sees("abcdef()")
        asked = len(engine.requests)
        nvim.keys("ab")
        nvim.until(lambda: nvim.lines[1] == " ab")
        nvim.sees(" abcdef()")
        assert len(engine.requests) == asked
        nvim.keys("<M-w>")
        nvim.until(lambda: nvim.lines[1] == " abcdef")
        nvim.keys("<C-]>")
        nvim.misses("abcdef()")
        assert no_marks(nvim) and nvim.lines[1] == " abcdef"


def test_tab_is_never_taken_where_nothing_is_shown(editor: Open, engine: Scripted) -> None:
    with editor("x\n", setup=GHOST | {"server": {"inline": {"automatic": False}}}) as nvim:
        nvim.command("set noexpandtab")
        nvim.command("inoremap <buffer> <M-l> mine")
        attached(nvim)
        nvim.keys("A<Tab><M-l>")
        nvim.until(lambda: nvim.lines == ["x\tmine"])
        nvim.keys("<Esc>")
        nvim.in_mode("n")
        nvim.command("1BlockDiff infill")
        ready(nvim)
        assert "blockdiff" in nvim.lua("return vim.fn.maparg('<M-l>', 'i', false, true).desc or ''")
        nvim.command("BlockDiff reject")
        assert nvim.lua("return vim.fn.maparg('<M-l>', 'i')") == "mine"
        assert nvim.lua("return vim.fn.maparg('<Tab>', 'n')") == ""


def test_why_nothing_came_is_told_by_status_and_health(editor: Open, engine: Scripted) -> None:
    setup = GHOST | {"server": {"inline": {"inComments": False}}}
    with editor("x = 1  # the\n", setup=setup) as nvim:
        attached(nvim)
        nvim.keys("A ")
        nvim.until("require('blockdiff.client').status.missed")
        why = nvim.lua("return require('blockdiff').status()")
        assert "no completion: it is switched off in comments: set inline.inComments" in why
        assert "area.py:1, " in why and engine.requests == []
        nvim.keys("<Esc>")
        nvim.in_mode("n")
        nvim.command("checkhealth blockdiff")
        assert "did not come: it is switched off in comments" in "\n".join(nvim.lines)


def test_a_cursor_that_rests_is_enough(editor: Open, engine: Scripted) -> None:
    engine.writes("rested()")
    with editor("x = \ny = \n", setup=GHOST) as nvim:
        attached(nvim)
        nvim.keys("A")
        nvim.sees("x = rested()")
        nvim.keys("<Down><End>")
        nvim.sees("y = rested()")
        assert nvim.lines == ["x = ", "y = "]


def test_one_line_or_several_by_a_key(editor: Open, engine: Scripted) -> None:
    engine.writes("several()")
    with editor("x = \n", setup=GHOST) as nvim:
        attached(nvim)
        types(nvim, "A", " ")
        nvim.sees("several()")
        engine.writes("one()")
        nvim.keys("<M-m>")
        nvim.sees("one()")
        nvim.keys("<M-m>")
        nvim.until(lambda: len(engine.requests) == 3)
        extents = [getattr(request, "extent", None) for request in engine.requests]
        assert extents == [Extent.BLOCK, Extent.LINE, Extent.BLOCK]


def test_candidates_are_asked_for_and_gone_through(editor: Open, engine: Scripted) -> None:
    setup = GHOST | {"ghost": {"enabled": False, "native": False}}
    with editor("x = \n", setup=setup) as nvim:
        attached(nvim)
        engine.frames = [[frame] for frame in map(_frame, ("first", "second"))]
        nvim.keys("A")
        nvim.in_mode("i")
        nvim.lua("require('blockdiff').next()")
        nvim.sees("x = first")
        nvim.keys("<M-]>")
        nvim.sees("x = second")
        nvim.keys("<M-]><Tab>")
        nvim.until(lambda: nvim.lines == ["x = first"])


def _frame(text: str) -> Any:
    from tests.editors.nvim.script import Frame

    return Frame(text, len(text))


# Neovim's own completions


@pytest.fixture
def native(editor: Open) -> Open:
    @contextlib.contextmanager
    def open_it(text: str) -> Iterator[Neovim]:
        with editor(text, setup={"ghost": {"enabled": True, "native": True}}) as nvim:
            if not nvim.lua("return vim.lsp.inline_completion ~= nil"):
                pytest.skip("this Neovim has no completions of its own: 0.12 or newer")
            attached(nvim)
            yield nvim

    return open_it


def test_native_completions_come_with_our_keys(native: Open, engine: Scripted) -> None:
    engine.writes("one two\n    three")
    with native("def f():\n\n") as nvim:
        nvim.command("inoremap <buffer> <Tab> mine")
        nvim.keys("2Gi    ")
        nvim.sees("three")
        assert nvim.lines == ["def f():", "    "]
        nvim.keys("<M-w>")
        nvim.until(lambda: nvim.lines[1:] == ["    one"])
        nvim.until("require('blockdiff.native').is_shown(0)")
        nvim.sees("three")
        nvim.until("vim.fn.maparg('<Tab>', 'i') ~= 'mine'")
        nvim.keys("<Tab>")
        nvim.until(lambda: nvim.lines[1:] == ["    one two", "    three"])
        nvim.until("vim.fn.maparg('<Tab>', 'i') == 'mine'")
        nvim.keys("<Esc>")
        nvim.in_mode("n")
        for state in (["    one"], ["    "]):
            nvim.command("undo")
            assert nvim.lines[1:] == state
        assert nvim.notices == []


def test_native_completions_give_way(native: Open, engine: Scripted) -> None:
    engine.writes("first")
    with native("x = \n") as nvim:
        nvim.keys("A ")
        nvim.sees("first")
        nvim.keys("<C-]>")
        nvim.misses("first")
        assert nvim.lines == ["x =  "]
        nvim.keys(" ")
        nvim.sees("first")
        engine.frames = [[frame] for frame in map(_frame, ("second", "third"))]
        engine.requests.clear()
        nvim.keys("<M-]>")  # others, in ours
        nvim.sees("second")
        assert not nvim.lua("return require('blockdiff.native').is_shown(0)")
        nvim.keys("<M-]>")
        nvim.sees("third")
        nvim.keys("<Tab>")
        nvim.until(lambda: nvim.lines == ["x =   third"])
        engine.hold = True
        nvim.command("1BlockDiff infill")  # a draft: nothing else is shown
        nvim.sees("writing")
        assert not nvim.lua("return vim.lsp.inline_completion.is_enabled({ bufnr = 0 })")
        nvim.command("BlockDiff reject")
        assert nvim.lua("return vim.lsp.inline_completion.is_enabled({ bufnr = 0 })")


# Commands, status, health


def test_commands_complete_and_refuse_what_they_do_not_know(editor: Open) -> None:
    with editor(AREA) as nvim:
        complete = "return vim.fn.getcompletion(..., 'cmdline')"
        assert nvim.lua(complete, "BlockDiff re") == ["rewrite", "reject"]
        assert nvim.lua(complete, "BlockDiff accept ") == ["line", "word"]
        assert nvim.lua(complete, "BlockDiff infill ") == []
        for wrong in ("fill", "accept all", "stop now", "infill nonsense"):
            nvim.command(f"BlockDiff {wrong}")
        assert len(nvim.notices) == 4


def test_status_is_told_on_command_and_in_the_statusline(editor: Open, engine: Scripted) -> None:
    line = "lua vim.o.statusline = \"%{%v:lua.require'blockdiff'.statusline()%}\""
    with editor(AREA) as nvim:
        nvim.command(line)
        engine.hold = True
        nvim.command("2BlockDiff infill")
        nvim.sees("blockdiff writing")
        engine.hold = False
        ready(nvim)
        status = "return require('blockdiff').status()"
        nvim.until(lambda: nvim.lua(status).startswith("ready, scripted, cpu"))
        nvim.misses("blockdiff writing")
        nvim.command("BlockDiff status")
        nvim.sees("blockdiff: ready, scripted, cpu")
        assert nvim.notices == []


def test_a_result_that_does_not_parse_says_so(editor: Open, engine: Scripted) -> None:
    engine.syntax = SyntaxState.BROKEN
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.sees("does not parse")


def test_health_names_what_is_there_and_what_is_wrong(editor: Open) -> None:
    with editor(AREA, setup={"colour": 1, "server": {"engine": {"idleMinutes": -1}}}) as nvim:
        attached(nvim)
        nvim.until("vim.inspect(require('blockdiff.config').problems):find('idleMinutes')")
        assert "idleMinutes" in logged(nvim)
        nvim.command("checkhealth blockdiff")
        report = "\n".join(nvim.lines)
        assert "OK blockdiff 0" in report and "unknown option colour" in report
        assert "idleMinutes" in report and "ERROR" not in report
        assert nvim.notices == []


def test_every_tag_of_the_help_is_there(editor: Open, tmp_path: Path) -> None:
    with editor(AREA) as nvim:
        copy = shutil.copytree(PLUGIN / "doc", tmp_path / "doc")
        nvim.command(f"helptags {copy}")
        text = (PLUGIN / "doc" / "blockdiff.txt").read_text(encoding="utf-8")
        guide = (ROOT / "docs" / "neovim.md").read_text(encoding="utf-8")
        for group, link in nvim.lua("return require('blockdiff.ui').groups").items():
            assert f"*hl-{group}*" in text
            assert f"| `{group}` | `{link}` |" in guide
        for word in nvim.lua("return vim.fn.getcompletion('BlockDiff ', 'cmdline')"):
            assert f"*:BlockDiff-{word}*" in text
        for key, lhs in nvim.lua("return require('blockdiff.config').defaults.keys").items():
            assert f"| `{lhs}` | `{key}` |" in guide


@pytest.mark.parametrize("background", ["dark", "light"])
def test_contrast(editor: Open, background: str) -> None:
    with editor(AREA) as nvim:
        nvim.command(f"set termguicolors background={background}")
        for group in ("Settled", "Masked", "Replaced", "Ghost", "Hint"):
            get = "return vim.api.nvim_get_hl(0, { name = ..., link = false })"
            plain, shown = nvim.lua(get, "Normal"), nvim.lua(get, f"Blockdiff{group}")
            fore, back = shown.get("fg", plain["fg"]), shown.get("bg", plain["bg"])
            assert _contrast(fore, back) >= 4.5, group


def _contrast(one: int, other: int) -> float:
    """As WCAG 2 defines it."""

    def light(colour: int) -> float:
        parts = [(colour >> shift & 255) / 255 for shift in (16, 8, 0)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


# What goes wrong


def test_without_a_server_there_is_a_state_and_a_notice_only_on_command(editor: Open) -> None:
    with editor(AREA, setup={"cmd": ["no-such-server"]}) as nvim:
        nvim.until("require('blockdiff.client').status.state == 'error'")
        assert nvim.notices == [] and "no-such-server" in logged(nvim)
        nvim.command("2BlockDiff infill")
        nvim.until(lambda: nvim.notices)
        assert "no-such-server" in nvim.notices[0] and len(nvim.notices) == 1
        assert not is_open(nvim) and no_marks(nvim)
        nvim.command("checkhealth blockdiff")
        assert "ERROR `cmd` names" in "\n".join(nvim.lines)


SILENT = "import sys; sys.stdin.read()"
CRASHES = "import sys; sys.stdin.buffer.readline(); sys.exit(3)"
OLD = """
import json, sys
while True:
    size = 0
    while (line := sys.stdin.buffer.readline()).strip():
        size = int(line.split(b":")[1]) if line[:14] == b"Content-Length" else size
    if not size:
        break
    message = json.loads(sys.stdin.buffer.read(size))
    if "id" in message:
        answer = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "initialize":
            answer["result"] = {"capabilities": {"textDocumentSync": 2}}
        elif message["method"] == "shutdown":
            answer["result"] = None
        else:
            answer["error"] = {"code": -32601, "message": "what?"}
        body = json.dumps(answer).encode()
        sys.stdout.buffer.write(b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
        sys.stdout.buffer.flush()
"""


@pytest.mark.parametrize(
    ("program", "patience", "notice"),
    [
        (SILENT, 1, "does not answer"),
        (CRASHES, 60, "exit code 3"),
        (OLD, 60, "older than this plugin"),
        ("import no_such_package", 60, "exit code 1"),
    ],
    ids=["silent", "crashes", "old", "no package"],
)
def test_servers_that_do_not_serve(editor: Open, program: str, patience: int, notice: str) -> None:
    setup = {"cmd": [sys.executable, "-c", program], "patience": patience}
    with editor(AREA, setup=setup) as nvim:
        if "exit" in notice:  # started with the file, it ends without a notification
            nvim.until("require('blockdiff.client').status.state == 'error'")
            assert notice in logged(nvim)
        assert nvim.notices == []
        nvim.command("2BlockDiff infill")
        nvim.until(lambda: nvim.notices)
        assert notice in nvim.notices[0] and len(nvim.notices) == 1
        assert not is_open(nvim) and no_marks(nvim)
        assert nvim.lines == AREA.splitlines()


def test_a_server_that_dies_is_started_again_by_the_next_command(
    editor: Open, engine: Scripted
) -> None:
    engine.writes("never seen whole")
    engine.hold = True
    with editor(AREA) as nvim:
        nvim.command("2BlockDiff infill")
        nvim.sees("never seen")
        pid = nvim.lua("return vim.api.nvim_get_proc_children(vim.fn.getpid())")[0]
        nvim.lua("vim.uv.kill(..., 'sigkill')", pid)
        nvim.until(lambda: nvim.notices)
        assert "the language server ended" in nvim.notices[0] and no_marks(nvim)
        engine.hold = False
        nvim.command("2BlockDiff infill")
        ready(nvim)
        assert len(nvim.notices) == 1


def test_a_model_that_is_not_downloaded(tmp_path: Path) -> None:
    def load(report: Any) -> Any:
        raise ModelNotFound("the model is not downloaded", "run blockdiff models pull")

    runtime = Runtime(tmp_path / "run")
    file = tmp_path / "area.py"
    file.write_text(AREA)
    with served(runtime, load), neovim(tmp_path, runtime.folder, file, setup=GHOST) as nvim:
        attached(nvim)
        nvim.command("2BlockDiff infill")
        nvim.until(lambda: nvim.notices)
        assert nvim.notices == ["blockdiff: the model is not downloaded: run blockdiff models pull"]
        nvim.until("require('blockdiff').status():find('run blockdiff models pull', 1, true)")
        assert not is_open(nvim) and no_marks(nvim)


def test_buffers_that_cannot_be_written_to(editor: Open) -> None:
    with editor(AREA) as nvim:
        for prepare, words in (
            ("setlocal nomodifiable", "cannot be changed"),
            ('setlocal modifiable | call append(0, "a\\rb")', "mixes line endings"),
            ("terminal true", ""),
            ("silent! help | let v:errmsg = ''", "cannot be changed"),
        ):
            nvim.command(prepare)
            count = len(nvim.notices)
            nvim.command("BlockDiff infill")
            nvim.until(lambda count=count: len(nvim.notices) > count)
            assert words in nvim.notices[-1]


def test_a_read_only_file_is_filled_and_stays_as_it_is_on_disk(
    editor: Open, engine: Scripted
) -> None:
    with editor(AREA) as nvim:
        nvim.command("setlocal readonly")
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.command("BlockDiff accept")  # as Neovim itself has it: a warning, and the text
        assert nvim.lines[1] == "    pass" and nvim.notices == []
        assert Path(nvim.call("nvim_buf_get_name", 0)).read_text() == AREA
        nvim.command("undo")
        nvim.command("setlocal noreadonly modifiable")
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.command("setlocal nomodifiable")
        nvim.command("BlockDiff accept")
        assert nvim.notices == ["blockdiff: this buffer cannot be changed"]
        assert nvim.lines == AREA.splitlines() and is_open(nvim)


def test_a_language_nobody_knows_is_filled_on_command_only(editor: Open, engine: Scripted) -> None:
    engine.writes("filled")
    with editor("one ? two\n", name="notes.unknown", setup=GHOST) as nvim:
        assert nvim.lua("return vim.bo.filetype") == ""
        assert nvim.lua("return #vim.lsp.get_clients()") == 0
        nvim.command("BlockDiff infill /?/")
        ready(nvim)
        nvim.command("BlockDiff accept")
        assert nvim.lines == ["one filled two"] and nvim.notices == []


def test_buffers_without_a_name_are_not_mixed_up(editor: Open, engine: Scripted) -> None:
    engine.writes("filled")
    with editor(AREA) as nvim:
        for text in ("one = ?", "two = ?", "three = ?"):
            nvim.command("enew!")
            nvim.call("nvim_buf_set_lines", 0, 0, -1, True, [text])
            nvim.command("setlocal nomodified")
            nvim.command("BlockDiff infill /?/")
            ready(nvim)
            assert engine.requests[-1].document.startswith(text)
            nvim.command("BlockDiff accept")
            assert nvim.lines == [text.replace("?", "filled")]
            nvim.command("setlocal nomodified bufhidden=hide")


def test_no_default_keys(editor: Open, engine: Scripted) -> None:
    with editor(AREA, setup={"keys": False}) as nvim:
        nvim.command("2BlockDiff infill")
        nvim.until("(require('blockdiff').session(1) or {}).state == 'ready'")
        maps = nvim.call("nvim_get_keymap", "n") + nvim.call("nvim_buf_get_keymap", 0, "n")
        assert not [m for m in maps if m.get("desc", "").startswith("blockdiff")]
        assert "accept" not in nvim.screen()
        nvim.command("nmap ga <Plug>(blockdiff-accept)")
        nvim.keys("ga")
        nvim.until(lambda: nvim.lines[1] == "    pass")


def test_enabled_by_neovim_alone(
    script: tuple[Runtime, Scripted], engine: Scripted, tmp_path: Path
) -> None:
    """Without setup(): `vim.lsp.enable`, and the command found on PATH."""
    command = tmp_path / "bin" / "blockdiff-lsp"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lsp_server\n")
    command.chmod(0o755)
    file = tmp_path / "area.py"
    file.write_text(AREA)
    lua = f"vim.env.PATH = '{command.parent}:' .. vim.env.PATH; vim.lsp.enable('blockdiff')"
    with neovim(tmp_path, script[0].folder, file, lua=lua) as nvim:
        attached(nvim)
        nvim.command("2BlockDiff infill")
        ready(nvim)


@pytest.mark.parametrize("command", [None, [sys.executable, "-m", "lsp_server"], ["blockdiff-lsp"]])
def test_nothing_of_the_open_project_runs(tmp_path: Path, command: list[str] | None) -> None:
    """Neovim is in a repository of anybody, and so is whatever it starts."""
    project, runtime = Project(tmp_path / "project", tmp_path / "marks"), Runtime(tmp_path / "run")
    own = tmp_path / "bin" / "blockdiff-lsp"
    own.parent.mkdir()
    own.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lsp_server\n")
    own.chmod(0o755)
    environment = {
        "PYTHONPATH": f"{ROOT}:.:src:", "PATH": f".::src:{own.parent}:{os.environ['PATH']}",
        "BLOCKDIFF_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    options = {"cmd": command, "server": {"engine": {"download": False}}}
    lua = "vim.cmd.cd(vim.env.PROJECT); require('blockdiff').setup(vim.json.decode(vim.env.SETUP))"
    environment |= {"PROJECT": str(project.folder), "SETUP": json.dumps(options)}
    if command is None:
        environment["SETUP"] = json.dumps({"server": options["server"]})
    file = project.folder / "area.py"
    file.write_text(AREA)
    with neovim(tmp_path, runtime.folder, file, lua=lua, environment=environment) as nvim:
        nvim.command("2BlockDiff infill")
        nvim.until(lambda: nvim.notices)
        assert "not downloaded" in nvim.notices[0]
    asyncio.run(EngineClient(runtime=runtime).stop())
    assert project.ran() == []


def test_a_real_engine_on_random_weights(tiny: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "area.py"
    file.write_text(AREA)
    setup = {"ghost": {"enabled": False}, "server": {"decoding": {"maxTokens": 12}}}
    with neovim(tmp_path, tiny.folder, file, setup=setup) as nvim:
        for command in ("2BlockDiff infill", "2BlockDiff rewrite", "2BlockDiff rewrite shorter"):
            nvim.command(command)
            nvim.until("(require('blockdiff').session(1) or { state = 'over' }).state ~= 'running'")
            assert nvim.lua("return #drafts") > 0
            nvim.command("BlockDiff reject")
            assert nvim.lines == AREA.splitlines()
        assert set(nvim.notices) <= {"blockdiff: there is nothing to change"}


def test_as_a_plain_package(
    script: tuple[Runtime, Scripted], engine: Scripted, tmp_path: Path
) -> None:
    """As `docs/neovim.md` installs it; no setup() either, a command starts everything."""
    packages = tmp_path / "data" / "nvim" / "site" / "pack" / "blockdiff" / "start"
    packages.mkdir(parents=True)
    (packages / "blockdiff").symlink_to(PLUGIN)
    file = tmp_path / "area.py"
    file.write_text(AREA)
    lua = "vim.opt.packpath:prepend(vim.fn.stdpath('data') .. '/site'); vim.cmd('packloadall!')"
    with neovim(tmp_path, script[0].folder, file, lua=lua, plugin=False) as nvim:
        assert nvim.lua("return vim.fn.exists(':BlockDiff')") == 2
        nvim.command("2BlockDiff infill")
        ready(nvim)
