"""Clients that know a later protocol, or send what its types do not list: raw messages."""

from __future__ import annotations

from typing import Any

import pytest

from blockdiff.client.endpoint import Runtime
from lsp_server.lenient import converter, initialize_request
from tests.lsp.editor import hole
from tests.lsp.raw import URI, Raw
from tests.unit.scripted_service import ScriptedEngine

Scripted = tuple[Runtime, ScriptedEngine]

EDIT = {"resourceOperations": ["create", "teleport"], "failureHandling": "pray"}
ACTIONS = {"codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["refactor", "refine"]}}}


@pytest.mark.parametrize(
    ("capabilities", "params"),
    [
        ({"workspace": {"workspaceEdit": EDIT}}, {}),
        ({"workspace": {"symbol": {"symbolKind": {"valueSet": [1, 99]}}}}, {}),
        ({"textDocument": {"codeAction": ACTIONS, "completion": {
            "completionItem": {"insertTextModeSupport": {"valueSet": [7]}}}}}, {}),
        ({"textDocument": {"foldingRange": {"foldingRangeKind": {"valueSet": ["fan"]}}}}, {}),
        ({"textDocument": {"semanticTokens": {"formats": ["absolute"]}}}, {}),
        ({"general": {"positionEncodings": ["utf-9", "utf-8"]}}, {}),
        ({}, {"trace": "compact", "locale": {"language": "de"}}),
        ({"textDocument": {"rename": {"prepareSupportDefaultBehavior": [1, 2]}}}, {}),
        ({"workspace": [], "general": 3}, {"rootUri": 7, "workspaceFolders": [{"name": "x"}, 5]}),
        ({"textDocument": {"completion": {"completionItem": {"tagSupport": {}}}}}, {}),
        ({}, {"processId": "me", "clientInfo": {"version": 3}, "rootPath": "//"}),
    ],
)  # fmt: skip
def test_whatever_initialize_lists_is_answered_once_and_the_server_works(
    scripted: Scripted, capabilities: dict[str, Any], params: dict[str, Any]
) -> None:
    raw = Raw(scripted[0])
    try:
        raw.start("x = \n", capabilities=capabilities, **params)
        assert raw.fill((0, 4), max_tokens=1)["result"]["edits"]
        assert raw.stop() == 0
    finally:
        raw.process.kill()


def test_what_can_be_read_of_initialize_is_kept() -> None:
    params = {
        "processId": None,
        "rootUri": 5,
        "capabilities": {
            "workspace": {
                "configuration": True,
                "workspaceEdit": {"documentChanges": True, "resourceOperations": ["x", 3, "y", 4]},
                "symbol": {"symbolKind": {"valueSet": "all"}},
            },
            "window": {"workDoneProgress": True, "showDocument": {}},
        },
    }
    read = initialize_request({"id": 1, "params": params}).params
    workspace, window = read.capabilities.workspace, read.capabilities.window
    assert workspace and workspace.workspace_edit and window
    assert workspace.configuration is True and window.work_done_progress is True
    assert workspace.workspace_edit.document_changes is True
    assert list(workspace.workspace_edit.resource_operations or ()) == ["x", "y"]
    assert read.root_uri is None


@pytest.mark.parametrize(
    ("diagnostic", "kind"),
    [
        ({"severity": 9}, None),
        ({"tags": [1, 77]}, None),
        ({"severity": 0, "code": 3, "codeDescription": {"href": "x"}}, 4),
        ({}, 99),
        ({"message": {"kind": "markdown", "value": "**m**"}}, None),
        ({"relatedInformation": [{"message": "m"}]}, None),
    ],
)
def test_a_diagnostic_that_is_not_as_listed_refuses_no_code_action(
    scripted: Scripted, diagnostic: dict[str, Any], kind: int | None
) -> None:
    raw = Raw(scripted[0])
    try:
        raw.start("x = 1\n", {"textDocument": {"codeAction": ACTIONS}})
        span = hole((0, 4), (0, 5))
        context = {"diagnostics": [{"range": span, "message": "m", **diagnostic}]}
        number = raw.request("textDocument/codeAction", {
            "textDocument": {"uri": URI}, "range": span,
            "context": {**context, **({"triggerKind": kind} if kind else {})}})  # fmt: skip
        resolved = raw.request("codeAction/resolve", {
            "title": "x", "kind": "later", "tags": [9], "diagnostics": context["diagnostics"],
            "data": {"action": "fill", "textDocument": {"uri": URI}, "range": span}})  # fmt: skip
        answers = raw.answers({number, resolved})
        assert answers[number]["result"]
        assert answers[resolved]["result"]["edit"]
        assert answers[resolved]["result"]["diagnostics"] == context["diagnostics"]
        assert raw.stop() == 0
    finally:
        raw.process.kill()


@pytest.mark.parametrize("bad", [3, "x", [1], {"line": "1", "character": 0}, {"line": 1.5}])
def test_a_position_of_the_wrong_shape_is_an_error_of_its_request(bad: Any) -> None:
    from lsprotocol import types

    with pytest.raises(Exception):  # noqa: B017 (any of those cattrs lets through)
        converter().structure(bad, types.Position)
