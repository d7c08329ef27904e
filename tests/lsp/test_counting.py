"""The folders that are open are counted beside the server, and drafts in them hold longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from lsprotocol import types

from blockdiff.client.endpoint import Runtime
from blockdiff.diffusion import personal as stored
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.engine import Engine
from blockdiff.train import personal
from blockdiff.types import no_op
from tests.lsp.editor import Editor, editing, hole, infill, run
from tests.lsp.raw import Raw
from tests.unit import drafting_model
from tests.unit.drafting_model import NAME
from tests.unit.scripted_service import served

HEAD, TAIL = "def area(width, height):\n    ", "\n\nprint(area(3, 4))\n"
OFF = {"drafts": {"personalTables": False}}
WAITS = 6.0  # longer than it takes to be counted, where that is not to happen


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """A real one, of a tiny model that drafts."""
    for name, value in drafting_model.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    made = Runtime(tmp_path / "run")
    point = Checkpoint.load(NAME, torch.device("cpu"), torch.float32, no_op)
    with served(made, lambda report: Engine(point), model=NAME):
        yield made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return folder(tmp_path / "work")


def folder(root: Path) -> Path:
    root.mkdir()
    (root / "some.py").write_text(code("some", 9))
    return root


def code(name: str, functions: int) -> str:
    parts = (f"def {name}_{i}(value):\n    return value.of_{i}({i})\n" for i in range(functions))
    return "".join(parts)


async def fill(editor: Editor, root: Path) -> dict[str, Any]:
    """What is written into a file of a folder."""
    uri = (root / "area.py").as_uri()
    editor.open(HEAD + TAIL, uri)
    answer: dict[str, Any] = await editor.ask(
        "blockdiff/infill", infill(hole((1, 4)), uri=uri, maxTokens=24)
    )
    editor.close(uri)
    return answer


async def until(what: Callable[[], Any]) -> None:
    while not what():
        await asyncio.sleep(0.05)


def table(root: Path) -> Path:
    return stored.file_of(root, NAME)


def tables() -> list[Path]:
    return list(stored.folder().glob(f"*{stored.TABLE}"))


def titles(editor: Editor) -> list[str]:
    told = [value for told in editor.progress_reports.values() for value in told]
    return [value["title"] for value in told if isinstance(value, dict) and "title" in value]


async def looked_through(editor: Editor, root: Path) -> None:
    """Every folder is, since folders are counted in the order in which they were opened."""
    last = folder(root.with_name(f"{root.name}-last-{len(titles(editor))}"))
    added = [types.WorkspaceFolder(last.as_uri(), last.name)]
    editor.workspace_did_change_workspace_folders(
        types.DidChangeWorkspaceFoldersParams(types.WorkspaceFoldersChangeEvent(added, []))
    )
    await until(table(last).exists)


def test_it_is_counted_after_the_first_request_and_again_when_much_has_changed(
    engine: Runtime, work: Path
) -> None:
    async def story() -> None:
        async with editing(engine, workspace=work, settings=OFF) as editor:
            before = await fill(editor, work)
            text = before["edits"][0]["newText"]
        (work / "area.py").write_text(HEAD + text + TAIL)
        async with editing(engine, workspace=work) as editor:
            await until(lambda: "blockdiff: index of work" in titles(editor))
            assert not tables(), "no engine has answered"
            await fill(editor, work)
            await until(table(work).exists)
            await until(lambda: "blockdiff: names and habits in work" in titles(editor))
            after = await fill(editor, work)
            assert after["edits"][0]["newText"] == text and after["tokens"] == before["tokens"]
            assert after["forwards"] < before["forwards"]
        first = table(work).stat()
        async with editing(engine, workspace=work) as editor:
            await fill(editor, work)
            await looked_through(editor, work)
            assert table(work).stat() == first and editor.messages == []
            assert "blockdiff: names and habits in work" not in titles(editor)
        (work / "some.py").write_text((work / "some.py").read_text() * 2)
        async with editing(engine, workspace=work) as editor:
            await fill(editor, work)
            await until(lambda: table(work).stat().st_mtime_ns != first.st_mtime_ns)

    run(story())


def test_what_was_forgotten_stays_so(engine: Runtime, work: Path) -> None:
    personal.forget(work)

    async def story() -> None:
        async with editing(engine, workspace=work) as editor:
            await fill(editor, work)
            await looked_through(editor, work)

    run(story())
    assert not table(work).exists()


def test_nothing_is_counted_where_it_is_off_or_for_an_engine_elsewhere(
    engine: Runtime, work: Path
) -> None:
    async def story(settings: dict[str, Any], runtime: Runtime) -> None:
        async with editing(runtime, workspace=work, settings=settings) as editor:
            await fill(editor, work)
            await asyncio.sleep(WAITS)

    async def stories() -> None:
        found = there.announced()
        assert found is not None
        url = {"engine": {"url": found.address.url, "token": there.token()}}
        await asyncio.gather(story(OFF, engine), story(url, Runtime(work.parent / "none")))

    there = Runtime(work.parent / "there")
    point = Checkpoint.load(NAME, torch.device("cpu"), torch.float32, no_op)
    with served(there, lambda report: Engine(point), model=NAME, host="127.0.0.1"):
        run(stories())
    assert not tables()


def test_switching_it_off_or_closing_the_folder_ends_it(engine: Runtime, work: Path) -> None:
    large(work)

    async def story() -> None:
        async with editing(engine, workspace=work) as editor:
            for end in ("off", "closed"):
                await fill(editor, work)
                await until(lambda: "blockdiff: names and habits in work" in titles(editor))
                editor.progress_reports.clear()
                assert is_counting()
                if end == "off":
                    configure(editor, OFF)
                    await until(lambda: not is_counting())
                    configure(editor, {})
                else:
                    gone = [types.WorkspaceFolder(work.as_uri(), work.name)]
                    event = types.WorkspaceFoldersChangeEvent([], gone)
                    editor.workspace_did_change_workspace_folders(
                        types.DidChangeWorkspaceFoldersParams(event)
                    )
                    await until(lambda: not is_counting())
            assert editor.messages == []

    run(story())
    assert not tables()


def configure(editor: Editor, settings: dict[str, Any]) -> None:
    editor.settings = settings
    editor.workspace_did_change_configuration(
        types.DidChangeConfigurationParams({"blockdiff": settings})
    )


def large(root: Path) -> None:
    """So much code that it takes a while."""
    for number in range(60):
        name = "name" + chr(97 + number % 26) * (1 + number // 26)
        (root / f"{name}.py").write_text(code(name, 900))


def is_counting() -> bool:
    lock = FileLock(stored.folder() / ".lock")
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return True
    lock.release()
    return False


@pytest.mark.parametrize("end", ["shutdown", "killed"])
def test_it_ends_with_the_server(engine: Runtime, work: Path, end: str) -> None:
    large(work)
    raw = Raw(engine)
    try:
        here = [{"uri": work.as_uri(), "name": work.name}]
        can = {"workspace": {"configuration": True, "workspaceFolders": True}, "window": {}}
        raw.start(HEAD + TAIL, can, workspaceFolders=here)
        assert raw.fill((1, 4), max_tokens=4)["result"]
        asyncio.run(asyncio.wait_for(until(is_counting), 60))
        if end == "killed":
            raw.process.kill()
        else:
            assert raw.stop() == 0
        asyncio.run(asyncio.wait_for(until(lambda: not is_counting()), 60))
    finally:
        raw.process.kill()
        raw.process.wait()
    assert [path.name for path in stored.folder().iterdir()] == [".lock"], "nothing half written"


def test_where_it_cannot_be_written_the_server_goes_on(
    engine: Runtime, work: Path, tmp_path: Path
) -> None:
    stored.folder().write_text("in the way")
    log = tmp_path / "log"

    async def story() -> None:
        async with editing(engine, workspace=work, arguments=("--log-file", str(log))) as editor:
            for _ in range(3):
                await fill(editor, work)
                await until(lambda: "are not counted: cannot write" in log.read_text())
                configure(editor, OFF)
                configure(editor, {})
            await fill(editor, work)
            stored.folder().unlink()
            await looked_through(editor, work)
            assert editor.messages == []

    run(story())
    assert log.read_text().count("are not counted") == 1


def test_a_damaged_table_is_made_again(engine: Runtime, work: Path) -> None:
    stored.folder().mkdir(mode=0o700)
    table(work).write_bytes(b"damage")

    async def story() -> None:
        async with editing(engine, workspace=work) as editor:
            assert (await fill(editor, work))["edits"]
            await until(lambda: stored.note_of(table(work)))
            assert (await fill(editor, work))["edits"]

    run(story())
