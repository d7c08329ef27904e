"""What a draft and lines of the document have in common, word by word: blanks do not count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

TOKEN = re.compile(r"\w+|[^\w\s]")
TELLING_TOKENS = 3
_ALIKE = 0.6  # of two lines: twice the characters they share over all of both
_SAYS_LITTLE = 3  # characters: a bracket or two, which may well come twice
_ENDS_OPERAND = re.compile(r"[\w)\]}\"'`]$")


def agreeing(raw: str, at: int, words: list[str]) -> tuple[int, int]:
    """How many of the words the draft says from an offset on, and where it has said them."""
    end = at
    for number, word in enumerate(words):
        match = TOKEN.search(raw, end)
        between = raw[end : match.start()] if match else ""
        if match is None or "\n" in between:
            return number, end
        said = match.group()
        if said != word:
            return number, end
        end = match.end()
    return len(words), end


def telling(words: list[str]) -> bool:
    return len(words) >= TELLING_TOKENS and any(word[0].isalpha() for word in words)


def same_ends(line: str, rest: str, *, names: bool = True) -> Iterator[tuple[int, int]]:
    """Offsets in `line` and in `rest` from which on both say the same to their ends, the longest
    such end first, as long as it tells something or is all of `rest`. Without `names`, any word is
    as good as another.

    What stands before it in `line` is nothing or could be an operand that it goes on from.
    """
    ours, theirs = list(TOKEN.finditer(line)), list(TOKEN.finditer(rest))
    count = 0
    for one, other in zip(reversed(ours), reversed(theirs), strict=False):
        pair = one.group(), other.group()
        if pair[0] != pair[1] and (names or not all(word[0].isidentifier() for word in pair)):
            break
        count += 1
    for said in range(count, 0, -1):
        whole = names and said == len(theirs)
        if not whole and not telling([match.group() for match in ours[-said:]]):
            return
        at = ours[-said].start()
        if not line[:at].strip() or _ENDS_OPERAND.search(line[:at].rstrip()):
            yield at, theirs[-said].start()


def alike(line: str, other: str) -> bool:
    """Whether two lines are one but for a word or two, at the same depth."""
    if line[: len(line) - len(line.lstrip())] != other[: len(other) - len(other.lstrip())]:
        return False
    says_much = len(line.strip()) > _SAYS_LITTLE
    return says_much and SequenceMatcher(None, line, other, autojunk=False).ratio() > _ALIKE
