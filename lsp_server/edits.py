"""Where something is written, and from a result to the smallest edit of the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix

from lsp_server.document import Document, TextEdit


@dataclass(frozen=True, slots=True)
class Blank:
    """A place to write in.

    Attributes:
        start, end: offsets of the document; what stands there is replaced.
        before, after: text that is put around what the model writes, such as the quotes of a
            docstring. The model sees both.
        shown: what the model is told stands there, where that is not what does; None: what does.
    """

    start: int
    end: int
    before: str = ""
    after: str = ""
    shown: str | None = None


def smallest(old: str, new: str) -> tuple[int, int, str]:
    """Start and end within `old`, and what stands there instead, by common prefix and suffix.

    A CRLF and a pair of surrogates are never cut in two.
    """
    before = len(commonprefix((old, new)))
    before -= _cuts(old, before) or _cuts(new, before)
    rest_old, rest_new = old[before:], new[before:]
    after = len(commonprefix((rest_old[::-1], rest_new[::-1])))
    after -= _cuts(old, len(old) - after) or _cuts(new, len(new) - after)
    return before, len(old) - after, rest_new[: len(rest_new) - after]


def edits_of(document: Document, start: int, end: int, text: str) -> list[TextEdit]:
    """The edits that make `document[start:end]` read `text`: one, or none if it does already."""
    old = document.text[start:end]
    if old == text:
        return []
    first, last, middle = smallest(old, text)
    return [TextEdit(document.span(start + first, start + last), middle)]


def made_in(document: Document, edits: Sequence[TextEdit]) -> str:
    """The text of a document with edits, none of which overlaps another."""
    text = document.text
    spans = [(document.offsets(edit.range), edit.new_text) for edit in edits]
    for (start, end), new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _cuts(text: str, at: int) -> int:
    """1 if a place lies within a CRLF."""
    return int(0 < at < len(text) and text[at - 1] == "\r" and text[at] == "\n")
