"""Code actions and commands: blockdiff for an editor without our plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from blockdiff.syntax.grammars import language_of
from blockdiff.types import Extent, InfillRequest
from lsp_server.actions import Action
from lsp_server.constructs import documentation, enclosing_function
from lsp_server.faults import faults
from tests.editors.nvim.script import Scripted
from tests.lsp.editor import URI, Editor, capabilities, editing, hole, run
from tests.unit.scripted_service import until

Writer = tuple[Runtime, Scripted]

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


async def menu(editor: Editor, start: tuple[int, int], end: tuple[int, int]) -> list[Any]:
    """Code actions as they come."""
    return list(
        await editor.text_document_code_action_async(
            types.CodeActionParams(
                types.TextDocumentIdentifier(URI),
                types.Range(types.Position(*start), types.Position(*end)),
                types.CodeActionContext([]),
            )
        )
        or []
    )


def ended(editor: Editor) -> bool:
    """Whether some progress is over."""
    return any(
        report["kind"] == "end" for all in editor.progress_reports.values() for report in all
    )


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
        ("if x:\nprint(x)\n", (1, 0), (1, 0), {"fix"}),
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
            assert set(await offered(editor, start, end, only=[""])) >= expected  # all kinds
            some = await offered(editor, start, end, only=["refactor.rewrite.blockdiff.fill"])
            assert set(some) == expected & {"fill"}

    run(story())


def test_an_action_is_worked_out_when_it_is_chosen(writer: Writer) -> None:
    writer[1].writes("return width * height")

    async def story() -> None:
        async with editing(writer[0], settings=SHORT) as editor:
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
            assert edit.new_text == "return width * height"
            assert (edit.range.start.line, edit.range.end) == (1, types.Position(1, 8))
            assert resolved.edit.change_annotations
            assert edit.annotation_id in resolved.edit.change_annotations

    run(story())


def test_a_client_that_resolves_no_edits_gets_a_command_that_applies_one(writer: Writer) -> None:
    can = capabilities()
    assert can.text_document and can.text_document.code_action and can.workspace
    can.text_document.code_action.resolve_support = None
    can.workspace.workspace_edit = None
    writer[1].writes("return width * height")

    async def story() -> None:
        async with editing(writer[0], settings=SHORT, can=can) as editor:
            editor.open(EMPTY)
            answer = await menu(editor, (1, 4), (1, 4))
            made = answer[0].command
            assert made.command == "blockdiff.run"
            assert await command(editor, made.arguments[0]) is None
            await until(lambda: bool(editor.edits))
            (applied,) = editor.edits
            assert applied.edit.changes and list(applied.edit.changes) == [URI]
            assert applied.edit.changes[URI][0].new_text == "return width * height"
            await until(lambda: ended(editor))
            reports = [v for values in editor.progress_reports.values() for v in values]
            assert reports[0]["kind"] == "begin"

    run(story())


def test_a_client_that_knows_no_code_actions_gets_commands(writer: Writer) -> None:
    can = capabilities()
    assert can.text_document and can.text_document.code_action
    can.text_document.code_action.code_action_literal_support = None
    writer[1].writes("return width * height")

    async def story() -> None:
        async with editing(writer[0], can=can) as editor:
            editor.open(EMPTY)
            made = [action for action in await menu(editor, (1, 4), (1, 4))]
            assert [(c.title, c.command) for c in made] == [
                ("Complete the body of the function", "blockdiff.run"),
                ("Add documentation to the function", "blockdiff.run"),
            ]
            await command(editor, made[0].arguments[0])
            await until(lambda: bool(editor.edits))

    run(story())


def test_a_docstring_is_written_between_its_quotes(writer: Writer) -> None:
    writer[1].writes("Say one.")

    async def story() -> None:
        async with editing(writer[0], settings=SHORT) as editor:
            editor.open("class A:\n    def f(self):\n        return 1\n")
            await command(editor, argument("docstring", hole((2, 8))))
            await until(lambda: bool(editor.edits))
            (edit,) = editor.edits[0].edit.document_changes[0].edits  # type: ignore[index,union-attr]
            assert edit.new_text == '"""Say one."""\n        '
            assert edit.range.start == edit.range.end == types.Position(2, 8)

    run(story())
    (request,) = writer[1].requests
    assert isinstance(request, InfillRequest) and request.extent is Extent.DELIMITER
    seen = request.prefix + "|" + request.suffix
    assert seen == 'class A:\n    def f(self):\n        """|"""\n        return 1\n'


def test_a_document_with_crlf_gets_crlf(writer: Writer) -> None:
    writer[1].writes("Say one.")

    async def story() -> None:
        async with editing(writer[0], settings=SHORT) as editor:
            editor.open("def f():\r\n    return 1\r\n")
            await command(editor, argument("docstring", hole((0, 0))))
            await until(lambda: bool(editor.edits))
            (edit,) = editor.edits[0].edit.document_changes[0].edits  # type: ignore[index,union-attr]
            assert edit.new_text == '"""Say one."""\r\n    '

    run(story())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the value must be an object"),
        (argument("explode", hole((0, 0))), "action must be one of fill, complete"),
        (argument("fix", hole((0, 0))), "nothing here fails to parse"),
        (argument("complete", hole((4, 0))), "no function around the cursor"),
        (argument("complete", hole((7, 0))), "the function has a body"),
        (argument("docstring", hole((7, 0))), "the function is documented"),
        (argument("fill", hole((0, 0)), version=9), "the document is at 1"),
        (argument("fill", hole((99, 0))), "line 99 is outside"),
        (argument("rewrite", hole((2, 0), (3, 0))), "no text to rewrite"),
    ],
)
def test_a_command_with_a_bad_argument_is_a_typed_error(
    runtime: Runtime, value: Any, message: str
) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(EMPTY + '\n\ndef f():\n    """Say."""\n    return 1\n')
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
    function = enclosing_function(text, text.index(cursor), language_of(path))
    assert function is not None
    assert text[function.body_start : function.body_end].strip("\n") == body.strip("\n")
    assert enclosing_function(text, 0, "cobol") is None


# A function, and what stands around the hole for its body; None: it has one.
BODIES = [
    ("a.py", "def f():\n    pass\n", "def f():\n    |\n"),
    ("a.py", "def f():\n    ...\n", "def f():\n    |\n"),
    ("a.py", "def f(): ...\n", "def f(): |\n"),
    ("a.py", "def f():\n    raise NotImplementedError\n", "def f():\n    |\n"),
    ("a.py", 'def f():\n    """The area."""\n    ...\n', 'def f():\n    """The area."""\n    |\n'),
    ("a.py", 'def f():\n    """The area."""\n    pass\n', 'def f():\n    """The area."""\n    |\n'),
    (
        "a.py",
        'def f():\n    """A."""\n    raise NotImplementedError("later")  # soon\n',
        'def f():\n    """A."""\n    |  # soon\n',
    ),
    ("a.py", 'def f():\n    """A."""\n', 'def f():\n    """A."""\n    |\n'),
    ("a.py", "def f():\n    # to do\n    pass\n", "def f():\n    # to do\n    |\n"),
    ("a.py", "def f():\n    # to do\n", "def f():\n    # to do\n    |\n"),
    ("a.py", "def f():\n    \n", "def f():\n    |\n"),
    ("a.py", "def f():\n    return 1\n", None),
    ("a.py", 'def f():\n    """A."""\n    x = 1\n    pass\n', None),
    ("a.py", "def f():\n    raise ValueError('x')\n", None),
    ("a.py", "def f(x):\n    return (x + 1\n\n\nprint(f(2))\n", None),
    ("a.rs", "fn f() -> u8 {\n    todo!()\n}\n", "fn f() -> u8 {\n    |\n}\n"),
    ("a.rs", "fn f() {\n    unimplemented!(\"a\");\n}\n", "fn f() {\n    |\n}\n"),
    ("a.rs", "fn f() {\n    panic!(\"bad value\")\n}\n", None),
    ("a.js", "function f() {\n  throw new Error('not implemented');\n}\n",
     "function f() {\n  |\n}\n"),
    ("a.js", "function f() {\n  throw new Error('too small');\n}\n", None),
    ("a.js", "function f() {}\n", "function f() {\n    |\n}\n"),
    ("a.js", "const f = (a) => a;\n", None),
    ("a.js", "function f(a) {\n  return (a + 1;\n}\nf(2);\n", None),
    ("a.ts", "class A {\n  f(): void {\n    throw new Error('Method not implemented.');\n  }\n}\n",
     "class A {\n  f(): void {\n    |\n  }\n}\n"),
    ("a.go", "func f() {\n\tpanic(\"not implemented\")\n}\n", "func f() {\n\t|\n}\n"),
    ("a.go", "func f() {\n\t// sum\n}\n", "func f() {\n\t// sum\n\t|\n}\n"),
    ("a.go", "func f() int {\n\treturn 1\n}\n", None),
    ("a.java", "class A {\n  int f() {\n    throw new NotImplementedException();\n  }\n}\n",
     "class A {\n  int f() {\n    |\n  }\n}\n"),
    ("a.c", "int f(void) {\n}\n", "int f(void) {\n    |\n}\n"),
    ("a.c", "int f(int a) {\n  assert(a);\n}\n", None),
    ("a.cpp", "int f() {\n  throw std::logic_error(\"not implemented\");\n}\n",
     "int f() {\n  |\n}\n"),
    ("a.lua", "local function f(a)\n  error(\"not implemented\")\nend\n",
     "local function f(a)\n  |\nend\n"),
    ("a.lua", "local function f(a)\nend\n", "local function f(a)\n    |\nend\n"),
    ("a.lua", "local function f(a)\n  return a\nend\n", None),
    ("a.py", "def f():\n    raise Exception('not implemented yet')\n", "def f():\n    |\n"),
    ("a.py", "def f():\n    # TODO: sum\n    return None\n", "def f():\n    # TODO: sum\n    |\n"),
    ("a.py", "def f():\n    # the sum\n    return None\n", None),
    ("a.c", "int f(void) {\n  assert(0 && \"not implemented\");\n}\n", "int f(void) {\n  |\n}\n"),
    ("a.go", "func f() error {\n\treturn errors.New(\"not implemented\")\n}\n",
     "func f() error {\n\t|\n}\n"),
    ("a.java", "class A {\n  int f() {\n    // TODO Auto-generated stub\n    return 0;\n  }\n}\n",
     "class A {\n  int f() {\n    // TODO Auto-generated stub\n    |\n  }\n}\n"),
    ("a.js", "function f() {\n  return null;\n}\n", None),
]  # fmt: skip

# Where a cursor is in a function that begins in its line; `¦` is the cursor, then the name.
BEGUN = [
    ("a.js", "¦const f = () => {\n};\n", "const f"),
    ("a.js", "function g() {\n  ¦const f = () => {\n  };\n}\n", "const f"),
    ("a.js", "function g() {\n  ¦run(() => {\n  });\n}\n", "function g"),
    ("a.js", "function g() {\n  const f = () => run(() => {¦\n  });\n}\n", "() => {"),
    ("a.ts", "¦export const f = async () => {\n};\n", "export const f"),
    ("a.py", "@¦cache\ndef f():\n    pass\n", "def f"),
    ("a.rs", "¦#[inline]\nfn f() {\n}\n", "#[inline]\nfn f"),
    ("a.cpp", "¦template <class T>\nT f(T a) {\n}\n", "template <class T>\nT f"),
    ("a.go", "package a\n\n¦var f = func() int { return 1 }\n", "var f"),
    ("a.lua", "¦local f = function()\nend\n", "local f"),
]


@pytest.mark.parametrize(("path", "marked", "begin"), BEGUN)
def test_a_function_is_found_from_all_of_its_first_line(path: str, marked: str, begin: str) -> None:
    text, at = marked.replace("¦", ""), marked.index("¦")
    function = enclosing_function(text, at, language_of(path))
    assert function is not None and text.startswith(begin, function.start)


@pytest.mark.parametrize(("path", "text", "around"), BODIES)
def test_where_a_body_is_written(path: str, text: str, around: str | None) -> None:
    for at in (max(text.find("f("), 0), max(text.rfind("\n", 0, -1), 0), len(text) - 1):
        function = enclosing_function(text, at, language_of(path))
        if function is None:  # in another line than the function
            continue
        blank = function.blank
        assert (blank is None) is (around is None)
        if blank is not None:
            holed = text[: blank.start] + blank.before + "|" + blank.after + text[blank.end :]
            assert holed == around


@pytest.mark.parametrize(("path", "text", "cursor", "body"), FUNCTIONS)
def test_where_documentation_goes(path: str, text: str, cursor: str, body: str) -> None:
    function = enclosing_function(text, text.index(cursor), language_of(path))
    assert function is not None
    place = documentation(function, text, language_of(path))
    if "def f(self): pass" in text:
        assert place is None
        return
    assert place is not None
    at = place.start
    documented = text[:at] + place.before + "Say what." + place.after + text[at:]
    assert not faults(documented, language_of(path))
    again = enclosing_function(documented, documented.index(cursor), language_of(path))
    assert again is not None and (again.documented or path == "a.js")


@pytest.mark.parametrize(
    "text", ["def f():", "def f():\n", "def f():\n    \n", "def f(): # a\n    # b\n"]
)
def test_a_function_that_is_being_typed_has_a_head_only(text: str) -> None:
    function = enclosing_function(text, 2, "python")
    assert function is not None
    assert (function.name, function.is_empty, function.documented) == ("f", True, False)


def test_every_action_has_a_label_and_a_kind_of_its_own() -> None:
    assert len({action.label for action in Action}) == len({action.kind for action in Action}) == 5
