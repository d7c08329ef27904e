"""An instruction in a comment of the selection, for editors that have no way to ask for one."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MOST_SHOWN = 60  # characters, in a menu
_COMMENT = re.compile(
    r"""[ \t]* (?:\#+ | //+!? | --+ | /\*+ | \*+ | ;+ | %+ | <!--+ | \{-+ | \(\*+ | " )
    [ \t]* (?:TODO[ ]?\(ai\) | ai) [ \t]* : [ \t]* (?P<what>\S.*?)
    [ \t]* (?:\*+/ | -+> | -\} | \*+\))? [ \t]* \r?""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """What to do with a span of a text.

    Attributes:
        start, end: offsets of the span, the comment included.
        shown: what stands there without it; None: what stands there.
        what: in a person's words.
    """

    start: int
    end: int
    shown: str | None
    what: str

    @property
    def short(self) -> str:
        """One line of it."""
        words = self.what
        return words if len(words) <= _MOST_SHOWN else words[: _MOST_SHOWN - 1].rstrip() + "…"


def instruction_in(text: str, start: int, end: int) -> Instruction | None:
    """That of a selection whose first or last line is `TODO(ai): ...` or `AI: ...` in a comment.

    Where that comment is all there is, it is what becomes code.
    """
    first = text.rfind("\n", 0, start) + 1
    start = first if not text[first:start].strip() else start
    lines = text[start:end].splitlines(keepends=True)
    filled = [number for number, line in enumerate(lines) if line.strip()]
    for number in (filled[0], filled[-1]) if filled else ():
        match = _COMMENT.fullmatch(lines[number].rstrip("\n"))
        if match is None:
            continue
        rest = lines[:number] + lines[number + 1 :]
        if not "".join(rest).strip():
            return Instruction(start, end, None, match["what"])
        shown = "".join(rest)
        if number == len(lines) - 1 and not lines[number].endswith("\n"):
            shown = shown.removesuffix("\n").removesuffix("\r")
        return Instruction(start, end, shown, match["what"])
    return None
