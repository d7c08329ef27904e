"""Which text around a hole the model sees, chosen so that typing moves as little of it as possible.

The text before the hole is cut at an anchor, the start of the line that the hole starts in. What
stands between the two is forced as the start of the answer (EFIM, arXiv 2505.21889): in the layout
`psm` the suffix comes before it, so that typing in the line leaves the suffix where and as it was
encoded. Everything here depends on the request alone: the same request has the same windows,
whatever was asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockdiff.infill.healing import PromptTokenizer
from blockdiff.syntax.outline import OutlineEntry, outline
from blockdiff.syntax.whitespace import BOM, to_lf
from blockdiff.types import InfillRequest

_BEGUN_SHARE = 8  # one part in 8 of the budget is for what stands behind the anchor
_OUTLINE_SHARE = 4  # at most one in 4 of the prefix for imports and signatures
_STEADY_SHARE = 4  # up to one in 4 of the prefix is given up for a start that moves rarely
_STEPS = 16  # the budget is given away in so many steps, so that a few tokens do not move an edge

_CHARACTERS_PER_TOKEN = 8  # of a first guess at how much text fills a budget
_MOST_CHARACTERS_PER_TOKEN = 32
_RESYNC_TOKENS = 16  # after a start within a line, until tokens are those of the whole text


@dataclass(frozen=True, slots=True)
class Windows:
    """The text around a hole as tokens, without gaps but for the outline.

    Attributes:
        before: outline and nearest lines up to the anchor.
        begun: from the anchor to the hole.
        after: from the end of the hole.
        used: tokens that they may take without moving; at least what they take.
    """

    before: list[int]
    begun: list[int]
    after: list[int]
    used: int


def windows(request: InfillRequest, tokenizer: PromptTokenizer) -> Windows:
    """The nearest lines within `request.context_tokens`, and the outline of what is above them.

    Two thirds are for the prefix, one for the suffix, and what one side does not need for the
    other.
    """
    document, start, end = request.document, request.hole.start, request.hole.end
    reserve = request.context_tokens // _BEGUN_SHARE
    at, begun = begun_behind(document, start, tokenizer, reserve)
    budget = request.context_tokens - reserve
    step = max(1, budget // _STEPS)
    after = text_after(document, end, tokenizer, budget)
    share = max(budget * 2 // 3, budget - len(after))
    before = text_before(document, at, tokenizer, share)
    if len(before) <= share:
        before_used = min(share, _rounded_up(len(before), step))
        if len(before) + len(after) <= budget:
            before_used = len(before)
    else:
        before = nearest_behind_outline(request, at, before, share, tokenizer)
        before_used = share
    after = first_lines(after, budget - before_used, tokenizer)
    used = _rounded_up(len(before), step) + _rounded_up(len(after), step) + reserve
    return Windows(before, begun, after, used)


def begun_behind(
    document: str, start: int, tokenizer: PromptTokenizer, limit: int
) -> tuple[int, list[int]]:
    """The anchor and the tokens behind it; in a line that is too long, the hole is the anchor."""
    at = document.rfind("\n", 0, start) + 1
    if start - at <= limit * _MOST_CHARACTERS_PER_TOKEN:
        text = document[at:start]
        tokens = tokenizer.encode(to_lf(text.removeprefix(BOM) if at == 0 else text))
        if len(tokens) <= limit:
            return at, tokens
    return start, []


def nearest_behind_outline(
    request: InfillRequest, at: int, tokens: list[int], limit: int, tokenizer: PromptTokenizer
) -> list[int]:
    """Of the tokens that end at `at` the last ones, behind the outline of what is above them."""
    document = request.document
    row = document.count("\n", 0, at)
    pieces = outline(to_lf(document[:at].removeprefix(BOM)), request.language)
    head: list[int] = []
    for room in (limit // _OUTLINE_SHARE, 0):  # what the outline leaves goes to the lines
        nearest, first_row = _steady(tokens, limit - max(room, len(head)), row, tokenizer)
        above = [piece for piece in pieces if piece.last_row < first_row]
        head = _fitting(above, limit // _OUTLINE_SHARE, tokenizer)
    return [*head, *nearest]


def _fitting(pieces: list[OutlineEntry], limit: int, tokenizer: PromptTokenizer) -> list[int]:
    """Tokens of the pieces that fit, in their order: what encloses the hole before the imports."""
    kept: list[OutlineEntry] = []
    for piece in sorted(pieces, key=lambda piece: not piece.encloses):
        size = len(tokenizer.encode(piece.text))
        if size <= limit:
            limit -= size
            kept.append(piece)
    kept.sort(key=lambda piece: piece.first_row)
    return [token for piece in kept for token in tokenizer.encode(piece.text)]


def _steady(
    tokens: list[int], limit: int, row: int, tokenizer: PromptTokenizer
) -> tuple[list[int], int]:
    """The last tokens within the limit, from a line that will still be the first a while later,
    and its number. `row` is the number of the line that the tokens end in.

    Of the lines that may be the first it is the one whose number has the most factors of two.
    """
    ends = [tokenizer.token_bytes(token).endswith(b"\n") for token in tokens]
    breaks = [tokenizer.token_bytes(token).count(b"\n") for token in tokens]
    first = len(tokens) - limit
    best, best_row, steadiness = -1, 0, -1
    line = row - sum(breaks[first:])
    for i in range(first, len(tokens) - limit + limit // _STEADY_SHARE + 1):
        if ends[i - 1] and (rank := line & -line) > steadiness:
            best, best_row, steadiness = i, line, rank
        line += breaks[i]
    if best < 0:
        nearest = last_lines(tokens, limit, tokenizer)
        return nearest, row - sum(breaks[len(tokens) - len(nearest) :])
    return tokens[best:], best_row


def _rounded_up(count: int, step: int) -> int:
    return -(-count // step) * step


def text_before(document: str, end: int, tokenizer: PromptTokenizer, limit: int) -> list[int]:
    """Tokens of the text that ends at `end`: at least `limit` if it has so many, or all."""
    size = limit * _CHARACTERS_PER_TOKEN
    while True:
        start = max(0, end - size)
        line = start if start == 0 else document.find("\n", start, end - size // 2) + 1 or start
        text = document[line:end]
        tokens = tokenizer.encode(to_lf(text.removeprefix(BOM) if line == 0 else text))
        if line > 0 and line == start:
            tokens = tokens[_RESYNC_TOKENS:]
        if start == 0 or len(tokens) >= limit or size >= limit * _MOST_CHARACTERS_PER_TOKEN:
            return tokens
        size *= 2


def text_after(document: str, start: int, tokenizer: PromptTokenizer, limit: int) -> list[int]:
    """Tokens of the text that begins at `start`: at least `limit` if it has so many, or all."""
    size = limit * _CHARACTERS_PER_TOKEN
    while True:
        end = min(len(document), start + size)
        whole = end == len(document)
        line = end if whole else document.rfind("\n", end - size // 2, end) + 1 or end
        text = document[start:line].removeprefix(BOM) if start == 0 else document[start:line]
        tokens = tokenizer.encode(to_lf(text))
        if not whole and line == end:
            tokens = tokens[: max(0, len(tokens) - _RESYNC_TOKENS)]
        if whole or len(tokens) >= limit or size >= limit * _MOST_CHARACTERS_PER_TOKEN:
            return tokens
        size *= 2


def last_lines(tokens: list[int], limit: int, tokenizer: PromptTokenizer) -> list[int]:
    """The last tokens within the limit, from the start of a line if that costs less than half."""
    if len(tokens) <= limit:
        return tokens
    first = len(tokens) - limit
    for i in range(first, len(tokens) - limit // 2):
        if tokenizer.token_bytes(tokens[i - 1]).endswith(b"\n"):
            return tokens[i:]
    while first < len(tokens) and splits_character(tokens, first, tokenizer):
        first += 1
    return tokens[first:]


def first_lines(tokens: list[int], limit: int, tokenizer: PromptTokenizer) -> list[int]:
    """The first tokens within the limit, to the end of a line if that costs less than half."""
    if len(tokens) <= limit:
        return tokens
    for i in range(limit, limit // 2, -1):
        if tokenizer.token_bytes(tokens[i - 1]).endswith(b"\n"):
            return tokens[:i]
    end = limit
    while end > 0 and splits_character(tokens, end, tokenizer):
        end -= 1
    return tokens[:end]


def splits_character(tokens: Sequence[int], at: int, tokenizer: PromptTokenizer) -> bool:
    """Whether the token at an index begins within a UTF-8 character."""
    return at < len(tokens) and tokenizer.token_bytes(tokens[at])[0] & 0xC0 == 0x80
