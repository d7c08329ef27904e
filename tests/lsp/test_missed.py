"""Why an automatic completion did not come: told in `blockdiff/status`, kept for a terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client import missed
from blockdiff.client.endpoint import Runtime
from blockdiff.client.missed import NoCompletion
from tests.lsp.editor import Editor, editing, run
from tests.lsp.test_inline import INVOKED, Scripted, complete, says

SLOW = {"maxTokens": 500}


async def settle(editor: Editor, inline: dict[str, Any], seed: int = 0) -> None:
    """Settings that hold for what is asked next."""
    editor.settings = {"inline": {"maxTokens": 2, **inline}, "decoding": {"seed": seed}}
    editor.workspace_did_change_configuration(types.DidChangeConfigurationParams(None))
    for _ in range(3):  # what it is asked for comes before what it asks next
        with pytest.raises(JsonRpcException):
            await editor.ask("blockdiff/nothing", None)


async def reason(editor: Editor, kind: NoCompletion | None) -> dict[str, Any]:
    """The last one that was told, once it is of this kind."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        last = editor.statuses[-1].get("missed", {}) if editor.statuses else {}
        if last.get("kind") == (kind and kind.value):
            return dict(last)
        await asyncio.sleep(0.02)
    raise AssertionError(f"{last} is not {kind}")


DISABLED: list[tuple[dict[str, Any], str, str, tuple[int, int], NoCompletion | None]] = [
    ({}, "a.py", "x = \n", (0, 4), None),
    ({"automatic": False}, "a.py", "x = \n", (0, 4), NoCompletion.OFF),
    ({"disabledLanguages": ["python"]}, "a.py", "x = \n", (0, 4), NoCompletion.EXCLUDED),
    ({"disabledLanguages": ["Py"]}, "a.py", "x = \n", (0, 4), NoCompletion.EXCLUDED),
    ({"disabledLanguages": ["go"]}, "a.py", "x = \n", (0, 4), None),
    ({"disabledGlobs": ["*.md", "!b.py"]}, "a.py", "x = \n", (0, 4), None),
    ({"disabledGlobs": ["*.py"]}, "a.py", "x = \n", (0, 4), NoCompletion.EXCLUDED),
    ({"disabledGlobs": ["docs/**"]}, "docs/a.py", "x = \n", (0, 4), NoCompletion.EXCLUDED),
    ({"disabledGlobs": ["*.py", "!docs/*.py"]}, "docs/a.py", "x = \n", (0, 4), None),
    ({"disabledGlobs": ["[z-a]", "*.py"]}, "a.py", "x = \n", (0, 4), NoCompletion.EXCLUDED),
    ({}, "secret.py", "x = \n", (0, 4), NoCompletion.IGNORED),
    ({}, "a.py", "x = y\n", (0, 4), NoCompletion.IN_WORD),
    ({}, "a.py", "x = 1  # the\n", (0, 12), None),
    ({"inComments": False}, "a.py", "x = 1  # the\n", (0, 12), NoCompletion.IN_COMMENT),
    ({"inComments": False}, "a.py", "x = 'a '\n", (0, 7), None),
    ({"inStrings": False}, "a.py", "x = 'a '\n", (0, 7), NoCompletion.IN_STRING),
    ({"inStrings": False}, "a.py", "x = 'a' + \n", (0, 10), None),
]


def test_where_completing_is_switched_off_nothing_comes_and_the_reason_is_told(
    scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / ".blockdiffignore").write_text("secret.py\n")
    seen = says(scripted[1], "done")

    async def story() -> None:
        async with editing(scripted[0]) as editor:
            for inline, name, text, at, kind in DISABLED:
                await settle(editor, inline)
                uri, asked = (tmp_path / name).as_uri(), len(seen)
                editor.statuses.clear()
                editor.open(text, uri)
                items = await complete(editor, *at, uri=uri)
                assert bool(items) is (kind is None), (inline, name)
                assert (len(seen) > asked) is (kind is None)
                if kind is not None:
                    told = await reason(editor, kind)
                    assert (told["uri"], told["line"]) == (uri, at[0])
                    assert told["message"] == kind.words
                    if kind is not NoCompletion.IGNORED:  # on command it comes all the same
                        assert await complete(editor, *at, INVOKED, uri=uri)
                editor.close(uri)
            (warning,) = (m.message for m in editor.messages)
            assert "'[z-a]' is no pattern" in warning

    run(story())
    kept = missed.last(scripted[0])
    assert kept is not None and kept.kind is NoCompletion.IN_STRING
    assert kept.line == 0 and kept.uri.endswith("/a.py") and kept.time > 0
    assert "'a '" not in (scripted[0].folder / "missed.json").read_text()  # no source text


@pytest.mark.parametrize(
    ("said", "kind"),
    [("", NoCompletion.REPEATS), ("  \n", NoCompletion.EMPTY)],
)
def test_what_the_engine_makes_of_nothing(
    scripted: Scripted, said: str, kind: NoCompletion
) -> None:
    says(scripted[1], said)

    async def story() -> None:
        async with editing(scripted[0], settings={"inline": {"maxTokens": 2}}) as editor:
            editor.open("x = \n")
            assert await complete(editor, 0, 4) == []
            await reason(editor, kind)

    run(story())


def test_what_comes_too_late_or_is_replaced(scripted: Scripted) -> None:
    engine = scripted[1]

    async def writing(editor: Editor, number: str) -> asyncio.Task[Any]:
        written = engine.written
        position = types.Position(0, 4)
        context = types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic)
        uri = types.TextDocumentIdentifier("file:///project/area.py")
        params = types.InlineCompletionParams(context, uri, position)
        asked = asyncio.ensure_future(
            editor.protocol.send_request_async(
                types.TEXT_DOCUMENT_INLINE_COMPLETION, params, msg_id=number
            )
        )
        while engine.written == written:
            await asyncio.sleep(0.01)
        return asked

    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("x = \n")
            await settle(editor, {"maxTokens": 30}, seed=20)
            asked = await writing(editor, "one")
            editor.change((0, 4), (0, 4), "y", 2)
            assert not (await asked).items
            await reason(editor, NoCompletion.TOO_LATE)
            editor.change((0, 4), (0, 5), "", 3)
            await settle(editor, SLOW, seed=20)
            asked = await writing(editor, "two")
            editor.cancel("two")
            with pytest.raises(JsonRpcException):
                await asked
            await reason(editor, NoCompletion.REPLACED)

    run(story())


def test_a_delay_waits_for_a_pause(scripted: Scripted) -> None:
    seen = says(scripted[1], "done")

    async def story() -> None:
        settings = {"inline": {"maxTokens": 2, "delayMs": 300}}
        async with editing(scripted[0], settings=settings) as editor:
            editor.open("x = \n")
            first = asyncio.ensure_future(complete(editor, 0, 4))
            await asyncio.sleep(0)  # it is sent
            editor.change((0, 4), (0, 4), " ", 2)
            (item,) = await complete(editor, 0, 5)
            assert item.insert_text == "done"
            assert await first == [] and len(seen) == 1
            await reason(editor, NoCompletion.REPLACED)

    run(story())


def test_an_engine_that_fails_is_a_reason(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0], settings={"inline": {"maxTokens": 2}}) as editor:
            editor.open("x = \n", language="defect")
            with pytest.raises(JsonRpcException):
                await complete(editor, 0, 4)
            await reason(editor, NoCompletion.FAILED)

    run(story())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "late"}', "\0", "{}" * 9])
def test_a_note_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    runtime = Runtime(tmp_path / "run")
    assert missed.last(runtime) is None
    runtime.prepare()
    runtime.write_private("missed.json", content)
    assert missed.last(runtime) is None


def test_every_reason_says_what_it_is() -> None:
    words = [kind.words for kind in NoCompletion]
    assert len(set(words)) == len(words)
    assert all(": " in sentence for sentence in words)  # what it is: what to do
