"""From what a backend writes to the text of a hole, by the same rules as for our own engine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from blockdiff.client.remote.fim import before_marks
from blockdiff.infill.prose import verdict
from blockdiff.infill.rewrite import without_surroundings
from blockdiff.infill.seams import Seams
from blockdiff.syntax.whitespace import to_lf
from blockdiff.types import FinishReason, InfillRequest, SyntaxState

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n", re.MULTILINE)
_NEW_SHARE = 64
_OPENERS = (":", "{", "(", "[")


class AnswerText:
    """The text of one hole while it comes in.

    With `instructed` it is an answer in words, of which the first code block counts; one without
    any counts as a whole. `marks` end it where a server shows them; `unchanged` is how it says
    that everything is right as it is. The request names its language as `language_of` does.
    """

    def __init__(
        self,
        request: InfillRequest,
        marks: Sequence[str] = (),
        instructed: bool = False,
        unchanged: str = "",
    ) -> None:
        self._request, self._marks, self._instructed = request, marks, instructed
        self._unchanged = unchanged
        self._raw, self._drafted = "", 0
        self._fence = "```" if instructed else ""
        self._seams = self._made()

    def add(self, text: str) -> None:
        self._raw += text

    @property
    def is_due(self) -> bool:
        """Whether enough is new for a draft, which takes time by the length of all: so the drafts
        of a text cost no more than some of the last, however small the pieces it comes in."""
        return len(self._raw) - self._drafted >= len(self._raw) // _NEW_SHARE

    def draft(self) -> tuple[str, bool]:
        """What is to be shown now, and whether the text has come to its end."""
        self._drafted = len(self._raw)
        written, ended = self._written(False)
        keep, stopped = self._seams.cut(written, final=False)
        return keep, stopped or ended

    def finished(self, reason: FinishReason) -> tuple[str, FinishReason, SyntaxState]:
        """The text for the document. `reason` says why no more comes.

        Raises AnswerIsProse.
        """
        written, ended = self._written(True)
        breaks_off = FinishReason.LENGTH if self._seams.cut(written, final=False)[1] else reason
        if ended:
            breaks_off = reason = FinishReason.EOM
        text = self._seams.finish(written, breaks_off)
        if reason is FinishReason.LENGTH and self._seams.has_ended(written):
            reason = FinishReason.EOM  # what was cut off is behind its end
        if self._instructed:
            text = without_surroundings(text, self._request)
        if self._unchanged and self._raw.strip() == self._unchanged:
            text = self._replaced
        return text, reason, verdict(self._request, text, self._instructed)

    def _written(self, final: bool) -> tuple[str, bool]:
        """The text as the model would go on from the start of the hole, and whether it is over."""
        raw = self._raw if self._raw.isascii() else _whole_characters(self._raw, final)
        text, ended = before_marks(to_lf(raw), self._marks, final)
        if not self._instructed:
            return text, ended
        opening = _FENCE.search(text)
        if opening is None:
            return (text.strip("\n") if final or ended else ""), ended
        if opening[1] != self._fence:
            self._fence = opening[1]
            self._seams = self._made()
        return _behind(text[opening.end() :], self._lead, self._fence), ended

    @property
    def _replaced(self) -> str:
        hole = self._request.hole
        return self._request.document[hole.start : hole.end]

    @property
    def _lead(self) -> str:
        return self._request.prefix.rpartition("\n")[2]

    def _made(self) -> Seams:
        request = self._request
        return Seams(
            request.prefix,
            request.suffix,
            request.language,
            replaced=self._replaced,
            fence=self._fence,
            indentation=request.indentation,
            extent=request.extent,
        )


def _whole_characters(text: str, final: bool) -> str:
    """A text whose characters came in halves, by a server that counts in UTF-16. A half at the end
    waits for the other one unless the text is `final`."""
    if not final and "\ud800" <= text[-1:] <= "\udbff":
        text = text[:-1]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _behind(code: str, lead: str, fence: str) -> str:
    """An answer that begins with the line of the hole, from the hole on.

    One that was written without the indentation of that line gets it in the lines below: there is
    a line less deep, or none deeper where the first one opens a block.
    """
    if code.startswith(lead):
        return code[len(lead) :]
    first, *more = code.split("\n")
    below = [line for line in more if line.strip() and not line.startswith(fence)]
    deep = lead + " " if first.rstrip().endswith(_OPENERS) else lead
    if lead.strip() or first != first.lstrip() or not below:
        return code
    if all(line.startswith(lead) for line in below) and below[0].startswith((deep, lead + "\t")):
        return code
    return "\n".join([first, *(lead + line if line in below else line for line in more)])
