"""A completion is shown the signatures of files that nobody opened, and stays cheap to type in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types

from blockdiff.client.endpoint import Runtime
from blockdiff.types import InfillRequest
from tests.lsp.editor import Editor, capabilities, editing, run
from tests.lsp.test_inline import complete, says
from tests.unit.scripted_service import ScriptedEngine

Scripted = tuple[Runtime, ScriptedEngine]

STORE = '''class Store:
    """Keeps values."""
    def load(self, key: str) -> int: ...
def open_store(path: str) -> Store: ...
def closest(path: str) -> None: ...
'''
MAIN = "from store import open_store\n\nstore = open_store('x')\nvalue = store.\n\n\n\nclosest()\n"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "work"
    root.mkdir()
    (root / "store.py").write_text(STORE)
    (root / "main.py").write_text(MAIN)
    return root


async def shown(
    editor: Editor, seen: list[InfillRequest], work: Path, line: int, character: int
) -> str:
    """What the engine is shown of other files for a completion."""
    editor.settings = {}
    uri = (work / "main.py").as_uri()
    await complete(editor, line, character, uri=uri)
    return "".join(f"{snippet.path}\n{snippet.text}" for snippet in seen[-1].snippets)


async def until(what: Callable[[], Any]) -> None:
    while not await what():
        await asyncio.sleep(0.05)


async def indexed(editor: Editor) -> None:
    """The progress of the first build has ended."""

    async def ended() -> bool:
        values = [value for told in editor.progress_reports.values() for value in told]
        return any(isinstance(value, dict) and value.get("kind") == "end" for value in values)

    await until(ended)


def test_typing_keeps_what_is_shown_and_moving_on_renews_it(scripted: Scripted, work: Path) -> None:
    texts = [f"t{n}" for n in range(20)]  # nothing that is typed agrees with
    seen = says(scripted[1], *texts)
    uri = (work / "main.py").as_uri()

    async def story() -> None:
        async with editing(scripted[0], workspace=work) as editor:
            await indexed(editor)
            editor.open(MAIN, uri)
            first = await shown(editor, seen, work, 3, 14)
            assert "def load(self, key: str) -> int: ..." in first and "closest" not in first
            assert 0 < seen[-1].snippet_tokens <= seen[-1].context_tokens // 4
            for n, key in enumerate("load("):
                editor.change((3, 14 + n), (3, 14 + n), key, 2 + n, uri)
                assert await shown(editor, seen, work, 3, 15 + n) == first
            assert len({request.snippet_tokens for request in seen}) == 1
            assert await shown(editor, seen, work, 5, 0) == first  # nothing is missing there
            editor.change((0, 28), (0, 28), ", closest", 9, uri)
            assert "def closest" in await shown(editor, seen, work, 7, 8)

    run(story())


def test_saved_and_watched_files_are_seen(scripted: Scripted, work: Path) -> None:
    seen = says(scripted[1], *(f"t{n}" for n in range(500)))
    can = capabilities()
    assert can.workspace is not None
    can.workspace.did_change_watched_files = types.DidChangeWatchedFilesClientCapabilities(
        dynamic_registration=True
    )
    uri, more = (work / "main.py").as_uri(), work / "more.py"

    async def story() -> None:
        async with editing(scripted[0], workspace=work, can=can) as editor:
            await indexed(editor)
            assert types.WORKSPACE_DID_CHANGE_WATCHED_FILES in {
                one.method for one in editor.registered
            }
            editor.open("from more import made\n\nmade()\n", uri)
            text = await shown(editor, seen, work, 2, 5)
            assert "made" not in text

            async def sees(text: str) -> bool:
                nonlocal version
                version += 1  # another line each time: the cursor moves on
                editor.change((0, 0), (0, 0), "\n" * 50, version, uri)
                return text in await shown(editor, seen, work, 2 + 50 * (version - 1), 5)

            version = 1
            more.write_text("def made(one: int) -> int: ...\n")
            editor.save(more.as_uri())
            await until(lambda: sees("def made(one: int)"))
            more.write_text("def made(two: str) -> str: ...\n")
            changes = [types.FileEvent(more.as_uri(), types.FileChangeType.Changed)]
            editor.workspace_did_change_watched_files(types.DidChangeWatchedFilesParams(changes))
            await until(lambda: sees("def made(two: str)"))

    run(story())


def test_what_is_listed_meanwhile_is_not_shown_again(scripted: Scripted, work: Path) -> None:
    seen = says(scripted[1], "t0", "t1")

    async def story() -> None:
        async with editing(scripted[0], workspace=work) as editor:
            await indexed(editor)
            editor.open(MAIN, (work / "main.py").as_uri())
            assert "def load" in await shown(editor, seen, work, 3, 14)
            (work / ".blockdiffignore").write_text("store.py\n")
            editor.change((5, 0), (5, 0), "# ", 2, (work / "main.py").as_uri())
            assert "load" not in await shown(editor, seen, work, 3, 14)

    run(story())


def test_it_can_be_switched_off(scripted: Scripted, work: Path) -> None:
    seen = says(scripted[1], "t")

    async def story() -> None:
        settings = {"context": {"workspace": False}}
        async with editing(scripted[0], workspace=work, settings=settings) as editor:
            editor.open(MAIN, (work / "main.py").as_uri())
            await complete(editor, 3, 14, uri=(work / "main.py").as_uri())
            assert seen[-1].snippets == () and seen[-1].snippet_tokens == 0

    run(story())
    assert not (work.parent / "cache").exists()


def test_a_recent_edit_in_another_file_is_shown_as_a_diff(scripted: Scripted, work: Path) -> None:
    seen = says(scripted[1], "t0", "t1")
    other = (work / "other.py").as_uri()

    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("def old(a):\n    return a\n\n\nx = 1\n", other)
            editor.open("x = \n", (work / "main.py").as_uri())
            editor.change((0, 4), (0, 7), "new", 2, other)
            editor.change((0, 8), (0, 9), "b", 3, other)
            await shown(editor, seen, work, 0, 4)
            (diff, ring) = seen[-1].snippets
            assert diff.path.endswith("other.py.diff")
            assert diff.text == "-def old(a):\n+def new(b):\n     return a\n"
            assert ring.text.startswith("def new(b)")

    run(story())
