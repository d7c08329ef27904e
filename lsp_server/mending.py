"""The action `fix`: the smallest change that parses, or none.

What the parser itself can tell is tried first; then the model writes the tokens of the error, and
then its lines, each a few times as long as what stands there at most.
"""

from __future__ import annotations

import asyncio
import difflib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from blockdiff.types import Extent, FinishReason, SyntaxState
from lsp_server.document import Blank, Document, edits_of
from lsp_server.failures import DoesNotParse
from lsp_server.faults import Fault, broken_lines, faults
from lsp_server.messages import DocumentId, Outcome, RewriteParams
from lsp_server.repair import Replacement, mends, repaired
from lsp_server.sessions import OnEvent, Sessions

_INSTRUCTION = "Fix the syntax error and change nothing else."
_LEAST_LIKE = 0.6  # of what stood there, 0 to 1; less alike is no repair but another text
_MOST_TOKENS = 160

_Attempt = Callable[[], Awaitable[Outcome]]


async def mended(
    sessions: Sessions, document: Document, language: str, at: int, progress: OnEvent
) -> Outcome:
    """The edit that mends the error nearest to an offset.

    Raises DoesNotParse where none was found, else as a session.
    """
    text = document.text
    before = faults(text, language)
    assert before
    change = await asyncio.to_thread(repaired, text, language, at)
    if change is not None:
        return _outcome(document, change)
    for attempt in _attempts(sessions, document, before.nearest(at), progress):
        outcome = await attempt()
        for edit in outcome.edits:
            start, end = document.offsets(edit.range)
            change = Replacement(start, end, edit.new_text)
            if _is_repair(text, change) and mends(text, change, before, language):
                return outcome
    raise DoesNotParse(
        "no change was found that parses: nothing was changed",
        "select the lines and rewrite them, with an instruction in a comment",
    )


def _attempts(
    sessions: Sessions, document: Document, fault: Fault, progress: OnEvent
) -> Iterator[_Attempt]:
    """What the model is asked for, the smallest first."""
    text = document.text
    start, end = broken_lines(text, fault)
    start += len(text[start:end]) - len(text[start:end].lstrip())
    end = start + len(text[start:end].rstrip())
    most = min(_MOST_TOKENS, 24 + (end - start) // 2)
    several = Extent.HOLE if "\n" in text[start:end] else Extent.LINE
    if start < fault.start and fault.end < end and "\n" not in text[fault.start : fault.end]:
        yield partial(
            sessions.fill,
            document,
            [Blank(fault.start, fault.end)],
            extent=Extent.LINE,
            max_tokens=most,
            progress=progress,
        )
    if start == end:
        return
    asked = RewriteParams(
        DocumentId(document.uri), document.span(start, end), _INSTRUCTION, max_tokens=most
    )
    yield partial(sessions.revise, document, Blank(start, end), asked, progress=progress)
    yield partial(
        sessions.fill,
        document,
        [Blank(start, end)],
        extent=several,
        max_tokens=most,
        progress=progress,
    )


def _is_repair(text: str, change: Replacement) -> bool:
    """Whether lines that were changed are still much like what they were, and no more of them."""
    start = text.rfind("\n", 0, change.start) + 1
    stop = text.find("\n", change.end)
    stop = len(text) if stop < 0 else stop
    old = text[start:stop]
    new = text[start : change.start] + change.new + text[change.end : stop]
    if new.count("\n") > old.count("\n") + 1:
        return False
    return difflib.SequenceMatcher(None, old, new, autojunk=False).ratio() >= _LEAST_LIKE


def _outcome(document: Document, change: Replacement) -> Outcome:
    """Of a change that took no model."""
    return Outcome(
        request_id=secrets.token_hex(8),
        version=document.version,
        edits=tuple(edits_of(document, change.start, change.end, change.new)),
        finish=FinishReason.EOM,
        syntax=SyntaxState.OK,
        tokens=0,
        forwards=0,
        elapsed_ms=0.0,
        model="",
    )
