"""JSON-RPC as pygls speaks it, mended where an editor would suffer.

A request that cannot be read gets an error for an answer, not silence; commands can be cancelled;
documents are ours; and no message, which is to say no source text, is ever logged.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from cattrs import Converter
from lsprotocol import converters, types
from pygls.exceptions import JsonRpcException
from pygls.protocol import (
    JsonRPCNotification,
    JsonRPCRequestMessage,
    JsonRPCResponseMessage,
    LanguageServerProtocol,
    lsp_method,
)

from lsp_server.document import Position, Range
from lsp_server.documents import Documents
from lsp_server.failures import INVALID_PARAMS

_log = logging.getLogger("blockdiff.lsp")

_INVALID_REQUEST = -32600
_NOT_INITIALIZED = -32002


class _Answered:
    """Stands for a message that could not be read and has been answered."""


def converter() -> Converter:
    """Like that of pygls, but what it has no type for stays JSON, and the first fault ends it.

    (In detail, each of a million faults would be an exception with notes and a traceback.)
    """
    made = converters.get_converter(Converter(detailed_validation=False))
    for kind, parts in (
        (JsonRPCRequestMessage, ("id", "method", "jsonrpc", "params")),
        (JsonRPCNotification, ("method", "jsonrpc", "params")),
        (JsonRPCResponseMessage, ("id", "jsonrpc", "result")),
    ):
        made.register_structure_hook(
            kind, lambda value, kind, parts=parts: kind(*(value.get(part) for part in parts))
        )
    return made


class Protocol(LanguageServerProtocol):
    """Attributes:
    documents: those that are open.
    answered: id of an `initialize` request that has had its answer.
    """

    def __init__(self, server: Any, converter: Any) -> None:
        self.documents = Documents()
        self.answered: int | str | None = None
        self._leaving = False
        super().__init__(server, converter)

    def structure_message(self, data: dict[str, Any]) -> Any:
        """A message from its JSON; called for every object in it, the innermost first."""
        if "jsonrpc" not in data:
            return data
        try:
            return super().structure_message(data)
        except Exception as error:
            self._refuse(data, error)
            return _Answered()

    def handle_message(self, message: Any) -> None:
        """Dispatch a message; requests outside of the server's life are refused."""
        if isinstance(message, _Answered):
            return
        method, number = getattr(message, "method", ""), getattr(message, "id", None)
        if method == types.EXIT and self._leaving:
            self._shutdown = True  # asked for, if not over yet: no reason to exit with an error
        refusal = self._out_of_place(method)
        if refusal and method != types.EXIT:
            if method and number is not None:
                self._send_response(number, error=refusal.to_response_error())
            return
        self._leaving = self._leaving or method == types.SHUTDOWN
        super().handle_message(message)

    def _out_of_place(self, method: str) -> JsonRpcException | None:
        if self._shutdown:
            return JsonRpcException("the server was shut down", _INVALID_REQUEST)
        if self._workspace is None:
            if method and method != types.INITIALIZE:
                return JsonRpcException("send `initialize` first", _NOT_INITIALIZED)
        elif method == types.INITIALIZE:
            return JsonRpcException("the server is initialized already", _INVALID_REQUEST)
        return None

    def _refuse(self, data: dict[str, Any], error: Exception) -> None:
        """Answer a request whose parameters have the wrong shape; report a notification."""
        method, number = data.get("method"), data.get("id")
        known = isinstance(method, str)
        _log.warning("unreadable message: %s (%s)", method if known else "?", type(error).__name__)
        if known and isinstance(number, (int, str)) and not isinstance(number, bool):
            refusal = JsonRpcException(
                f"the parameters of {str(method)[:80]} have the wrong shape",
                INVALID_PARAMS,
            )
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
