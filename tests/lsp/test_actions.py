"""Code actions and commands: blockdiff for an editor without our plugin."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.endpoint import Runtime
from lsp_server.actions import Action
from lsp_server.constructs import broken_lines, documentation, enclosing_function
from tests.lsp.editor import URI, Editor, capabilities, editing, hole, run
from tests.unit.scripted_service import ScriptedEngine

Scripted = tuple[Runtime, ScriptedEngine]

EMPTY = "def area(width, height):\n    pass\n\n\nprint(area(3, 4))\n"
SHORT: dict[str, Any] = {"decoding": {"maxTokens": 2}}


async def offered(
    editor: Editor, start: tuple[int, int], end: tuple[int, int], only: list[str] | None = None
) -> dict[str, types.CodeAction]:
    """Code actions by the last part of their kind."""
    answer = await editor.text_document_code_action_async(
        types.CodeActionParams(
            types.TextDocumentIdentifier(URI),
            types.Range(types.Position(*start), types.Position(*end)),
            types.CodeActionContext([], only=only),
        )
    )
    actions = [action for action in answer or [] if isinstance(action, types.CodeAction)]
    return {str(action.kind).rsplit(".", 1)[1]: action for action in actions}


def argument(action: str, span: dict[str, Any], version: int = 1, **rest: Any) -> dict[str, Any]:
    return {
        "action": action,
        "textDocument": {"uri": URI, "version": version},
        "range": span,
        **rest,
    }


async def command(editor: Editor, value: Any, token: str | None = None) -> Any:
    return await editor.workspace_execute_command_async(
        types.ExecuteCommandParams("blockdiff.run", [value], work_done_token=token)
    )


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        (EMPTY, (1, 4), (1, 4), {"complete", "docstring"}),
        (EMPTY, (4, 0), (4, 0), set()),
        (EMPTY, (4, 0), (4, 5), {"fill", "rewrite"}),
        (EMPTY, (2, 0), (3, 0), {"fill"}),
        ('def f():\n    """Say."""\n    return 1\n', (2, 4), (2, 4), set()),
        ("def f(:\n    return 1\n", (0, 4), (0, 4), {"fix"}),
    ],
)
def test_what_is_offered_fits_the_place(
    runtime: Runtime, text: str, start: Any, end: Any, expected: set[str]
) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(text)
            assert set(await offered(editor, start, end)) >= expected
            if "fix" not in expected:
                assert set(await offered(editor, start, end)) == expected
            assert await offered(editor, start, end, only=["quickfix"]) == {}
            some = await offered(editor, start, end, only=["refactor.rewrite.blockdiff.fill"])
            assert set(some) == expected & {"fill"}

    run(story())


def test_an_action_is_worked_out_when_it_is_chosen(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open(EMPTY)
            action = (await offered(editor, (1, 4), (1, 4)))["complete"]
            assert action.edit is None and action.command is None
            resolved = await editor.code_action_resolve_async(action)
            assert resolved.edit and resolved.edit.document_changes
            (change,) = resolved.edit.document_changes
            assert isinstance(change, types.TextDocumentEdit)
            assert change.text_document.version == 1
            (edit,) = change.edits
            assert isinstance(edit, types.AnnotatedTextEdit)
            assert edit.new_text.endswith(" done")
            assert (edit.range.start.line, edit.range.end) == (1, types.Position(1, 8))
            assert resolved.edit.change_annotations
            assert edit.annotation_id in resolved.edit.change_annotations

    run(story())


def test_a_client_that_resolves_no_edits_gets_a_command_that_applies_one(
    scripted: Scripted,
) -> None:
    can = capabilities()
    assert can.text_document and can.text_document.code_action and can.workspace
    can.text_document.code_action.resolve_support = None
    can.workspace.workspace_edit = None

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT, can=can) as editor:
            editor.open(EMPTY)
            answer = await editor.text_document_code_action_async(
                types.CodeActionParams(
                    types.TextDocumentIdentifier(URI),
                    types.Range(types.Position(1, 4), types.Position(1, 4)),
                    types.CodeActionContext([]),
                )
            )
            # pygls takes a code action with a command for a bare command, its inside as text
            made = ast.literal_eval(answer[0].command)  # type: ignore[index,arg-type]
            assert made["command"] == "blockdiff.run"
            outcome = await command(editor, made["arguments"][0])
            (applied,) = editor.edits
            assert applied.edit.changes and list(applied.edit.changes) == [URI]
            assert applied.edit.changes[URI][0].new_text.endswith(" done")
            assert outcome["finish"] == "eom"
            reports = [v for values in editor.progress_reports.values() for v in values]
            assert [r["kind"] for r in reports][0] == "begin" and reports[-1]["kind"] == "end"

    run(story())


def test_a_docstring_is_written_between_its_quotes(scripted: Scripted) -> None:
    seen: list[str] = []
    plain = scripted[1].infill

    def look(request: Any, cancelled: Any) -> Any:
        seen.append(request.prefix + "|" + request.suffix)
        return plain(request, cancelled)

    scripted[1].infill = look  # type: ignore[method-assign]

    async def story() -> None:
        async with editing(scripted[0], settings=SHORT) as editor:
            editor.open("class A:\n    def f(self):\n        return 1\n")
            await command(editor, argument("docstring", hole((2, 8))))
            (edit,) = editor.edits[0].edit.document_changes[0].edits  # type: ignore[index,union-attr]
            text = edit.new_text
            assert text.startswith('"""') and text.endswith(' done"""\n        ')
            assert edit.range.start == edit.range.end == types.Position(2, 8)

    run(story())
    start = 'class A:\n    def f(self):\n        """|"""\n        return 1\n'
    assert seen == [start]


def test_cancelling_the_progress_of_a_command_ends_it(scripted: Scripted) -> None:
    async def story() -> None:
        slow = {"decoding": {"maxTokens": 1000, "seed": 20}}
        async with editing(scripted[0], settings=slow) as editor:
            editor.open(EMPTY)
            asked = argument("fill", hole((1, 4), (1, 8)))
            task = asyncio.create_task(command(editor, asked, "c1"))
            while len(editor.progress_reports.get("c1", [])) < 2:
                await asyncio.sleep(0.01)
            editor.window_work_done_progress_cancel(types.WorkDoneProgressCancelParams("c1"))
            with pytest.raises(JsonRpcException) as failure:
                await task
            assert failure.value.code == -32800 and editor.edits == []

    run(story())


def test_cancelling_the_request_of_a_command_ends_it(scripted: Scripted) -> None:
    async def story() -> None:
        slow = {"decoding": {"maxTokens": 1000, "seed": 20}}
        async with editing(scripted[0], settings=slow) as editor:
            editor.open(EMPTY)
            task = asyncio.ensure_future(
                editor.protocol.send_request_async(
                    types.WORKSPACE_EXECUTE_COMMAND,
                    types.ExecuteCommandParams(
                        "blockdiff.run", [argument("fill", hole((1, 4), (1, 8)))]
                    ),
                    msg_id="99",
                )
            )
            while scripted[1].written < 2:
                await asyncio.sleep(0.01)
            editor.cancel("99")
            with pytest.raises(JsonRpcException):
                await task
            while not scripted[1].cancelled:
                await asyncio.sleep(0.01)
            assert editor.edits == []

    run(story())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the value must be an object"),
        (argument("explode", hole((0, 0))), "action must be one of fill, complete"),
        (argument("fix", hole((0, 0))), "nothing here fails to parse"),
        (argument("complete", hole((4, 0))), "no function around the cursor"),
        (argument("fill", hole((99, 0))), "line 99 is outside"),
        (argument("rewrite", hole((2, 0), (3, 0))), "no text to rewrite"),
    ],
)
def test_a_command_with_a_bad_argument_is_a_typed_error(
    runtime: Runtime, value: Any, message: str
) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(EMPTY)
            with pytest.raises(JsonRpcException, match=message):
                await command(editor, value)
            with pytest.raises(JsonRpcException, match="no command 'blockdiff.other'"):
                await editor.workspace_execute_command_async(
                    types.ExecuteCommandParams("blockdiff.other")
                )
            assert editor.edits == []

    run(story())


def test_nothing_is_offered_in_a_document_that_no_model_may_see(
    runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / ".blockdiffignore").write_text("*\n")
    uri = (tmp_path / "a.py").as_uri()

    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(EMPTY, uri)
            answer = await editor.text_document_code_action_async(
                types.CodeActionParams(
                    types.TextDocumentIdentifier(uri),
                    types.Range(types.Position(0, 0), types.Position(1, 8)),
                    types.CodeActionContext([]),
                )
            )
            assert not answer

    run(story())


FUNCTIONS = [
    ("a.py", "x = 1\ndef f(a):\n    return a\n", "return a", "return a"),
    ("a.py", "class A:\n    def f(self): pass\n", "pass", "pass"),
    ("a.js", "const f = (a) => {\n  return a\n}\n", "return", "\n  return a\n"),
    ("a.ts", "class A { f(): number { return 1 } }\n", "return", " return 1 "),
    ("a.go", "package m\nfunc f() int {\n\treturn 1\n}\n", "return", "\n\treturn 1\n"),
    ("a.rs", "fn f() -> u8 {\n    1\n}\n", "1\n", "\n    1\n"),
    ("a.c", "int f(void) {\n  return 1;\n}\n", "return", "\n  return 1;\n"),
    ("a.cpp", "int A::f() {\n  return 1;\n}\n", "return", "\n  return 1;\n"),
    ("a.java", "class A {\n  int f() {\n    return 1;\n  }\n}\n", "return", "\n    return 1;\n  "),
    ("a.lua", "local function f(a)\n  return a\nend\n", "return", "return a"),
]


@pytest.mark.parametrize(("path", "text", "cursor", "body"), FUNCTIONS)
def test_the_function_around_the_cursor(path: str, text: str, cursor: str, body: str) -> None:
    function = enclosing_function(text, text.index(cursor), path, "")
    assert function is not None
    assert text[function.body_start : function.body_end].strip("\n") == body.strip("\n")
    assert enclosing_function(text, 0, path, "cobol") is None


@pytest.mark.parametrize(
    ("text", "empty"),
    [
        ("def f():\n    pass\n", True),
        ("def f():\n    ...\n", True),
        ("def f():\n    # to do\n    pass\n", True),
        ("def f():\n    return 1\n", False),
    ],
)
def test_a_placeholder_is_an_empty_body(text: str, empty: bool) -> None:
    function = enclosing_function(text, 4, "a.py", "")
    assert function is not None and function.is_empty is empty


@pytest.mark.parametrize(("path", "text", "cursor", "body"), FUNCTIONS)
def test_where_documentation_goes(path: str, text: str, cursor: str, body: str) -> None:
    from blockdiff.grammars import language_of

    function = enclosing_function(text, text.index(cursor), path, "")
    assert function is not None
    place = documentation(function, text, language_of(path))
    if "def f(self): pass" in text:
        assert place is None
        return
    assert place is not None
    at, before, after = place
    documented = text[:at] + before + "Say what." + after + text[at:]
    assert broken_lines(documented, path, "", 0) is None
    again = enclosing_function(documented, documented.index(cursor), path, "")
    assert again is not None and (again.documented or path == "a.js")


@pytest.mark.parametrize(
    "text", ["def f():", "def f():\n", "def f():\n    \n", "def f(): # a\n    # b\n"]
)
def test_a_function_that_is_being_typed_has_a_head_only(text: str) -> None:
    function = enclosing_function(text, 2, "a.py", "python")
    assert function is not None
    assert (function.name, function.is_empty, function.documented) == ("f", True, False)


def test_every_action_has_a_label_and_a_kind_of_its_own() -> None:
    assert len({action.label for action in Action}) == len({action.kind for action in Action}) == 5
