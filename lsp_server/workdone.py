"""Work-done progress: what a client without our plugin sees of a request, and its cancel button."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from blockdiff.types import Progress, Refinement, StreamEvent, no_op
from lsp_server.sessions import OnEvent


@contextlib.asynccontextmanager
async def work_done(
    server: LanguageServer, title: str, token: str | int | None
) -> AsyncIterator[OnEvent]:
    """Report the events of a request under `token`, or under one of our own if the client can.

    Cancelling the progress cancels the current task.
    """
    token = token or await _created(server)
    if token is None:
        yield no_op
        return
    progress, task = server.work_done_progress, asyncio.current_task()
    progress.begin(token, types.WorkDoneProgressBegin(title, cancellable=True))
    asked = progress.tokens[token]
    asked.add_done_callback(lambda f: task.cancel() if f.cancelled() and task else None)
    shown = ""

    def report(event: StreamEvent) -> None:
        nonlocal shown
        message, share = _message(event)
        if message and message != shown:
            shown = message
            percentage = None if share is None else round(100 * share)
            progress.report(
                token, types.WorkDoneProgressReport(message=message, percentage=percentage)
            )

    try:
        yield report
    finally:
        progress.tokens.pop(token, None)
        progress.end(token, types.WorkDoneProgressEnd())


async def _created(server: LanguageServer) -> str | None:
    window = server.client_capabilities.window
    if window is None or not window.work_done_progress:
        return None
    token = f"blockdiff-{secrets.token_hex(4)}"
    with contextlib.suppress(Exception):  # a client may refuse: then nothing is shown
        await asyncio.wait_for(server.work_done_progress.create_async(token), 2.0)
        return token
    return None


def _message(event: StreamEvent) -> tuple[str, float | None]:
    if isinstance(event, Progress):
        return event.what, event.share
    if isinstance(event, Refinement):
        settled = sum(span.settled for span in event.spans)
        return f"{settled} of {len(event.spans)} tokens settled", None
    return "", None
