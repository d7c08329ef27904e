"""The handlers: parse, delegate, convert; nothing else."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from blockdiff.errors import BlockdiffError
from blockdiff.types import no_op
from lsp_server import messages
from lsp_server.actions import COMMAND, Action, ActionParams, Offer
from lsp_server.configuration import NOTHING, SECTION, Configuration, registrations
from lsp_server.document import Encoding
from lsp_server.failures import to_protocol
from lsp_server.messages import InfillParams, RewriteParams
from lsp_server.protocol import position_from, range_from, range_to
from lsp_server.server import Server
from lsp_server.uris import file_of
from lsp_server.workdone import work_done

_R = TypeVar("_R")


def create(runtime: Runtime | None = None) -> Server:
    """A server with all its features."""
    server = Server(runtime)
    _add_life(server)
    _add_documents(server)
    _add_requests(server)
    _add_actions(server)
    return server


def advertised(capabilities: types.ClientCapabilities) -> dict[str, Any]:
    """The result of `initialize` as JSON, as a server makes it for a client of such abilities."""
    server = create(Runtime(Path()))
    answer = server.protocol.lsp_initialize(types.InitializeParams(capabilities=capabilities))
    try:
        handler, arguments, _ = next(answer)
        handler(*arguments)
        answer.send(None)
    except StopIteration as end:
        return dict(server.protocol._converter.unstructure(end.value))
    raise AssertionError("initialize has no answer")


def _typed(handler: Callable[..., Awaitable[_R]]) -> Callable[..., Awaitable[_R]]:
    """Our errors as errors of the protocol."""

    @functools.wraps(handler)
    async def wrapped(*args: Any) -> _R:
        try:
            return await handler(*args)
        except BlockdiffError as error:
            raise to_protocol(error) from None

    return wrapped


def _add_life(server: Server) -> None:
    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        chosen = types.PositionEncodingKind(server.workspace.position_encoding)
        server.documents.encoding = Encoding(chosen.value)
        server.wishes = _wishes(params.capabilities)

    configuration = Configuration(lambda: _asked_settings(server), server.configure)

    @server.feature(types.INITIALIZED)
    async def initialized(params: types.InitializedParams) -> None:
        try:
            await configuration.pull()
        finally:  # whatever is wrong with them: nobody waits for others
            server.configured.set()
        if wanted := registrations(server.client_capabilities.workspace):
            with contextlib.suppress(JsonRpcException):
                await server.client_register_capability_async(types.RegistrationParams(wanted))

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def changed(params: types.DidChangeConfigurationParams) -> None:
        server.configured.clear()
        try:
            await configuration.changed(params.settings)
        finally:
            server.configured.set()

    @server.feature(types.SHUTDOWN)
    async def shutdown(params: None) -> None:
        server.warmer.stop()
        await server.counting.aclose()
        await server.workspaces.aclose()
        server.missed.save()
        await server.delivery.stop()
        await server.engine.aclose()


async def _asked_settings(server: Server) -> Any:
    """What the client answers for our section; NOTHING if it cannot be asked."""
    workspace = server.client_capabilities.workspace
    if workspace is None or not workspace.configuration:
        return NOTHING
    items = [types.ConfigurationItem(section=SECTION)]
    try:
        answer = await server.workspace_configuration_async(types.ConfigurationParams(items))
    except JsonRpcException:
        return NOTHING
    return answer[0] if isinstance(answer, (list, tuple)) and answer else None


def _add_documents(server: Server) -> None:
    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(params: types.DidOpenTextDocumentParams) -> None:
        document = server.documents.get(params.text_document.uri)
        server.ring.note(document, 0)
        server.edits.opened(document)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: types.DidChangeTextDocumentParams) -> None:
        document = server.documents.get(params.text_document.uri)
        last = params.content_changes[-1] if params.content_changes else None
        if isinstance(last, types.TextDocumentContentChangePartial):
            lines = last.text.count("\n")
            server.ring.note(document, last.range.start.line + lines)
            server.edits.note(document, last.range.start.line + lines)
            server.warmer.rest_behind(document, last)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.ring.forget(uri)
        server.edits.forget(uri)
        server.places.forget(uri)
        server.inline.forget(uri)
        server.warmer.forget(uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def saved(params: types.DidSaveTextDocumentParams) -> None:
        if (path := file_of(params.text_document.uri)) is not None:
            server.workspaces.changed([path])

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def watched(params: types.DidChangeWatchedFilesParams) -> None:
        paths = [path for change in params.changes if (path := file_of(change.uri)) is not None]
        server.workspaces.changed(paths)

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    def folders(params: types.DidChangeWorkspaceFoldersParams) -> None:
        gone, new = params.event.removed, params.event.added
        server.protocol.folders = [
            *(path for path in server.protocol.folders if path not in _folders(gone)),
            *_folders(new),
        ]
        server.close(_folders(gone))
        server.open(_folders(new))


def _folders(found: Sequence[types.WorkspaceFolder]) -> list[Path]:
    return [path for folder in found if (path := file_of(folder.uri)) is not None]


def _add_requests(server: Server) -> None:
    @server.feature(messages.INFILL)
    @_typed
    async def infill(params: Any) -> Any:
        asked = messages.read(InfillParams, params)
        async with _reported(server, asked.work_done_token) as progress:
            return messages.write(await server.sessions.infill(asked, progress))

    @server.feature(messages.REWRITE)
    @_typed
    async def rewrite(params: Any) -> Any:
        asked = messages.read(RewriteParams, params)
        async with _reported(server, asked.work_done_token) as progress:
            return messages.write(await server.sessions.rewrite(asked, progress))

    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    @_typed
    async def inline(params: types.InlineCompletionParams) -> types.InlineCompletionList:
        asked = params.context.trigger_kind
        invoked = asked in (types.InlineCompletionTriggerKind.Invoked, 0)  # 0 in earlier drafts
        await server.with_settings()
        edits = await server.inline.complete(
            params.text_document.uri, position_from(params.position), invoked=invoked
        )
        return types.InlineCompletionList(
            [types.InlineCompletionItem(e.new_text, range=range_to(e.range)) for e in edits]
        )


def _add_actions(server: Server) -> None:
    @server.feature(
        types.TEXT_DOCUMENT_CODE_ACTION,
        types.CodeActionOptions(
            code_action_kinds=[action.kind for action in Action], resolve_provider=True
        ),
    )
    @_typed
    async def offer(
        params: types.CodeActionParams,
    ) -> list[types.CodeAction | types.Command]:
        span, only = range_from(params.range), params.context.only
        server.warmer.rest_at(server.documents.get(params.text_document.uri), span.end)
        if only and not any(_covers(kind, action) for kind in only for action in Action):
            return []
        found = server.actions.available(params.text_document.uri, span)
        return [
            _code_action(server, offered, params)
            for offered in found
            if not only or any(_covers(kind, offered.action) for kind in only)
        ]

    @server.feature(types.CODE_ACTION_RESOLVE)
    @_typed
    async def resolve(action: types.CodeAction) -> types.CodeAction:
        asked = messages.read(ActionParams, action.data)
        action.edit = await server.delivery.edit(asked, server.actions.plan(asked))
        return action

    @server.command(COMMAND)
    @_typed
    async def run(params: types.ExecuteCommandParams) -> None:
        """`blockdiff.run` with one argument as `ActionParams`; the edit is applied when it is
        there, the answer does not wait for it."""
        asked = messages.read(ActionParams, (params.arguments or [None])[0])
        server.delivery.apply(asked, server.actions.plan(asked), params.work_done_token)


def _reported(server: Server, token: str) -> contextlib.AbstractAsyncContextManager[Any]:
    """Our plugins see refinements; progress goes to those that gave a token for it."""
    if token:
        return work_done(server, "blockdiff", token)
    return contextlib.nullcontext(no_op)


def _covers(kind: str, action: Action) -> bool:
    """Whether a kind that a client asks for is that of an action or one above it."""
    return kind in ("", action.kind) or action.kind.startswith(f"{kind}.")


def _code_action(
    server: Server, offer: Offer, params: types.CodeActionParams
) -> types.CodeAction | types.Command:
    """As much of a code action as the client understands."""
    document = server.documents.get(params.text_document.uri)
    asked = ActionParams(
        offer.action,
        messages.DocumentId(document.uri, document.version or 0),
        range_from(params.range),
    )
    command = types.Command(offer.title, COMMAND, arguments=[messages.write(asked)])
    text_document = server.client_capabilities.text_document
    support = text_document and text_document.code_action
    if not (support and support.code_action_literal_support):
        return command
    made = types.CodeAction(offer.title, kind=offer.action.kind)
    resolve = support.resolve_support
    if resolve and "edit" in resolve.properties and support.data_support:
        made.data = messages.write(asked)
    else:
        made.command = command
    return made


def _wishes(capabilities: types.ClientCapabilities) -> frozenset[str]:
    """Which of our notifications a client understands: those it has said that it wants."""
    experimental: Any = capabilities.experimental
    wishes = experimental.get("blockdiff") if isinstance(experimental, dict) else None
    if not isinstance(wishes, dict):
        return frozenset()
    named = {"refinement": messages.REFINEMENT, "status": messages.STATUS}
    return frozenset(method for name, method in named.items() if wishes.get(name) is True)
