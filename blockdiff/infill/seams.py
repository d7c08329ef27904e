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
from dataclasses import dataclass
from functools import cached_property

from blockdiff.infill.ending import CLAUSE, Ending
from blockdiff.infill.limit import TERMINATORS, Limit
from blockdiff.infill.prose import turns_to_prose
from blockdiff.infill.repetition import repeats_from
from blockdiff.infill.rest_of_line import RestOfLine
from blockdiff.syntax.check import check
from blockdiff.syntax.construct import Construct
from blockdiff.syntax.nesting import Nesting, excess, scan
from blockdiff.syntax.whitespace import (
    BOM,
    indent_width,
    indentation_unit,
    line_ending,
    reindent,
    to_lf,
    unit_at_cursor,
    without_blanks_twice,
)
from blockdiff.types import Extent, FinishReason, SyntaxState

_COMPARED_LINES = 64  # of the suffix; an overlap is never longer
_NEAR_ABOVE = 10_000  # characters
_TELLING_RUN = 3  # telling lines of the suffix in a row: the model is copying it
_WORD = re.compile(r"[^\W\d]\w*|\d+")
# No line of Python starts with one of these outside of brackets. (The grammar lets it pass, as it
# does two statements in one line: it is no judge of line breaks.)
_NEVER_FIRST = ":,.;=<>+*/%&|^"
# Twice in a row, each of these is an error or dead code.
_NEVER_TWICE = re.compile(
    r"\W*(?:(?:else|try|finally|pass)\b\W*$|(?:return|raise|throw|break|continue)\b)"
)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank; `start` is its offset in the draft, negative where the line began
    before the hole."""

    start: int
    text: str


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
        head = self._suffix.lstrip()[: 400 * _COMPARED_LINES].split("\n")
        first = self._suffix[: len(self._suffix) - len(self._suffix.lstrip())]
        self._gap = first[: first.rfind("\n") + 1]  # blank lines before the first line of text
        head[0] = first[len(self._gap) :] + head[0]
        self._following = [line.rstrip() for line in head if line.strip()][:_COMPARED_LINES]
        goes_on = self._gap == "\n" and not self._ends_line and bool(self._following)
        self._next_line = self._following[0] if goes_on else ""
        self._suffix_scans: dict[str, Nesting] = {}
        self._extent = extent
        self._in_line = bool(self._rest) and not self._ends_line and "\n" not in self._replaced
        self._all_following = self._suffix.count("\n") < _COMPARED_LINES

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
        keep = self._without_run(keep, final)
        ended = len(keep) < len(raw)
        whole_line = ended and self._extent is Extent.LINE
        keep = self._within_line(keep, final or whole_line, ended or not cut_off)
        keep = self._without_prose(keep, final)
        keep = self._without_repetition(keep)
        if final:
            keep = self._without_repeat(keep, cut_off)
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
        elif self._in_line and self._rest[0].isspace() and not self._before.inside:
            text = text.rstrip(" \t")
        unit, at_line_start = self._unit or self._unshown, not self._tail.strip()
        if not self._before.in_text and self._before.closers[-2:] not in (") ", "] "):
            text = without_blanks_twice(text, self._tail, self._above, unit)
        if self._extent not in (Extent.LINE, Extent.BLOCK):
            text = self._with_line_break(text)
        shown = bool(self._unit)
        if unit and (not shown or (" " if unit == "\t" else "\t") in text):
            text = reindent(
                text, unit, self._language, self._before, at_line_start, rescale=not shown
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
            return keep.rstrip(" \t") if self._rest and self._before.in_text else keep.rstrip()
        return keep

    def _without_closer(self, text: str) -> str:
        """Without a last line that closes what the text behind the hole closes anyway."""
        before, _, last = text.rpartition("\n")
        following = self._following[0] if self._following else ""
        same = "\n" in text and last.strip() == following.strip() and not last.strip()[:1].isalnum()
        if not same or not (last == following or self._excess(before) < self._excess(text)):
            return text
        return before.rstrip()

    def _within_line(self, raw: str, final: bool, ended: bool) -> str:
        if not self._in_line:
            return raw
        return raw[: self._line.met_at(raw, final, ended)]

    def _without_prose(self, raw: str, final: bool) -> str:
        place = turns_to_prose(raw, self._tail, self._language, self._before, final)
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
        if self._gap or not self._ends_line or not content:
            return keep[:content]
        end = keep.find("\n", content)  # blank lines above the next definition go
        return keep[: end + 1] if end >= 0 else keep[:content]

    def _without_run(self, raw: str, final: bool) -> str:
        """Without a run of lines that are those after the hole: enough of them, or all."""
        lines = _lines(raw, self._tail, final)
        for i in range(len(lines)):
            start = self._meets(lines[i], raw, several=True)
            if start is None:
                continue
            run = 1
            while (
                run < len(self._following)
                and i + run < len(lines)
                and lines[i + run].text == self._following[run]
            ):
                run += 1
            same = self._following[:run]
            telling = sum(_telling(line) or bool(CLAUSE.match(line)) for line in same)
            whole = self._all_following and run == len(self._following)
            clause = run > 1 and any(map(CLAUSE.match, same))
            if telling >= (2 if whole or clause else _TELLING_RUN) or (clause and run > 2):
                return raw[:start]
            last = lines[i + run - 1]
            if final and telling and self._closes_twice(raw, start, last.start + len(last.text)):
                return raw[:start]
        return raw

    def _without_repeat(self, raw: str, cut_off: bool) -> str:
        """Without an end that repeats how the suffix starts, the longest one there is evidence for:
        a telling line, or code that is better off without."""
        lines = _lines(raw, self._tail, True)
        for count in range(min(len(lines), len(self._following)), 0, -1):
            repeated = lines[-count:]
            partial = cut_off and repeated[-1].text != self._following[count - 1]
            start = self._meets(repeated[0], raw, count > 1, partial and count == 1)
            if start is None:
                continue
            same = [line.text for line in repeated[1:]]
            if partial and same:
                last = same.pop()
                if not self._following[count - 1].startswith(last):
                    continue
            if same != self._following[1 : 1 + len(same)]:
                continue
            keep, complete = raw[:start], [self._following[0], *same]
            if partial and count == 1:
                complete = [repeated[0].text]
            before, after = self._excess(raw), self._excess(keep)
            if after < before or (after == before and any(map(_telling, complete))):
                return keep
            if after == before and self._mended(raw, keep):
                return keep
        return raw

    def _first_line_if_it_fits(self, raw: str) -> str:
        """For a hole within a line: its first line, where that alone leaves no bracket open."""
        first, *more = raw.split("\n", 1)
        if not more or not self._rest or self._ends_line or not self._excess(raw):
            return raw
        for keep in first.rstrip().removesuffix(self._rest), first:
            if keep.strip() and not self._excess(keep) and self._mended(raw, keep):
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
        state = self._at_end_of(keep)
        torn = torn and not state.stack and not state.inside
        return keep if torn or self._mended(raw, keep) else raw

    def _with_line_break(self, text: str) -> str:
        """With a line break at the end where the next line needs it to stay a line of its own."""
        if not self._ends_line or not self._rest or not text or text[-1].isspace():
            return text
        indented = self._language == "python" and self._rest.startswith(("  ", "\t"))
        state = self._at_end_of(text)
        joined = indented and not state.stack and not state.in_text
        return text + "\n" if joined or self._mended(text, text + "\n") else text

    def _shown_at_cursor(self, text: str, whole: bool, reason: FinishReason) -> str:
        """Without blanks at its end, nor a last line that is not complete."""
        if whole and reason is FinishReason.LENGTH and "\n" in text.strip():
            text = text[: text.rfind("\n")]
        return self._without_closer(text.rstrip())

    # Evidence

    def _meets(self, line: _Line, raw: str, several: bool, partial: bool = False) -> int | None:
        """Where in `raw` a repeat of the suffix starts, if `line` is its first line.

        One of `several` lines, or a line of which only a `partial` start is there.
        """
        if not self._following:
            return None
        first = self._following[0]
        if self._gap:  # a line of its own
            same = first.startswith(line.text) if partial else first == line.text
            if not same or (line.start < 0 and self._tail.strip()):
                return None if partial else self._meets_behind(line, raw)
            keep = raw[: max(0, line.start)]
            return len(keep.removesuffix(self._gap) if keep.endswith(self._gap) else keep.rstrip())
        start = line.start + len(line.text) - len(first)
        if partial and self._ends_line:
            return line.start if line.start >= 0 and first.startswith(line.text) else None
        if partial or start < 0 or not line.text.endswith(first):
            return None
        keep = raw[:start]
        if self._ends_line and keep and not keep.endswith("\n"):
            return None
        if first[0].isspace() and keep != keep.rstrip(" \t") and not several:
            return None  # the same words, indented deeper: another line
        return start

    def _closes_twice(self, raw: str, start: int, end: int) -> bool:
        """Whether brackets do without what a draft says from `start` to `end` and from there on."""
        kept = self._excess(raw[:start])
        return kept < self._excess(raw) and kept < self._excess(raw[:end])

    def _meets_behind(self, line: _Line, raw: str) -> int | None:
        """Where a line ends that goes on with what the document has in the next one: a brace."""
        words = self._next_line.strip()
        start = line.start + len(line.text) - len(words)
        if not words or not line.text.endswith(words) or self._before.inside:
            return None
        if line.text.strip() == words:
            return None  # a line of its own
        if start <= 0 or (words[0].isalnum() and not raw[start - 1].isspace()):
            return None
        if line.start > 0 and indent_width(line.text) == indent_width(self._next_line):
            start = line.start if words[0].isalnum() else start  # the same, put differently
        return len(raw[:start].rstrip())

    def _at_end_of(self, text: str) -> Nesting:
        return scan(text, self._language, self._before)

    def _excess(self, text: str) -> int:
        """Brackets and strings without a partner in the document with `text` in the hole."""
        state = self._at_end_of(text)
        after = self._after(state.inside)
        stack, missing = [closer for closer, _ in state.stack], len(state.unmatched)
        for closer in after.unmatched:
            if stack and stack[-1] == closer:
                stack.pop()
            else:
                missing += 1
        return len(stack) + missing + len(after.stack) + after.in_string

    def _mended(self, raw: str, keep: str) -> bool:
        """Whether the document parses with `keep` in the hole and does not with `raw`."""
        broken = self._parses(raw) is SyntaxState.BROKEN
        return broken and self._parses(keep) is SyntaxState.OK

    def _parses(self, text: str) -> SyntaxState:
        start = len(self._prefix)
        document = self._prefix + text + self._suffix
        return check(document, start, start + len(text), self._language)

    def _after(self, inside: str) -> Nesting:
        """What the suffix opens and closes beyond its own, entered `inside` a string or not."""
        if inside not in self._suffix_scans:
            self._suffix_scans[inside] = scan(self._suffix, self._language, Nesting(inside=inside))
        return self._suffix_scans[inside]

    @cached_property
    def _above(self) -> str:
        """The last lines before that of the hole."""
        end = len(self._prefix) - len(self._tail)
        return self._prefix[max(0, end - _NEAR_ABOVE) : end]

    @cached_property
    def _line(self) -> RestOfLine:
        below = self._suffix.split("\n", 1)[1] if "\n" in self._suffix else ""
        return RestOfLine(
            tail=self._tail,
            rest=self._rest,
            language=self._language,
            before=self._before,
            line_start=len(self._prefix) - len(self._tail),
            following=next((line for line in below.split("\n", 40) if line.strip()), ""),
            unit=max(4, len((self._unit or self._unshown or " " * 4).expandtabs(8))),
            excess=self._excess,
            missing_elsewhere=excess(
                scan(self._prefix[: len(self._prefix) - len(self._tail)], self._language),
                "",
                below,
                self._language,
            ),
            mended=self._mended,
            closed_below=scan(below, self._language).unmatched,
        )

    @cached_property
    def _ends(self) -> Ending:
        return Ending(
            extent=self._extent,
            language=self._language,
            tail=self._tail,
            before=self._before,
            last=not self._suffix.strip() and bool(self._prefix.strip()) and not self._replaced,
            following=self._following[0] if self._following else "",
            next_line=self._next_line,
        )

    @cached_property
    def _limit(self) -> Limit:
        return Limit(
            language=self._language,
            tail=self._tail,
            before=self._before,
            following=self._following[0] if self._following else "",
            parses=lambda text: self._parses(self._as_line(text)),
            excess=lambda text: self._excess(self._as_line(text)),
            end_of_comment=self._ends.end_of_comment,
        )

    @cached_property
    def _before(self) -> Nesting:
        return scan(self._prefix, self._language)

    @cached_property
    def _construct(self) -> Construct:
        return Construct(
            self._prefix,
            self._suffix,
            self._language,
            self._before,
            suffix_owes=len(self._after("").unmatched),
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


def _lines(raw: str, tail: str, final: bool) -> list[_Line]:
    """Lines of a draft that are not blank; the last one only if it is `final` or complete."""
    lines, start = [], 0
    pieces = raw.split("\n")
    for number, piece in enumerate(pieces):
        if number == len(pieces) - 1 and not final:
            break
        text = piece if number else tail + piece
        if text.strip():
            lines.append(_Line(start if number else -len(tail), text.rstrip()))
        start += len(piece) + 1
    return lines


def _telling(line: str) -> bool:
    """Whether a line says enough that the same line right after it would be a surprise."""
    words = _WORD.findall(line)
    several = len(words) > 1 and any(not word[0].isdigit() for word in words)
    return several or bool(_NEVER_TWICE.match(line))
