"""What comes of an action reaches the document, however slow the engine and the client are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lsprotocol import types

from blockdiff.client.endpoint import Runtime
from blockdiff.types import FinishReason, RewriteRequest, SyntaxState
from tests.editors.nvim.script import Scripted
from tests.lsp.editor import Editor, capabilities, editing, hole, infill, run
from tests.lsp.raw import URI as RAW_URI
from tests.lsp.raw import Raw
from tests.lsp.test_actions import EMPTY, argument, command, ended, menu, offered
from tests.unit.scripted_service import until

Writer = tuple[Runtime, Scripted]

STUB = '"""Shapes."""\n\n\ndef area(w, h):\n    """The area."""\n    ...\n\n\nprint(area(1, 2))\n'
BROKEN = "import os\n\n\ndef lines(path)\n    return open(path).read()\n\n\nprint(lines(os.name))\n"


def new_texts(editor: Editor) -> list[str]:
    """Of the edits that were applied."""
    changes: list[Any] = [c for edit in editor.edits for c in edit.edit.document_changes or ()]
    return [edit.new_text for change in changes for edit in change.edits]


def said(editor: Editor) -> list[str]:
    return [message.message for message in editor.messages]


def test_a_command_is_answered_before_its_work_is_done(writer: Writer) -> None:
    writer[1].writes("return w * h")
    writer[1].hold = True

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            assert await command(editor, argument("complete", hole((3, 0))), "c1") is None
            await until(lambda: len(editor.progress_reports.get("c1", [])) >= 2)
            assert editor.edits == []
            writer[1].hold = False
            await until(lambda: bool(editor.edits))
            assert new_texts(editor) == ["return w * h"]
            await until(lambda: ended(editor))

    run(story())


def test_a_code_action_that_takes_long_is_answered_and_applied_later(writer: Writer) -> None:
    writer[1].writes("return w * h")
    writer[1].hold = True

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            action = (await offered(editor, (3, 0), (3, 0)))["complete"]
            resolved = await editor.code_action_resolve_async(action)
            assert resolved.edit is None and writer[1].hold
            writer[1].hold = False
            await until(lambda: bool(editor.edits))
            assert new_texts(editor) == ["return w * h"]

    run(story())


@pytest.mark.parametrize("span", [((8, 0), (8, 0)), ((5, 4), (5, 7))])
def test_an_edit_for_a_document_that_has_changed_is_dropped(writer: Writer, span: Any) -> None:
    writer[1].writes("return w * h")
    writer[1].hold = True

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            await command(editor, argument("complete", hole((3, 0))))
            await until(lambda: bool(writer[1].requests))
            editor.change(*span, "x = 1", version=2)
            await until(lambda: bool(writer[1].cancelled))
            await until(lambda: bool(editor.messages))
            assert editor.edits == []
            (message,) = said(editor)
            assert "edited meanwhile: nothing was changed" in message

    run(story())


def test_an_edit_whose_progress_was_cancelled_is_dropped(writer: Writer) -> None:
    writer[1].hold = True

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            await command(editor, argument("fill", hole((5, 4), (5, 7))), "c1")
            await until(lambda: len(editor.progress_reports.get("c1", [])) >= 2)
            editor.window_work_done_progress_cancel(types.WorkDoneProgressCancelParams("c1"))
            await until(lambda: bool(writer[1].cancelled))
            await until(lambda: ended(editor))
            assert editor.edits == [] and said(editor) == []

    run(story())


def test_the_client_may_refuse_the_edit(writer: Writer) -> None:
    writer[1].writes("return w * h")

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.refusal = "read-only"
            editor.open(STUB)
            await command(editor, argument("complete", hole((3, 0))))
            await until(lambda: bool(editor.messages))
            assert said(editor) == ["blockdiff: the editor did not make the edit: read-only"]

    run(story())


@pytest.mark.parametrize(
    ("action", "span", "writes", "message"),
    [
        ("fill", hole((5, 4), (5, 7)), "...", "there is nothing to change"),
        ("complete", hole((3, 0)), "  \n", "there is nothing to change"),
        ("docstring", hole((9, 0)), "", "there is nothing to change"),
        ("complete", hole((3, 0)), "return w * (h", "does not parse here: nothing was changed"),
        ("docstring", hole((9, 0)), 'Say.\n    """\n    )', "does not parse here"),
    ],
)
@pytest.mark.parametrize("resolves", [True, False])
def test_what_changes_nothing_says_so(
    writer: Writer, action: str, span: Any, writes: str, message: str, resolves: bool
) -> None:
    writer[1].writes(writes)

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB + "\ndef f():\n    return 1\n".replace("\ndef", "def"))
            asked = argument(action, span)
            if resolves:
                made = types.CodeAction("x", data=asked)
                assert (await editor.code_action_resolve_async(made)).edit is None
            else:
                await command(editor, asked)
            await until(lambda: bool(editor.messages))
            assert message in said(editor)[0] and editor.edits == []

    run(story())


def test_what_the_engine_finds_broken_is_not_applied(writer: Writer) -> None:
    writer[1].writes("# nothing but a comment")
    writer[1].syntax = SyntaxState.BROKEN

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            await command(editor, argument("complete", hole((3, 0))))
            await until(lambda: bool(editor.messages))
            assert "does not parse" in said(editor)[0] and editor.edits == []

    run(story())


def test_what_ended_at_the_limit_is_applied_and_says_so(writer: Writer) -> None:
    writer[1].writes("return w *\\\n        h")
    writer[1].finish = FinishReason.LENGTH

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            await command(editor, argument("complete", hole((3, 0))))
            await until(lambda: bool(editor.edits and editor.messages))
            assert "cut off at the limit" in said(editor)[0]

    run(story())


def test_a_missing_colon_is_put_in_without_a_model(writer: Writer) -> None:
    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(BROKEN)
            await command(editor, argument("fix", hole((3, 0))))
            await until(lambda: bool(editor.edits))
            assert new_texts(editor) == [":"] and writer[1].requests == []

    run(story())


@pytest.mark.parametrize(
    ("writes", "applied"),
    [("x = 5 + 2", ["2"]), ("x = 5 +", []), ("", []), ("def f():\n    pass\n\n\ny = 1", [])],
)
def test_a_repair_by_the_model_parses_or_is_not_made(
    writer: Writer, writes: str, applied: list[str]
) -> None:
    writer[1].writes(writes)

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open("y = 1\nx = 5 +\nz = 3\n")
            await command(editor, argument("fix", hole((1, 0))))
            await until(lambda: bool(editor.edits or editor.messages))
            assert [text.strip() for text in new_texts(editor)] == applied
            if not applied:
                assert "no change was found that parses" in said(editor)[0]
                assert len(writer[1].requests) <= 3

    run(story())


def test_an_instruction_in_a_comment_is_taken_out_of_what_is_rewritten(writer: Writer) -> None:
    writer[1].writes("s = sum(xs)")
    text = "xs = [1]\n# TODO(ai): use sum\ns = 0\nfor x in xs:\n    s += x\nprint(s)\n"

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(text)
            action = (await offered(editor, (1, 0), (4, 10)))["rewrite"]
            assert action.title == "Rewrite the selection: use sum"
            resolved = await editor.code_action_resolve_async(action)
            assert resolved.edit and resolved.edit.document_changes
            (edit,) = resolved.edit.document_changes[0].edits  # type: ignore[union-attr]
            lines = text.split("\n")
            start, end = edit.range.start, edit.range.end
            head = "\n".join([*lines[: start.line], lines[start.line][: start.character]])
            tail = "\n".join([lines[end.line][end.character :], *lines[end.line + 1 :]])
            assert head + edit.new_text + tail == "xs = [1]\ns = sum(xs)\nprint(s)\n"

    run(story())
    (request,) = writer[1].requests
    assert isinstance(request, RewriteRequest) and request.instruction == "use sum"
    assert request.document == text.replace("# TODO(ai): use sum\n", "")


def test_drafts_and_states_go_to_clients_that_ask_for_them(writer: Writer) -> None:
    async def story(wishes: Any, drafts: bool, states: bool) -> None:
        can = capabilities()
        can.experimental = wishes
        async with editing(writer[0], can=can) as editor:
            editor.open(EMPTY)
            await editor.ask("blockdiff/infill", infill(hole((1, 4), (1, 8))))
            await menu(editor, (1, 4), (1, 4))  # what was sent before its answer has arrived
            assert (bool(editor.refinements), bool(editor.statuses)) == (drafts, states)

    for wishes, drafts, states in (
        (None, False, False),
        ({"blockdiff": True}, False, False),
        ({"blockdiff": {"refinement": True}}, True, False),
        ({"blockdiff": {"refinement": False, "status": True}}, False, True),
        ({"blockdiff": {"refinement": True, "status": True}}, True, True),
    ):
        run(story(wishes, drafts, states))


BIG = ["x" * 10] * 100_000
PLACE = hole((0, 0))


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("textDocument/codeAction", {"range": BIG, "context": {"diagnostics": []}}),
        (
            "textDocument/codeAction",
            {"range": PLACE, "context": {"diagnostics": [], "only": [BIG]}},
        ),
        ("codeAction/resolve", {"title": "x", "edit": {"documentChanges": BIG}}),
        ("codeAction/resolve", {"title": "x", "data": {"action": BIG}}),
    ],
)
def test_a_large_value_of_a_wrong_type_is_refused_at_once(
    writer: Writer, method: str, params: Any
) -> None:
    raw = Raw(writer[0])
    raw.start("x = 1\n")
    number = raw.request(method, {"textDocument": {"uri": RAW_URI}, **params})
    assert raw.answers({number})[number]["error"]["code"] == -32602
    assert raw.stop() == 0


def test_shutting_down_ends_what_runs(writer: Writer) -> None:
    writer[1].hold = True

    async def story() -> None:
        async with editing(writer[0]) as editor:
            editor.open(STUB)
            await command(editor, argument("complete", hole((3, 0))))
            await until(lambda: bool(writer[1].requests))
        await asyncio.to_thread(_wait_for_cancel, writer[1])

    run(story())


def _wait_for_cancel(engine: Scripted) -> None:
    asyncio.run(until(lambda: bool(engine.cancelled)))
