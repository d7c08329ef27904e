"""From what comes of an action to the document: as an answer, or later by `workspace/applyEdit`.

Clients give up on a request after some seconds (eglot and lsp-mode after ten, Helix after twenty)
and a cold engine takes longer. So a command is answered before its work is done, and a code action
that is not resolved by then is answered without an edit; what comes of either is applied when it is
there. What did not come of it is said in a message, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from blockdiff.errors import BlockdiffError, Cancelled
from blockdiff.types import FinishReason
from lsp_server.actions import ActionParams, Work
from lsp_server.document import TextEdit
from lsp_server.failures import ContentModified
from lsp_server.messages import Outcome
from lsp_server.protocol import range_to
from lsp_server.workdone import work_done

RESOLVE_SECONDS = 5.0
"""How long a code action may take before it is answered without its edit."""

_ANNOTATION = "blockdiff"


class Delivery:
    """Runs the work of actions for one client."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[Any]] = set()

    def apply(self, asked: ActionParams, work: Work, token: str | int | None) -> None:
        """Do it and apply its edit. Returns at once."""
        self._start(self._applied(asked, self._outcome(asked, work, token)))

    async def edit(self, asked: ActionParams, work: Work) -> types.WorkspaceEdit | None:
        """Do it; its edit if there is one by `RESOLVE_SECONDS`. Later than that it is applied."""
        task = self._start(self._outcome(asked, work, None))
        workspace = self._server.client_capabilities.workspace
        can_apply = bool(workspace and workspace.apply_edit)
        try:
            await asyncio.wait({task}, timeout=RESOLVE_SECONDS if can_apply else None)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            self._start(self._applied(asked, _result(task)))
            return None
        outcome = await _result(task)
        return self._workspace_edit(asked, outcome) if outcome else None

    async def stop(self) -> None:
        """Cancel what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _outcome(
        self, asked: ActionParams, work: Work, token: str | int | None
    ) -> Outcome | None:
        """None where there is nothing to apply; why not has been said."""
        try:
            async with work_done(self._server, f"blockdiff: {asked.action.label}", token) as seen:
                outcome = await work(seen)
        except ContentModified:
            self._say("the document was edited meanwhile: nothing was changed")
        except Cancelled:
            pass
        except BlockdiffError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self._say(error.message + hint, types.MessageType.Error)
        else:
            if outcome.edits:
                if outcome.finish is FinishReason.LENGTH:
                    self._say("the text was cut off at the limit, decoding.maxTokens")
                return outcome
            self._say("there is nothing to change")
        return None

    async def _applied(
        self, asked: ActionParams, working: Coroutine[Any, Any, Outcome | None]
    ) -> None:
        outcome = await working
        if outcome is None:
            return
        params = types.ApplyWorkspaceEditParams(
            self._workspace_edit(asked, outcome), label=f"blockdiff: {asked.action.label}"
        )
        try:
            answer = await self._server.workspace_apply_edit_async(params)
        except JsonRpcException as error:
            self._say(f"the editor did not make the edit: {error}", types.MessageType.Error)
            return
        if not answer.applied:
            why = answer.failure_reason or "the document was edited meanwhile"
            self._say(f"the editor did not make the edit: {why}")

    def _say(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        self._server.window_show_message(types.ShowMessageParams(kind, f"blockdiff: {message}"))

    def _workspace_edit(self, asked: ActionParams, outcome: Outcome) -> types.WorkspaceEdit:
        """Versioned and annotated, as far as the client understands that."""
        workspace = self._server.client_capabilities.workspace
        can = workspace.workspace_edit if workspace else None
        uri = asked.text_document.uri
        if not (can and can.document_changes):
            return types.WorkspaceEdit(changes={uri: [_text_edit(edit) for edit in outcome.edits]})
        identity = types.OptionalVersionedTextDocumentIdentifier(uri=uri, version=outcome.version)
        annotated = can.change_annotation_support is not None
        edits = [_annotated(edit) if annotated else _text_edit(edit) for edit in outcome.edits]
        note = types.ChangeAnnotation(f"blockdiff: {asked.action.label}")
        return types.WorkspaceEdit(
            document_changes=[types.TextDocumentEdit(identity, edits)],
            change_annotations={_ANNOTATION: note} if annotated else None,
        )


async def _result(task: asyncio.Task[Outcome | None]) -> Outcome | None:
    """Of a task that is waited for; None where its progress was cancelled."""
    await asyncio.wait({task})
    return None if task.cancelled() else task.result()


def _text_edit(edit: TextEdit) -> types.TextEdit:
    return types.TextEdit(range_to(edit.range), edit.new_text)


def _annotated(edit: TextEdit) -> types.AnnotatedTextEdit:
    return types.AnnotatedTextEdit(
        annotation_id=_ANNOTATION, range=range_to(edit.range), new_text=edit.new_text
    )
