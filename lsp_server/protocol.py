"""JSON-RPC as pygls speaks it, mended where an editor would suffer.

A request that cannot be read gets an error for an answer, not silence; commands can be cancelled;
documents are ours; and no message, which is to say no source text, is ever logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import (
    JsonRPCNotification,
    JsonRPCRequestMessage,
    JsonRPCResponseMessage,
    LanguageServerProtocol,
    lsp_method,
)

from lsp_server import lenient, parent
from lsp_server.document import Position, Range
from lsp_server.documents import Documents
from lsp_server.failures import INVALID_PARAMS
from lsp_server.uris import file_of

_log = logging.getLogger("blockdiff.lsp")

_INVALID_REQUEST = -32600
_NOT_INITIALIZED = -32002
_PATIENCE_SECONDS = 2.0  # with what runs when the client is gone


class Protocol(LanguageServerProtocol):
    """Attributes:
    documents: those that are open.
    folders: of the workspace, as the client has opened them.
    answered: id of an `initialize` request that has had its answer.
    """

    def __init__(self, server: Any, converter: Any) -> None:
        self.documents = Documents()
        self.folders: list[Path] = []
        self.answered: int | str | None = None
        self._leaving = False
        self._asked: set[int | str] = set()  # ids of requests to the client, not answered yet
        self._watch: asyncio.Task[None] | None = None
        super().__init__(server, converter)

    @property
    def exit_status(self) -> int:
        """Of the process: 0 only for a client that has asked for `shutdown`."""
        return 0 if self._shutdown or self._leaving else 1

    def structure_message(self, data: dict[str, Any]) -> Any:
        """Leaves every object as it is: pygls calls this for those inside of a message, too."""
        return data

    def handle_message(self, message: Any) -> None:
        """Dispatch a message; requests outside of the server's life are refused."""
        if not isinstance(message, dict):
            return
        method, is_request = message.get("method"), "id" in message and "method" in message
        number = message.get("id")
        if is_request and not _is_id(number):
            return self._answer_error(None, "the id of a request is a number or a text")
        if is_request and (message.get("jsonrpc") != "2.0" or not isinstance(method, str)):
            return self._answer_error(number, "this is no request of JSON-RPC 2.0")
        method = method if isinstance(method, str) else ""
        if method == types.EXIT and self._leaving:
            self._shutdown = True  # asked for, if not over yet: no reason to exit with an error
        if method != types.EXIT and (refusal := self._out_of_place(method)):
            if is_request:
                self._send_response(number, error=refusal.to_response_error())
            return
        if not is_request and "id" in message:
            if not _is_id(number) or number not in self._asked:
                return  # nobody has asked for this
            self._asked.discard(number)
        self._leaving = self._leaving or method == types.SHUTDOWN
        try:
            structured = self._structured(message, method)
        except Exception as error:  # any of those that a wrong value meets on its way
            if method:
                return self._refuse(method, number if is_request else None, error)
            structured = JsonRPCResponseMessage(message["id"], "2.0", message.get("result"))
        super().handle_message(structured)

    def _structured(self, message: dict[str, Any], method: str) -> Any:
        """A message as the types of the protocol have it."""
        if method == types.INITIALIZE:
            return lenient.initialize_request(message)
        kind: type = JsonRPCNotification
        if "id" not in message:
            kind = self.get_message_type(method) or kind
        elif method:
            kind = self.get_message_type(method) or JsonRPCRequestMessage
        elif "error" in message:
            kind = types.ResponseErrorMessage
        else:
            kind = self._result_types.pop(message["id"], None) or JsonRPCResponseMessage
        return self._converter.structure(message, kind)

    def send_request(self, method: str, params: Any = None, callback: Any = None,
                     msg_id: Any = None) -> Any:  # fmt: skip
        number = str(uuid.uuid4()) if msg_id is None else msg_id
        self._asked.add(number)
        return super().send_request(method, params, callback, number)

    def _out_of_place(self, method: str) -> JsonRpcException | None:
        if self._shutdown:
            return JsonRpcException("the server was shut down", _INVALID_REQUEST)
        if self._workspace is None:
            if method and method != types.INITIALIZE:
                return JsonRpcException("send `initialize` first", _NOT_INITIALIZED)
        elif method == types.INITIALIZE:
            return JsonRpcException("the server is initialized already", _INVALID_REQUEST)
        return None

    def _refuse(self, method: str, number: int | str | None, error: Exception) -> None:
        """Answer a request whose parameters have the wrong shape; report a notification."""
        _log.warning("unreadable message: %s (%s)", method[:80] or "?", type(error).__name__)
        if number is not None:
            refusal = JsonRpcException(
                f"the parameters of {method[:80]} have the wrong shape", INVALID_PARAMS
            )
            self._send_response(number, error=refusal.to_response_error())

    def _answer_error(self, number: Any, why: str) -> None:
        refusal = JsonRpcException(why, _INVALID_REQUEST)
        self._send_response(number, error=refusal.to_response_error())

    def _send_response(
        self, msg_id: Any, result: Any = None, error: types.ResponseError | None = None
    ) -> None:
        if msg_id == self.answered and isinstance(result, types.InitializeResult):
            self.answered = None
            return
        super()._send_response(msg_id, result, error)

    def _send_data(self, data: Any) -> None:
        """Write a message. Nothing of it is logged."""
        if not data or self.writer is None:
            return
        body = json.dumps(data, default=self._serialize_message).encode()
        if self._include_headers:
            body = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        self.writer.write(body)

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Any:
        # pygls need not look at the folders of the workspace, whose names need not be readable
        self.folders = _folders(params)
        params.root_path = params.root_uri = params.workspace_folders = None
        if (client := params.process_id) is not None and client > 0:
            with contextlib.suppress(RuntimeError):  # no loop: nobody is there to be watched
                self._watch = asyncio.get_running_loop().create_task(self._leave_with(client))
        return (yield from super().lsp_initialize(params))

    async def _leave_with(self, client: int) -> None:
        """End this process when that of the client is gone, be its pipe open or not."""
        await parent.ended(client)
        if not self._leaving:
            _log.warning("process %d of the client is gone: the server ends", client)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._end_requests(), _PATIENCE_SECONDS)
        logging.shutdown()
        os._exit(self.exit_status)  # a thread waits for input that need not ever come

    @lsp_method(types.SHUTDOWN)
    async def lsp_shutdown(self, *args: Any) -> None:  # type: ignore[override]
        """Requests that run are cancelled, and over, before what they use is closed."""
        await self._end_requests()
        self._shutdown = True

    async def _end_requests(self) -> None:
        this: Any = asyncio.current_task()
        running: list[Any] = [f for f in self._request_futures.values() if f is not this]
        for future in running:
            future.cancel()
        tasks = [future for future in running if isinstance(future, asyncio.Future)]
        await asyncio.gather(*tasks, return_exceptions=True)
        if (handler := self.fm.features.get(types.SHUTDOWN)) is not None:
            await handler(None)

    def _execute_handler(
        self, msg_id: Any, handler: Any, callback: Any, args: Any = None, kwargs: Any = None
    ) -> None:
        super()._execute_handler(msg_id, handler, callback, args, kwargs)
        future: Any = self._request_futures.get(msg_id)
        if future is not None:  # of a notification, too: pygls keeps those for ever
            future.add_done_callback(lambda done: self._forget(msg_id, done))

    def _forget(self, msg_id: int | str, future: Any) -> None:
        if self._request_futures.get(msg_id) is future:
            del self._request_futures[msg_id]

    def _handle_response(self, msg_id: Any, result: Any = None, error: Any = None) -> None:
        future = self._request_futures.get(msg_id)
        if future is not None and not future.done():  # else it came too late for who asked
            super()._handle_response(msg_id, result, error)

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> Any:
        item = params.text_document
        self.documents.opened(item.uri, item.language_id, item.version, item.text)
        yield from self._then(types.TEXT_DOCUMENT_DID_OPEN, params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> Any:
        changes = [
            (
                range_from(change.range)
                if isinstance(change, types.TextDocumentContentChangePartial)
                else None,
                change.text,
            )
            for change in params.content_changes
        ]
        item = params.text_document
        self.documents.changed(item.uri, item.version, changes)
        yield from self._then(types.TEXT_DOCUMENT_DID_CHANGE, params)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> Any:
        self.documents.closed(params.text_document.uri)
        yield from self._then(types.TEXT_DOCUMENT_DID_CLOSE, params)

    def _then(self, method: str, params: Any) -> Any:
        """Hand over to the feature of the same name."""
        if (handler := self.fm.features.get(method)) is not None:
            yield handler, (params,), None

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    async def lsp_workspace__execute_command(  # type: ignore[override]
        self, params: types.ExecuteCommandParams
    ) -> Any:
        """As a coroutine, so that `$/cancelRequest` reaches it."""
        handler = self.fm.commands.get(params.command)
        if handler is None:
            raise JsonRpcException(f"there is no command {params.command[:80]!r}", INVALID_PARAMS)
        return await handler(params)


def _folders(params: types.InitializeParams) -> list[Path]:
    uris = [folder.uri for folder in params.workspace_folders or ()]
    if not uris and isinstance(params.root_uri, str):
        uris = [params.root_uri]
    return [path for uri in uris if (path := file_of(uri)) is not None]


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def range_from(value: types.Range) -> Range:
    """Raises PositionOutside for one that is inverted or negative."""
    return Range(position_from(value.start), position_from(value.end))


def position_from(value: types.Position) -> Position:
    return Position(value.line, value.character)


def range_to(span: Range) -> types.Range:
    return types.Range(
        types.Position(span.start.line, span.start.character),
        types.Position(span.end.line, span.end.character),
    )
