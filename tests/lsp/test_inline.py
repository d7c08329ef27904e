"""Ghost text over `textDocument/inlineCompletion`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from blockdiff.types import Extent, InfillRequest
from tests.lsp.editor import URI, Editor, editing, run
from tests.unit.scripted_service import ScriptedEngine

Scripted = tuple[Runtime, ScriptedEngine]
INVOKED = types.InlineCompletionTriggerKind.Invoked
AUTOMATIC = types.InlineCompletionTriggerKind.Automatic
SHORT: dict[str, Any] = {"inline": {"maxTokens": 2}}


async def complete(
    editor: Editor, line: int, character: int, kind: Any = AUTOMATIC, uri: str = URI
) -> list[types.InlineCompletionItem]:
    answer = await editor.text_document_inline_completion_async(
        types.InlineCompletionParams(
            types.InlineCompletionContext(kind),
            types.TextDocumentIdentifier(uri),
            types.Position(line, character),
        )
    )
    assert isinstance(answer, types.InlineCompletionList)
    return list(answer.items)


def says(engine: ScriptedEngine, *texts: str) -> list[InfillRequest]:
    """Let the engine answer with these, one after the other; the requests it gets."""
    seen: list[InfillRequest] = []
    plain = engine.infill

    def infill(request: InfillRequest, cancelled: Any) -> Any:
        text = texts[len(seen) % len(texts)]
        seen.append(request)
        for event in plain(request, cancelled):
            yield type(event)(
                **{
                    **fields(event),
                    "text": text,
                    **({"spans": ()} if hasattr(event, "spans") else {}),
                }
            )

    engine.infill = infill  # type: ignore[method-assign]
    return seen


def fields(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


def span(start: tuple[int, int], end: tuple[int, int]) -> types.Range:
    return types.Range(types.Position(*start), types.Position(*end))


def test_a_completion_is_inserted_at_the_cursor(scripted: Scripted) -> None:
    seen = says(scripted[1], "width * height\n")

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open("def area():\n    return \n")
            (item,) = await complete(editor, 1, 11)
            assert item.insert_text == "width * height\n"
            assert item.range == span((1, 11), (1, 11))

    run(story())
    assert seen[0].decoding.max_tokens == 2


def test_what_is_typed_of_a_completion_keeps_it_without_asking_again(scripted: Scripted) -> None:
    seen = says(scripted[1], "width * height\n    done")

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open("    return \nx = 1\n")
            await complete(editor, 0, 11)
            editor.change((0, 11), (0, 11), "wid", 2)
            (item,) = await complete(editor, 0, 14)
            assert item.insert_text == "width * height\n    done"
            assert item.range == span((0, 11), (0, 14))  # one line, up to the cursor
            editor.change((0, 14), (0, 14), "th * height\n", 3)
            (item,) = await complete(editor, 1, 0)
            assert item.insert_text == "    done" and item.range == span((1, 0), (1, 0))
            assert len(seen) == 1
            editor.change((1, 0), (1, 0), "q", 4)  # not what was offered
            await complete(editor, 1, 1)
            assert len(seen) == 2

    run(story())


def test_on_command_several_different_candidates_come(scripted: Scripted) -> None:
    seen = says(scripted[1], "first", "first", "second")

    async def story() -> None:
        settings = {"inline": {"maxTokens": 2, "candidates": 3, "automatic": False}}
        async with editing(scripted[0], settings=settings) as editor:
            editor.open("x = \n")
            items = await complete(editor, 0, 4, INVOKED)
            assert [item.insert_text for item in items] == ["first", "second"]
            assert await complete(editor, 0, 4, AUTOMATIC) == []  # switched off

    run(story())
    assert [r.decoding.temperature for r in seen] == [0.0, 0.7, 0.7]
    assert len({r.decoding.seed for r in seen}) == 3


@pytest.mark.parametrize(
    ("text", "at", "multiline", "extent"),
    [
        ("x = \n", (0, 4), True, Extent.BLOCK),
        ("x = \n", (0, 4), False, Extent.LINE),
        ("f()\n", (0, 2), True, Extent.LINE),
        ("x = [1, ]  # list\n", (0, 8), True, Extent.LINE),
        ("x = \ry = 1\r", (0, 4), True, Extent.BLOCK),
    ],
)
def test_within_a_line_one_line_is_asked_for_else_a_block(
    scripted: Scripted, text: str, at: tuple[int, int], multiline: bool, extent: Extent
) -> None:
    seen = says(scripted[1], "a")

    async def story() -> None:
        settings = {"inline": {"maxTokens": 2, "multiline": multiline}}
        async with editing(scripted[0], settings=settings) as editor:
            editor.open(text)
            (item,) = await complete(editor, *at)
            assert item.insert_text == "a"

    run(story())
    assert [request.extent for request in seen] == [extent]


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [("x = y\n", 4, "n"), ("x = \n", 4, "  \n")],  # in front of a word; only blanks
)
def test_nothing_is_offered(scripted: Scripted, text: str, at: int, said: str) -> None:
    says(scripted[1], said)

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open(text)
            assert await complete(editor, 0, at) == []

    run(story())


def test_what_is_asked_right_after_settings_changed_has_the_new_ones(scripted: Scripted) -> None:
    seen = says(scripted[1], "a")

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open("x = \n")
            await complete(editor, 0, 4)
            editor.settings = {"inline": {"maxTokens": 2, "multiline": False}}
            editor.workspace_did_change_configuration(types.DidChangeConfigurationParams(None))
            await complete(editor, 0, 4)

    run(story())
    assert [request.extent for request in seen] == [Extent.BLOCK, Extent.LINE]


def test_a_newer_completion_takes_the_place_of_an_older_one(scripted: Scripted) -> None:
    async def story() -> None:
        slow = {"inline": {"maxTokens": 500}, "decoding": {"seed": 20}}
        async with editing(scripted[0], settings=slow) as editor:
            editor.open("x = \ny = \n")
            old = asyncio.create_task(complete(editor, 0, 4))
            while scripted[1].written == 0:
                await asyncio.sleep(0.01)
            editor.settings = SHORT
            editor.workspace_did_change_configuration(types.DidChangeConfigurationParams(None))
            await asyncio.sleep(0.3)
            new = await complete(editor, 1, 4)
            assert new
            with pytest.raises(JsonRpcException) as failure:
                await old
            assert failure.value.code == -32802

    run(story())


def test_other_open_documents_of_the_language_are_shown_but_none_that_is_ignored(
    scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / ".blockdiffignore").write_text("secret.py\n")
    seen = says(scripted[1], "x")

    def uri(name: str) -> str:
        return (tmp_path / name).as_uri()

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open("def helper():\n    return 'helper'\n", uri("helper.py"))
            editor.open("def again():\n    return 'again'\n", uri("again.py"))
            editor.open("def hidden():\n    return 'hidden'\n", uri("secret.py"))
            editor.open("def built():\n    return 'built'\n", uri("build/out.py"))
            editor.open("function other() { return 'other' }\n", uri("o.js"), "javascript")
            editor.open("x = \n", uri("main.py"))
            editor.change((1, 4), (1, 4), "  ", 2, uri("helper.py"))
            await complete(editor, 0, 4, uri=uri("main.py"))
            assert await complete(editor, 0, 3, uri=uri("secret.py")) == []
            await complete(editor, 1, 0, uri=uri("build/out.py"))

    run(story())
    shown = [Path(snippet.path).name for snippet in seen[0].snippets]
    assert shown == ["helper.py", "again.py"]  # what was edited last comes first
    assert "hidden" not in repr(seen) and len(seen) == 2


def test_editorconfig_tells_the_indentation(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / ".editorconfig").write_text(
        "root = true\n[*]\nindent_style = space\nindent_size = 2\n[*.go]\nindent_style = tab\n"
    )
    seen = says(scripted[1], "x")

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            for name in ("a.py", "a.go"):
                uri = (tmp_path / name).as_uri()
                editor.open("x = \n", uri)
                await complete(editor, 0, 4, uri=uri)

    run(story())
    assert [request.indentation for request in seen] == ["  ", "\t"]


def test_typing_alone_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    runtime = Runtime(tmp_path / "run")

    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open("x = \n")
            assert await complete(editor, 0, 4) == []
            assert editor.statuses[-1]["missed"]["kind"] == "modelAbsent"
            assert runtime.announced() is None
            assert not (tmp_path / "cache" / "models").exists()

    run(story())
