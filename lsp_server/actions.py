"""Code actions and commands: the ways into blockdiff for an editor without our plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from blockdiff.errors import InvalidRequest
from blockdiff.grammars import language_of
from lsp_server.constructs import (
    Function,
    broken_lines,
    documentation,
    enclosing_function,
)
from lsp_server.context import path_of
from lsp_server.document import Document, Range
from lsp_server.documents import Documents
from lsp_server.messages import DocumentId, Outcome, RewriteParams
from lsp_server.sessions import Blank, Progress, Sessions, unseen

KIND = "refactor.rewrite.blockdiff"
COMMAND = "blockdiff.run"


class Action(str, Enum):
    """What can be done with a selection or at the cursor."""

    FILL = "fill"
    COMPLETE = "complete"
    FIX = "fix"
    REWRITE = "rewrite"
    DOCSTRING = "docstring"

    @property
    def kind(self) -> str:
        return f"{KIND}.{self.value}"

    @property
    def label(self) -> str:
        return _LABELS[self]


_LABELS = {
    Action.FILL: "Fill in the selection",
    Action.COMPLETE: "Complete the body of the function",
    Action.FIX: "Write the lines with the syntax error anew",
    Action.REWRITE: "Rewrite the selection",
    Action.DOCSTRING: "Add documentation to the function",
}


@dataclass(frozen=True, slots=True)
class ActionParams:
    """What a code action carries from the menu to its execution, and a command's argument.

    Attributes:
        instruction: of `rewrite`; empty: the least likely parts are written anew.
    """

    action: Action
    text_document: DocumentId
    range: Range
    instruction: str = ""
    strength: float = -1.0


class Actions:
    """Which actions there are at a place, and what they do."""

    def __init__(self, documents: Documents, sessions: Sessions) -> None:
        self._documents, self._sessions = documents, sessions

    def available(self, uri: str, span: Range) -> Iterator[Action]:
        """Those that make sense for a selection or a cursor, the most specific first."""
        document = self._documents.get(uri)
        if self._sessions.context.is_closed(document):
            return
        start, end = document.offsets(span)
        function = _function(document, start)
        if start < end:
            yield Action.FILL
            if document.text[start:end].strip():
                yield Action.REWRITE
        if function is not None and function.is_empty:
            yield Action.COMPLETE
        if function is not None and not function.documented and _place(document, function):
            yield Action.DOCSTRING
        if broken_lines(document.text, _path(document), document.language, start):
            yield Action.FIX

    async def run(self, params: ActionParams, progress: Progress = unseen) -> Outcome:
        """Do it. Raises InvalidRequest where the action finds nothing to do, else as a session."""
        identity = params.text_document
        document = self._documents.get(identity.uri, identity.version)
        start, end = document.offsets(params.range)
        if params.action is Action.REWRITE:
            rewrite = RewriteParams(
                identity, params.range, instruction=params.instruction, strength=params.strength
            )
            return await self._sessions.rewrite(rewrite, progress)
        blank = self._blank(document, params.action, start, end)
        return await self._sessions.fill(document, [blank], progress=progress)

    def _blank(self, document: Document, action: Action, start: int, end: int) -> Blank:
        if action is Action.FILL:
            return Blank(start, end)
        if action is Action.FIX:
            lines = broken_lines(document.text, _path(document), document.language, start)
            if lines is None:
                raise InvalidRequest("nothing here fails to parse")
            return Blank(*lines)
        function = _function(document, start)
        if function is None:
            raise InvalidRequest(
                "there is no function around the cursor",
                "put the cursor into one; for some languages no grammar is there",
            )
        if action is Action.COMPLETE:
            return Blank(function.body_start, function.body_end)
        place = _place(document, function)
        if place is None:
            raise InvalidRequest("it is not known where documentation goes here")
        return Blank(place[0], place[0], place[1], place[2])


def _path(document: Document) -> str:
    return str(path_of(document.uri) or "")


def _function(document: Document, at: int) -> Function | None:
    return enclosing_function(document.text, at, _path(document), document.language)


def _place(document: Document, function: Function) -> tuple[int, str, str] | None:
    language = language_of(_path(document), document.language)
    return documentation(function, document.text, language)
