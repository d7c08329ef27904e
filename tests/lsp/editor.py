"""An editor for tests: drives the real server over stdio and holds all it sends to the contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Union

import jsonschema
from cattrs import Converter
from lsprotocol import types
from pytest_lsp import LanguageClient
from pytest_lsp.protocol import LanguageClientProtocol

from blockdiff.client.endpoint import Runtime
from lsp_server.lenient import converter

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "tests" / "contract"
URI = "file:///project/area.py"
COMMAND = [sys.executable, "-m", "lsp_server"]

_NOTIFICATIONS = {"blockdiff/refinement": "refinement", "blockdiff/status": "status"}
_ANSWERS = ("blockdiff/infill", "blockdiff/rewrite")


def schema(name: str) -> jsonschema.Draft202012Validator:
    """The contract of a message."""
    value = json.loads((CONTRACT / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(value)
    return jsonschema.Draft202012Validator(value)


def _converter() -> Converter:
    """That of the server; a code action that carries a command is none, as lsprotocol takes it."""
    made = converter()

    def structured(value: Any, kind: Any) -> Any:
        bare = isinstance(value.get("command"), str)
        return made.structure(value, types.Command if bare else types.CodeAction)

    both = Union[types.Command, types.CodeAction]  # noqa: UP007 (what cattrs is asked for)
    made.register_structure_hook(both, structured)
    return made


class _Protocol(LanguageClientProtocol):
    def _send_data(self, data: Any) -> None:
        if self.writer is not None:
            super()._send_data(data)


class Editor(LanguageClient):
    """Attributes:
    refinements, statuses: as received.
    registered: what the server has asked to be told.
    edits: applied on the server's demand.
    refusal: why none is; empty: they are.
    """

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        super().__init__(protocol_cls=_Protocol, converter_factory=_converter)
        self.settings: Any = settings or {}
        self.refinements: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.registered: list[types.Registration] = []
        self.refusal = ""
        self.edits: list[types.ApplyWorkspaceEditParams] = []
        self._schemas = {name: schema(file) for name, file in _NOTIFICATIONS.items()}
        self._outcome = schema("outcome")
        self.watch: Callable[[dict[str, Any]], None] = lambda refinement: None

        @self.feature("blockdiff/refinement")
        def refinement(params: Any) -> None:
            self._schemas["blockdiff/refinement"].validate(params)
            self.refinements.append(params)
            self.watch(params)

        @self.feature("blockdiff/status")
        def status(params: Any) -> None:
            self._schemas["blockdiff/status"].validate(params)
            self.statuses.append(params)

        @self.feature(types.WORKSPACE_APPLY_EDIT)
        def apply(params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
            if self.refusal:
                return types.ApplyWorkspaceEditResult(False, failure_reason=self.refusal)
            self.edits.append(params)
            return types.ApplyWorkspaceEditResult(applied=True)

        @self.feature(types.WORKSPACE_CONFIGURATION)
        def configuration(params: types.ConfigurationParams) -> list[Any]:
            return [self.settings if i.section == "blockdiff" else None for i in params.items]

        @self.feature(types.CLIENT_REGISTER_CAPABILITY)
        def register(params: types.RegistrationParams) -> None:
            self.registered += params.registrations

        @self.feature(types.WINDOW_WORK_DONE_PROGRESS_CREATE)
        def created(params: types.WorkDoneProgressCreateParams) -> None:
            self.progress_reports.setdefault(params.token, [])

        @self.feature(types.PROGRESS)
        def progressed(params: types.ProgressParams) -> None:
            self.progress_reports.setdefault(params.token, []).append(params.value)

        @self.feature(types.WINDOW_SHOW_MESSAGE)
        def shown(params: types.ShowMessageParams) -> None:
            self.messages.append(params)

    async def ask(self, method: str, params: Any, number: str | None = None) -> Any:
        """A request of our own; its answer is held to the contract. Raises JsonRpcException."""
        answer = await self.protocol.send_request_async(method, params, msg_id=number)
        if method in _ANSWERS:
            self._outcome.validate(answer)
        return answer

    def cancel(self, number: str) -> None:
        self.protocol.notify(types.CANCEL_REQUEST, types.CancelParams(id=number))

    def open(self, text: str, uri: str = URI, language: str = "python", version: int = 1) -> None:
        item = types.TextDocumentItem(uri, language, version, text)
        self.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def close(self, uri: str = URI) -> None:
        self.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
        )

    def save(self, uri: str) -> None:
        self.text_document_did_save(
            types.DidSaveTextDocumentParams(types.TextDocumentIdentifier(uri))
        )

    def change(
        self, start: tuple[int, int], end: tuple[int, int], text: str, version: int, uri: str = URI
    ) -> None:
        partial = types.TextDocumentContentChangePartial(
            types.Range(types.Position(*start), types.Position(*end)), text
        )
        self.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(uri=uri, version=version), [partial]
            )
        )


def hole(start: tuple[int, int], end: tuple[int, int] | None = None) -> dict[str, Any]:
    """A range as JSON."""
    end = end or start
    return {
        "start": {"line": start[0], "character": start[1]},
        "end": {"line": end[0], "character": end[1]},
    }


def infill(*holes: dict[str, Any], uri: str = URI, version: int = 1, **rest: Any) -> dict[str, Any]:
    return {"textDocument": {"uri": uri, "version": version}, "holes": list(holes), **rest}


def rewrite(span: dict[str, Any], uri: str = URI, version: int = 1, **rest: Any) -> dict[str, Any]:
    return {"textDocument": {"uri": uri, "version": version}, "range": span, **rest}


def capabilities(encoding: str = "utf-16") -> types.ClientCapabilities:
    """What VS Code says of itself, as far as this server looks at it."""
    return types.ClientCapabilities(
        general=types.GeneralClientCapabilities(
            position_encodings=[types.PositionEncodingKind(encoding)]
        ),
        window=types.WindowClientCapabilities(work_done_progress=True),
        experimental={"blockdiff": {"refinement": True, "status": True}},  # type: ignore[arg-type]
        workspace=types.WorkspaceClientCapabilities(
            configuration=True,
            apply_edit=True,
            did_change_configuration=types.DidChangeConfigurationClientCapabilities(
                dynamic_registration=True
            ),
            workspace_edit=types.WorkspaceEditClientCapabilities(
                document_changes=True,
                change_annotation_support=types.ChangeAnnotationsSupportOptions(),
            ),
        ),
        text_document=types.TextDocumentClientCapabilities(
            inline_completion=types.InlineCompletionClientCapabilities(),
            code_action=types.CodeActionClientCapabilities(
                data_support=True,
                resolve_support=types.ClientCodeActionResolveOptions(properties=["edit"]),
                code_action_literal_support=types.ClientCodeActionLiteralOptions(
                    code_action_kind=types.ClientCodeActionKindOptions(value_set=[])
                ),
            ),
        ),
    )


@contextlib.asynccontextmanager
async def editing(
    runtime: Runtime,
    *,
    encoding: str = "utf-16",
    settings: dict[str, Any] | None = None,
    can: types.ClientCapabilities | None = None,
    arguments: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    folder: Path = ROOT,
    workspace: Path | None = None,
) -> AsyncIterator[Editor]:
    """An editor in `folder` with a server of its own, initialized; both are gone at the end.

    `workspace` is the folder that is open in it; None: there is none.
    """
    editor = Editor(settings)
    environment = {**os.environ, "BLOCKDIFF_RUNTIME": str(runtime.folder), **(environment or {})}
    await editor.start_io(*COMMAND, *arguments, env=environment, cwd=folder)
    try:
        await editor.initialize_session(
            types.InitializeParams(
                capabilities=can or capabilities(encoding),
                workspace_folders=workspace
                and [types.WorkspaceFolder(workspace.as_uri(), workspace.name)],
            )
        )
        yield editor
    finally:
        await asyncio.wait_for(editor.shutdown_session(), 20)
        await editor.stop()


def run(story: Coroutine[Any, Any, None], seconds: float = 120) -> None:
    asyncio.run(asyncio.wait_for(story, seconds))
