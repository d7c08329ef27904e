"""From what the model wrote to what goes into the document: the one place that says where it ends.

Every way of asking goes through it: an infill, ghost text, several holes, a rewrite. Things go
wrong at the seams of a hole. The model writes on into the text that follows the hole anyway, in
its line or below; it leaves the function that the hole is in and begins another; it repeats itself,
or talks; and it writes LF, and tabs or spaces, as it likes. All but the last is cut off, and
generation stops there; the last is converted.

A cut is a claim that the model is wrong, so each rule asks for evidence: several telling lines in
a row, the words of the rest of the line where as much is open as at the hole, or an end that
repeats the start of the suffix and that brackets or the grammar do without. The rules only ever
cut the end; at most a line break is put there, and blanks that stand before the cursor already go.
Special tokens need no care: decoding drops them, and encoding the document again makes none out
of text.
"""

from __future__ import annotations

import re
from functools import cached_property

from blockdiff.infill.below import Below
from blockdiff.infill.ending import Ending
from blockdiff.infill.filled import FilledDocument
from blockdiff.infill.hole_line import HoleLine
from blockdiff.infill.limit import TERMINATORS, Limit
from blockdiff.infill.prose import turns_to_prose
from blockdiff.infill.repetition import repeats_from
from blockdiff.infill.rest_of_line import RestOfLine
from blockdiff.syntax.construct import Construct
from blockdiff.syntax.nesting import excess, scan
from blockdiff.syntax.whitespace import (
    BOM,
    indentation_unit,
    line_ending,
    reindent,
    to_lf,
    unit_at_cursor,
    without_blanks_twice,
)
from blockdiff.types import Extent, FinishReason

_NEAR_ABOVE = 10_000  # characters
# No line of Python starts with one of these outside of brackets. (The grammar lets it pass, as it
# does two statements in one line: it is no judge of line breaks.)
_NEVER_FIRST = ":,.;=<>+*/%&|^"


class Seams:
    """Cuts and converts drafts for one hole. Methods are pure and may be called in any order.

    `prefix` and `suffix` are the document around the hole as it stands, with its line endings;
    `replaced` is what stood in the hole, empty for an insertion: a draft may leave the function
    where that did. `fence` is what closes the code block that a draft is in (`Prompt.fence`);
    `indentation` is one level of it, for a document that shows none itself.
    """

    def __init__(
        self,
        prefix: str,
        suffix: str,
        language: str = "",
        *,
        replaced: str = "",
        fence: str = "",
        indentation: str = "",
        extent: Extent = Extent.HOLE,
    ) -> None:
        self._wished = indentation
        self._ending = line_ending(prefix, suffix)
        self._prefix = to_lf(prefix).removeprefix(BOM)
        self._suffix = to_lf(suffix) if prefix else to_lf(suffix).removeprefix(BOM)
        self._language, self._replaced = language, to_lf(replaced)
        self._fence = re.compile(rf"^{fence}`*(?=\s|$)", re.MULTILINE) if fence else None
        self._tail = self._prefix[self._prefix.rfind("\n") + 1 :]
        self._rest = self._suffix.split("\n", 1)[0].rstrip()
        # The hole ends where a line starts, as far as the document as it stands can tell.
        self._ends_line = not (self._replaced or self._prefix) or (
            (self._replaced or self._prefix).endswith("\n")
        )
        self._filled = FilledDocument(self._prefix, self._suffix, language)
        self._below = Below(self._filled, self._tail, self._ends_line)
        self._extent = extent
        self._in_line = bool(self._rest) and not self._ends_line and "\n" not in self._replaced

    def cut(
        self, raw: str, final: bool, reason: FinishReason = FinishReason.EOM
    ) -> tuple[str, bool]:
        """The part of `raw` to keep, and whether the rest of it says that generation should stop.

        Cheap enough to call after every forward. While not `final`, only a run of the suffix or
        another construct stops; whether a short overlap is one shows at the end. With `reason`
        LENGTH, the last line may be incomplete.
        """
        cut_off = final and reason is FinishReason.LENGTH  # perhaps within a character
        keep = self._without_fence(raw.rstrip("\ufffd") if cut_off else raw)
        keep = self._within_extent(keep, final)
        keep = self._within_construct(keep, final)
        keep = self._below.without_run(keep, final)
        if not self._in_line:
            keep = self._below.without_later(keep, final, cut_off)
        ended = len(keep) < len(raw)
        whole_line = ended and self._extent is Extent.LINE
        keep = self._within_line(keep, final or whole_line, ended or not cut_off)
        keep = self._without_prose(keep, final)
        keep = self._without_repetition(keep)
        if final:
            keep = self._below.without_repeat(keep, cut_off)
            if self._in_line and cut_off and len(keep) == len(raw):
                keep = keep[: self._line.end_at_limit(keep)]
            keep = self._first_line_if_it_fits(keep)
            keep = self._without_line_break(keep)
            keep = self._line.without_swallowing(keep) if self._in_line else keep
        if raw[len(keep) - 1 : len(keep) + 1] == "\r\n":
            keep = keep[:-1]
        return keep, len(keep) < len(raw)

    def finish(self, raw: str, reason: FinishReason = FinishReason.EOM) -> str:
        """The text for the document: cut, with its indentation and line endings."""
        keep, ended = self.cut(raw, True, reason)
        cut_off = reason is FinishReason.LENGTH and not ended
        return self._placed(self._whole(keep, cut_off), raw, reason)

    def so_far(self, raw: str) -> str:
        """What of a draft that may go on is known to stand in the document."""
        return self._placed(self.cut(raw, True, FinishReason.LENGTH)[0], raw, FinishReason.LENGTH)

    def _whole(self, text: str, cut_off: bool) -> str:
        """Without what is no whole line of a draft that was cut off, nor of one that goes on behind
        its line and does not fit there."""
        shown = self._extent is Extent.LINE or self._in_line
        rewritten = bool(self._replaced) and self._extent is Extent.HOLE
        several = "\n" in text.strip() or (not cut_off and text.rstrip().endswith(TERMINATORS))
        if shown or rewritten or not several:
            return text
        asked = self._extent not in (Extent.HOLE, Extent.BLOCK)
        if not cut_off and (self._replaced or asked):
            return text
        keep = text[: self._limit.end(text, cut_off)]
        return text if keep == text else self._as_line(keep)

    def _as_line(self, keep: str) -> str:
        """A draft cut where a line ends."""
        return self._whole_lines(keep + "\n")

    def _placed(self, text: str, raw: str, reason: FinishReason) -> str:
        text = text.replace("\r\n", "\n")
        if self._extent in (Extent.LINE, Extent.BLOCK):
            text = self._shown_at_cursor(text, len(text) == len(raw), reason)
        elif not self._ends_line and not self._rest and self._suffix:
            text = text.rstrip()  # the line break that follows is there
        elif self._in_line and self._rest[0].isspace() and not self._filled.before.inside:
            text = text.rstrip(" \t")
        unit, at_line_start = self._unit or self._unshown, not self._tail.strip()
        if not self._filled.before.in_text and self._filled.before.closers[-2:] not in (") ", "] "):
            text = without_blanks_twice(text, self._tail, self._above, unit)
        if self._extent not in (Extent.LINE, Extent.BLOCK):
            text = self._with_line_break(text)
        shown = bool(self._unit)
        if unit and (not shown or (" " if unit == "\t" else "\t") in text):
            text = reindent(
                text, unit, self._language, self._filled.before, at_line_start, rescale=not shown
            )
        return text if self._ending == "\n" else text.replace("\n", self._ending)

    def has_ended(self, raw: str) -> bool:
        """Whether a draft that was cut off had come to its end before that."""
        return self.cut(raw, True, FinishReason.LENGTH)[1] and not raw.endswith("\ufffd")

    # The rules, in the order they are applied

    def _without_fence(self, raw: str) -> str:
        """The code before the closing fence. The line break before the fence belongs to the fence,
        unless the hole consists of whole lines."""
        if self._fence is None:
            return raw
        within_line = bool(self._tail.strip())
        match = self._fence.search(raw, raw.find("\n") + 1 if within_line else 0)
        if match is None:
            return raw
        keep = raw[: match.start()]
        whole_lines = self._ends_line and bool(self._rest or self._replaced)
        return keep if whole_lines else keep.removesuffix("\n")

    def _within_extent(self, raw: str, final: bool) -> str:
        place = self._ends.left_at(raw, final)
        if place is None:
            return raw
        keep = raw[:place]
        if self._extent in (Extent.LINE, Extent.BLOCK):
            return self._without_closer(keep.rstrip())
        if self._extent is Extent.BODY and not self._in_line:
            return keep
        if keep[keep.rfind("\n") + 1 :].strip() or "\n" not in keep or not self._rest:
            in_text = bool(self._rest) and self._filled.before.in_text
            return keep.rstrip(" \t") if in_text else keep.rstrip()
        return keep

    def _without_closer(self, text: str) -> str:
        """Without a last line that closes what the text behind the hole closes anyway."""
        before, _, last = text.rpartition("\n")
        following, excess_of = self._below.first, self._filled.excess
        same = "\n" in text and last.strip() == following.strip() and not last.strip()[:1].isalnum()
        if not same or not (last == following or excess_of(before) < excess_of(text)):
            return text
        return before.rstrip()

    def _within_line(self, raw: str, final: bool, ended: bool) -> str:
        if not self._in_line:
            return raw
        return raw[: self._line.met_at(raw, final, ended)]

    def _without_prose(self, raw: str, final: bool) -> str:
        place = turns_to_prose(raw, self._tail, self._language, self._filled.before, final)
        return raw if place is None else self._whole_lines(raw[:place])

    def _without_repetition(self, raw: str) -> str:
        return raw[: repeats_from(raw, self._tail)]

    def _whole_lines(self, keep: str) -> str:
        """A draft cut where a line begins: without the line break, unless the hole consists of
        whole lines that others follow."""
        content = keep.rstrip()
        if not self._ends_line or not self._rest or not content:
            return content
        return keep[: len(content) + 1]

    def _within_construct(self, raw: str, final: bool) -> str:
        if "\n" not in raw or self._may_leave:
            return raw
        offset = self._construct.left_at(raw, final)
        if offset is None:
            return raw
        keep = raw[:offset]
        content = len(keep.rstrip())
        if self._below.gap or not self._ends_line or not content:
            return keep[:content]
        end = keep.find("\n", content)  # blank lines above the next definition go
        return keep[: end + 1] if end >= 0 else keep[:content]

    def _first_line_if_it_fits(self, raw: str) -> str:
        """For a hole within a line: its first line, where that alone leaves no bracket open."""
        first, *more = raw.split("\n", 1)
        if not more or not self._rest or self._ends_line or not self._filled.excess(raw):
            return raw
        for keep in first.rstrip().removesuffix(self._rest), first:
            if keep.strip() and not self._filled.excess(keep) and self._filled.mended(raw, keep):
                return keep
        return raw

    def _without_line_break(self, raw: str) -> str:
        """Without a line break at the end that tears the rest of the line off."""
        keep = raw.rstrip()
        if "\n" not in raw[len(keep) :] or not self._rest or self._ends_line:
            return raw
        if self._rest[0].isspace():
            return raw
        torn = self._language == "python" and self._rest[0] in _NEVER_FIRST
        state = self._filled.at_end_of(keep)
        torn = torn and not state.stack and not state.inside
        return keep if torn or self._filled.mended(raw, keep) else raw

    def _with_line_break(self, text: str) -> str:
        """With a line break at the end where the next line needs it to stay a line of its own."""
        if not self._ends_line or not self._rest or not text or text[-1].isspace():
            return text
        indented = self._language == "python" and self._rest.startswith(("  ", "\t"))
        state = self._filled.at_end_of(text)
        joined = indented and not state.stack and not state.in_text
        return text + "\n" if joined or self._filled.mended(text, text + "\n") else text

    def _shown_at_cursor(self, text: str, whole: bool, reason: FinishReason) -> str:
        """Without blanks at its end, nor a last line that is not complete."""
        if whole and reason is FinishReason.LENGTH and "\n" in text.strip():
            text = text[: text.rfind("\n")]
        return self._without_closer(text.rstrip())

    @cached_property
    def _above(self) -> str:
        """The last lines before that of the hole."""
        end = len(self._prefix) - len(self._tail)
        return self._prefix[max(0, end - _NEAR_ABOVE) : end]

    @cached_property
    def _line(self) -> RestOfLine:
        below = self._suffix.split("\n", 1)[1] if "\n" in self._suffix else ""
        start, language = len(self._prefix) - len(self._tail), self._language
        closers = scan(below, language).unmatched
        line = HoleLine(self._tail, self._rest, language, self._filled.before, start, closers)
        elsewhere = scan(self._prefix[:start], language)
        return RestOfLine(
            line,
            self._filled,
            missing_elsewhere=excess(elsewhere, "", below, language),
            following=next((line for line in below.split("\n", 40) if line.strip()), ""),
            unit=max(4, len((self._unit or self._unshown or " " * 4).expandtabs(8))),
        )

    @cached_property
    def _ends(self) -> Ending:
        return Ending(
            extent=self._extent,
            language=self._language,
            tail=self._tail,
            before=self._filled.before,
            last=not self._suffix.strip() and bool(self._prefix.strip()) and not self._replaced,
            following=self._below.first,
            next_line=self._below.next_line,
        )

    @cached_property
    def _limit(self) -> Limit:
        return Limit(
            language=self._language,
            tail=self._tail,
            before=self._filled.before,
            following=self._below.first,
            parses=lambda text: self._filled.parses(self._as_line(text)),
            excess=lambda text: self._filled.excess(self._as_line(text)),
            end_of_comment=self._ends.end_of_comment,
        )

    @cached_property
    def _construct(self) -> Construct:
        return Construct(
            self._prefix,
            self._suffix,
            self._language,
            self._filled.before,
            suffix_owes=len(self._filled.after().unmatched),
            rest_of_line=bool(self._rest) and not self._ends_line,
        )

    @cached_property
    def _may_leave(self) -> bool:
        replaced = self._replaced
        return bool(replaced) and self._construct.left_at(replaced, True) is not None

    @cached_property
    def _unit(self) -> str:
        return indentation_unit(self._prefix, self._suffix)

    @cached_property
    def _unshown(self) -> str:
        """One level of indentation where no line of text shows it."""
        return unit_at_cursor(self._tail, self._above) or self._wished
