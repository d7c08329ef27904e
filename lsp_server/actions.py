"""Code actions and commands: the ways into blockdiff for an editor without our plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from blockdiff.errors import InvalidRequest
from blockdiff.syntax.grammars import language_of
from blockdiff.syntax.whitespace import indent_width, line_ending
from blockdiff.types import Extent, SyntaxState
from lsp_server.constructs import documentation, enclosing_function
from lsp_server.document import Blank, Document, Range, made_in
from lsp_server.documents import Documents
from lsp_server.failures import ContentModified, DoesNotParse
from lsp_server.faults import faults
from lsp_server.instruction import Instruction, instruction_in
from lsp_server.mending import mended
from lsp_server.messages import DocumentId, Outcome, RewriteParams
from lsp_server.sessions import OnEvent, Sessions
from lsp_server.uris import file_of

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
    Action.FIX: "Mend the syntax error",
    Action.REWRITE: "Rewrite the selection",
    Action.DOCSTRING: "Add documentation to the function",
}


@dataclass(frozen=True, slots=True)
class ActionParams:
    """What a code action carries from the menu to its execution, and a command's argument.

    Attributes:
        instruction: of `rewrite`; empty: what looks wrong is mended.
    """

    action: Action
    text_document: DocumentId
    range: Range
    instruction: str = ""
    strength: float = -1.0


Work = Callable[[OnEvent], Awaitable[Outcome]]
"""What is left to do of an action once it is known to make sense."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An action that makes sense at a place. Attributes: title: as a menu shows it."""

    action: Action
    title: str


class Actions:
    """Which actions there are at a place, and what they do."""

    def __init__(self, documents: Documents, sessions: Sessions) -> None:
        self._documents, self._sessions = documents, sessions

    def available(self, uri: str, span: Range) -> Iterator[Offer]:
        """Those that make sense for a selection or a cursor, the most specific first."""
        document = self._documents.get(uri)
        if self._sessions.context.is_closed(document):
            return
        start, end = document.offsets(span)
        language = _language(document)
        function = enclosing_function(document.text, start, language)
        if start < end:
            yield _offer(Action.FILL)
            if document.text[start:end].strip():
                said = instruction_in(document.text, start, end)
                yield _offer(Action.REWRITE, said.short if said else "")
        if function is not None and function.is_empty:
            yield _offer(Action.COMPLETE)
        if function is not None and not function.documented:
            if documentation(function, document.text, language):
                yield _offer(Action.DOCSTRING)
        if faults(document.text, language):
            yield _offer(Action.FIX)

    def plan(self, params: ActionParams) -> Work:
        """What there is to do.

        Raises InvalidRequest where the action finds nothing to do, ContentModified, Ignored. The
        work raises what a session does, DoesNotParse, and ContentModified as soon as the document
        is edited: its text is for the document as it was.
        """
        identity = params.text_document
        document = self._documents.get(identity.uri, identity.version)
        self._sessions.context.check_open(document)
        start, end = document.offsets(params.range)
        return partial(self._undisturbed, document, self._work(document, params, start, end))

    def _work(self, document: Document, params: ActionParams, start: int, end: int) -> Work:
        action = params.action
        if action is Action.REWRITE:
            return self._rewrite(document, params, start, end)
        if action is Action.FILL:
            blank = Blank(start, end)
            return partial(self._write, document, blank, _extent(document.text, start, end))
        language = _language(document)
        if action is Action.FIX:
            if not faults(document.text, language):
                raise InvalidRequest("nothing here fails to parse")
            return partial(mended, self._sessions, document, language, start)
        function = enclosing_function(document.text, start, language)
        if function is None:
            raise InvalidRequest(
                "there is no function around the cursor",
                "put the cursor into one; for some languages no grammar is there",
            )
        if action is Action.COMPLETE:
            if function.blank is None:
                raise InvalidRequest(
                    "the function has a body, or does not parse",
                    "select what is to be written and fill it in",
                )
            blank = _with_endings(document.text, function.blank)
            return partial(self._parsed, document, blank, Extent.BODY, language)
        if function.documented:
            raise InvalidRequest("the function is documented")
        place = documentation(function, document.text, language)
        if place is None:
            raise InvalidRequest("it is not known where documentation goes here")
        blank = _with_endings(document.text, place)
        return partial(self._parsed, document, blank, Extent.DELIMITER, language)

    def _rewrite(self, document: Document, params: ActionParams, start: int, end: int) -> Work:
        if not document.text[start:end].strip():
            raise InvalidRequest(
                "there is no text to rewrite, the span is blank", "use infill to write new text"
            )
        said = None
        if not params.instruction.strip():
            said = instruction_in(document.text, start, end)
        said = said or Instruction(start, end, None, params.instruction)
        rewrite = RewriteParams(
            params.text_document, params.range, said.what, strength=params.strength
        )
        blank = Blank(said.start, said.end, shown=said.shown)
        return lambda progress: self._sessions.revise(document, blank, rewrite, progress=progress)

    async def _undisturbed(self, document: Document, work: Work, progress: OnEvent) -> Outcome:
        """Do it for as long as nobody edits the document."""
        task, whole = asyncio.current_task(), [(0, len(document.text))]
        assert task is not None
        with self._documents.follow(document, whole, task.cancel) as followed:
            try:
                return await work(progress)
            except asyncio.CancelledError:
                if followed.is_lost:
                    raise ContentModified("the document was edited meanwhile") from None
                raise

    async def _write(
        self, document: Document, blank: Blank, extent: Extent, progress: OnEvent
    ) -> Outcome:
        return await self._sessions.fill(document, [blank], extent=extent, progress=progress)

    async def _parsed(
        self, document: Document, blank: Blank, extent: Extent, language: str, progress: OnEvent
    ) -> Outcome:
        """The same, unless an error comes of it."""
        outcome = await self._write(document, blank, extent, progress)
        if all(_is_bare(edit.new_text, blank) for edit in outcome.edits):
            return replace(outcome, edits=())
        before = faults(document.text, language)
        after = faults(made_in(document, outcome.edits), language)
        worse = after and (not before or len(after.all) > len(before.all))
        if worse or outcome.syntax is SyntaxState.BROKEN:
            raise DoesNotParse(
                "what the model wrote does not parse here: nothing was changed",
                "select the place and fill it in to have it anyway",
            )
        return outcome


def _is_bare(text: str, blank: Blank) -> bool:
    """Whether nothing was written but what stands around it."""
    return not text.removeprefix(blank.before).removesuffix(blank.after).strip()


def _offer(action: Action, instruction: str = "") -> Offer:
    return Offer(action, f"{action.label}: {instruction}" if instruction else action.label)


def _language(document: Document) -> str:
    return language_of(str(file_of(document.uri) or ""), document.language)


def _with_endings(text: str, blank: Blank) -> Blank:
    """With the line endings of the document."""
    ending = line_ending(text[: blank.start], text[blank.end :])
    return replace(
        blank,
        before=blank.before.replace("\n", ending),
        after=blank.after.replace("\n", ending),
    )


def _extent(text: str, start: int, end: int) -> Extent:
    """How far the text for a selection may go: where it is a part of a line, that line; where none
    of its lines is less deep than the first, up to one that is."""
    selected = text[start:end]
    head = text[text.rfind("\n", 0, start) + 1 : start]
    rest = text[end:].split("\n", 1)[0]
    if "\n" not in selected and rest.strip():
        return Extent.LINE
    if head.strip() or (rest.strip() and not selected.endswith("\n")):
        return Extent.HOLE
    depths = [indent_width(line) for line in (head + selected).split("\n") if line.strip()]
    return Extent.BODY if depths and depths[0] == min(depths) > 0 else Extent.HOLE
