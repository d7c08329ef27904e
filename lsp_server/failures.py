"""How failures reach an editor: our errors as errors of the protocol."""

from __future__ import annotations

from pygls.exceptions import JsonRpcException

from blockdiff.errors import BlockdiffError, Cancelled, ExitCode, InvalidRequest, Superseded

INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REQUEST_CANCELLED = -32800
CONTENT_MODIFIED = -32801
SERVER_CANCELLED = -32802
REQUEST_FAILED = -32803


class ContentModified(BlockdiffError):
    """The document changed where something was being written for it."""

    code = "content_modified"
    exit_code = ExitCode.USAGE


class Ignored(BlockdiffError):
    """A `.blockdiffignore` keeps this document to itself."""

    code = "ignored"
    exit_code = ExitCode.USAGE


class DoesNotParse(BlockdiffError):
    """An automatic edit that would leave a document with an error. It was not made."""

    code = "does_not_parse"
    exit_code = ExitCode.MODEL


def to_protocol(error: BlockdiffError) -> JsonRpcException:
    """`{code, message, data}`; `data` is the error as everywhere else: `{code, message, hint}`."""
    message = f"{error.message}: {error.hint}" if error.hint else error.message
    return JsonRpcException(message, _code(error), error.to_json())


def _code(error: BlockdiffError) -> int:
    if isinstance(error, ContentModified):
        return CONTENT_MODIFIED
    if isinstance(error, Superseded):
        return SERVER_CANCELLED
    if isinstance(error, Cancelled):
        return REQUEST_CANCELLED
    if isinstance(error, InvalidRequest):
        return INVALID_PARAMS
    return INTERNAL_ERROR if error.code == BlockdiffError.code else REQUEST_FAILED
