"""Where a text does not parse: tree-sitter, what it lets pass, and for Python the compiler."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import parse, query
from blockdiff.syntax.python_compiler import MOST_CHARACTERS, NotJudged, refusal
from blockdiff.syntax.refused import refused

if TYPE_CHECKING:
    import tree_sitter

_MOST_ERRORS = 2_000


@dataclass(frozen=True, slots=True)
class SyntaxFault:
    """A range of a text that is wrong, or with `start == end` where something is missing."""

    start: int
    end: int

    def touches(self, start: int, end: int) -> bool:
        return self.start <= end and self.end >= start

    def touches_fault(self, other: SyntaxFault) -> bool:
        return self.touches(other.start, other.end)

    def encloses(self, start: int, end: int) -> bool:
        return self.start < start and self.end >= end

    def moved(self, by: int) -> SyntaxFault:
        return SyntaxFault(self.start + by, self.end + by)


def syntax_faults(text: str, language: str, start: int, end: int) -> list[SyntaxFault]:
    """What is wrong with a text: ERROR and MISSING nodes, in code points, outermost only.

    What a grammar lets pass is looked for only at `text[start:end]`, the part that is new. Where
    the Python compiler accepts a text, nothing is wrong with it; what it refuses counts unless the
    text is made for another version of Python.

    Raises:
        NoGrammar, OutOfTime: nothing is known.
    """
    text, data, tree = _parsed(text, language)
    return _faults(text, data, tree, language, start, end)


def _parsed(text: str, language: str) -> tuple[str, bytes, tree_sitter.Tree]:
    text = re.sub("\r(?!\n)", "\n", text)  # grammars take a CR by itself for a blank
    data = text.encode("utf-8", "replace")  # a lone surrogate becomes one "?"
    return text, data, parse(data, language)


def _faults(
    text: str, data: bytes, tree: tree_sitter.Tree, language: str, start: int, end: int
) -> list[SyntaxFault]:
    first = len(text[:start].rstrip().encode("utf-8", "replace"))
    last = len(data) - len(text[end:].lstrip().encode("utf-8", "replace"))
    found = [*_in_tree(tree.root_node), *refused(tree, language, first, last)]
    faults = _in_characters(data, found)
    if language != "python" or _in_python_2(tree, first, last):
        return faults
    part = construct(text, start, end, language)
    if len(text) > MOST_CHARACTERS and not _stands_at_top(tree, text, part[0]):
        return faults
    try:
        place = _refusal(text, start, part)
    except NotJudged:
        return faults
    if place is None:
        return []
    if not faults and _too_new(tree, text, place):
        return []
    return [*faults, SyntaxFault(place, min(place + 1, len(text)))]


def parses(text: str, language: str, start: int, end: int) -> bool:
    """Whether `syntax_faults` would find nothing.

    For many texts of which most are wrong: the compiler is not asked about what the grammar
    refuses, so it is taken for wrong where only the compiler knows better.

    Raises:
        NoGrammar, OutOfTime: nothing is known.
    """
    text, data, tree = _parsed(text, language)
    return not tree.root_node.has_error and not _faults(text, data, tree, language, start, end)


_WRAPPER = "async def _():\n"


def _refusal(text: str, start: int, part: tuple[int, int]) -> int | None:
    """Where the compiler stops; of a fragment that begins indented before `start`, as a body."""
    if not re.match(r"\s*^[ \t]+\S", text[:start], re.MULTILINE):
        return refusal(text, part)
    skip = len(_WRAPPER)
    place = refusal(_WRAPPER + text, (part[0] + skip if part[0] else 0, part[1] + skip))
    return None if place is None else max(place - skip, 0)


def _stands_at_top(tree: tree_sitter.Tree, text: str, offset: int) -> bool:
    """Whether a statement of the top level begins at an offset, which may lie in a string."""
    byte = len(text[:offset].encode("utf-8", "replace"))
    node = tree.root_node.descendant_for_byte_range(byte, byte)
    while node is not None and node.parent is not None and node.parent != tree.root_node:
        node = node.parent
    return node is not None and node.start_byte == byte


def construct(text: str, start: int, end: int, language: str) -> tuple[int, int]:
    """The part of a text around `text[start:end]` that can stand alone, as far as lines tell.

    It begins with a line before the span's own that is not indented, and ends where the next such
    line begins behind it. Of Python nothing in between can change how that parses.
    """
    first = text.rfind("\n", 0, start) + 1
    while first > 0:
        first = text.rfind("\n", 0, first - 1) + 1
        if _begins(text, first, language):
            break
    last = end if text[start:end].endswith("\n") else _next_line(text, end)
    while last < len(text) and not _begins(text, last, language):
        last = _next_line(text, last)
    return first, last


_HEAD = re.compile(r"[\w@#]")
_NAME = re.compile(r"\w")  # `#endif` ends what is begun far above
_GOES_ON = re.compile(r"(?:else|elif|except|finally|elseif|end|until|catch|while)\b")
_GOES_WITH_NEXT = re.compile(r"@|#\[|template\b")
_ENDS = re.compile(r"[;}]\s*$|^\s*(?://|#|--|\*/|end\b)|\*/\s*$")


def _begins(text: str, line: int, language: str) -> bool:
    """Whether a top-level construct begins with the line at this offset."""
    head = _NAME if language in ("c", "cpp") else _HEAD
    if not head.match(text, line) or _GOES_ON.match(text, line):
        return False
    above = text[text.rfind("\n", 0, max(line - 1, 0)) + 1 : line]
    if _GOES_WITH_NEXT.match(above):
        return False
    return language == "python" or not above.strip() or bool(_ENDS.search(above))


def _next_line(text: str, offset: int) -> int:
    return text.find("\n", offset) + 1 or len(text)


def _in_tree(root: tree_sitter.Node) -> Iterator[tuple[int, int]]:
    """Byte ranges of ERROR and MISSING nodes, and of nodes that miss something unnamed."""
    todo, count = [root], 0
    while todo and count < _MOST_ERRORS:
        node = todo.pop()
        if node.is_missing:
            count += 1
            yield _gap(node), _gap(node)
        elif node.is_error:
            count += 1
            yield node.start_byte, node.end_byte
        elif node.has_error:
            children = [child for child in node.children if child.has_error or child.is_missing]
            if not children:  # the grammar hides what is missing
                count += 1
                yield node.start_byte, node.end_byte
            todo.extend(reversed(children))


def _gap(node: tree_sitter.Node) -> int:
    """Where something is missing: the comments that the grammar puts before it do not count."""
    before = node.prev_sibling
    while before is not None and "comment" in before.type:
        before = before.prev_sibling
    return node.start_byte if before is None else before.end_byte


def _in_characters(data: bytes, found: list[tuple[int, int]]) -> list[SyntaxFault]:
    characters, position = 0, 0
    at: dict[int, int] = {}
    for byte in sorted({b for pair in found for b in pair}):
        characters += len(data[position:byte].decode("utf-8", "replace"))
        at[byte] = characters
        position = byte
    return [SyntaxFault(at[first], at[last]) for first, last in found]


# --- versions of Python --------------------------------------------------------------------------

_PYTHON_2 = "[(print_statement) (exec_statement)] @x"


def _in_python_2(tree: tree_sitter.Tree, start: int, end: int) -> bool:
    """Whether there are statements of Python 2 outside these bytes."""
    size = tree.root_node.end_byte
    found = query("python", _PYTHON_2, tree.root_node, 0, size)
    return any(node.end_byte <= start or node.start_byte >= end for node in found)


_NEWER = (
    ((3, 11), '(except_clause "*") @x'),
    ((3, 11), "(subscript (list_splat)) @x"),
    ((3, 11), "(splat_type) @x"),
    ((3, 12), "(type_alias_statement) @x"),
    ((3, 12), "(function_definition type_parameters: (_)) @x"),
    ((3, 12), "(class_definition type_parameters: (_)) @x"),
    ((3, 12), "(string (interpolation)) @x"),
    ((3, 14), '((string_start) @x (#match? @x "[tT]"))'),
    ((3, 14), "(except_clause value: (_) value: (_)) @x"),
)


def _too_new(tree: tree_sitter.Tree, text: str, place: int) -> bool:
    """Whether the compiler may have stopped at `place` for what this Python is too old for.

    It stops at the first fault, so a statement of the top level that begins behind it is none.
    """
    root = tree.root_node
    last = len(text[:place].encode("utf-8", "replace"))
    for version, source in _NEWER:
        if sys.version_info >= version:
            continue
        for node in query("python", source, root, 0, root.end_byte):
            if node.type == "string" and not _quotes_anew(node):
                continue
            while node.parent is not None and node.parent != root:
                node = node.parent
            if node.start_byte <= last:
                return True
    return False


def _quotes_anew(node: tree_sitter.Node) -> bool:
    """Whether an f-string holds what ended it before 3.12: its quotes, `\\`, `#`, a new line."""
    quote = node.children[0].text or b""
    quote = quote.lstrip(b"fFrRbBuU")
    inside = b"".join(c.text or b"" for c in node.children if c.type == "interpolation")
    return quote in inside or b"\\" in inside or b"#" in inside or b"\n" in inside
