"""Whether a place in a text lies in code, in a comment or in a string."""

from __future__ import annotations

from enum import Enum

from blockdiff.syntax import nesting
from blockdiff.syntax.grammars import language_of, parsed

# Code within a string, such as `${…}`.
_CODE = frozenset({"interpolation", "template_substitution", "string_interpolation"})
_CHARACTERS = frozenset({"char_literal", "character_literal", "rune_literal"})
_BLOCK_ENDS = (b"*/", b"]]", b"-->")


class Region(Enum):
    """What a place lies in."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"


def region_at(text: str, at: int, language: str) -> Region:
    """What the offset `at`, in code points, lies in; at the end of a line comment still in that.

    By tree-sitter; where it has no grammar or no time, or finds an error (a string that is still
    typed has no end), by the brackets and quotes before it.
    """
    name = language_of("", language)
    data = text.encode("utf-8", "surrogatepass")
    place = len(text[:at].encode("utf-8", "surrogatepass"))
    tree = parsed(data, name)
    if tree is None:
        return _by_scan(text[:at], name)
    node = tree.root_node.descendant_for_byte_range(max(place - 1, 0), place)
    while node is not None:
        if node.type == "ERROR":
            return _by_scan(text[:at], name)
        inside = node.start_byte < place < node.end_byte
        if "comment" in node.type and _in_comment(
            data[node.start_byte : node.end_byte], place - node.start_byte
        ):
            return Region.COMMENT
        if inside and node.type in _CODE:
            return Region.CODE
        is_string = "string" in node.type or node.type in _CHARACTERS
        if inside and is_string and not node.type.startswith("concatenated"):
            return Region.STRING
        node = node.parent
    return _by_scan(text[:at], name) if tree.root_node.has_error else Region.CODE


def _in_comment(comment: bytes, place: int) -> bool:
    """Whether a place in or behind a comment is still in it: the line break that ends it is not."""
    content = comment.rstrip(b"\r\n")
    ended = content.endswith(_BLOCK_ENDS)
    return 0 < place < len(content) or (place == len(content) and not ended)


def _by_scan(before: str, language: str) -> Region:
    state = nesting.scan(before, language)
    if state.in_string:
        return Region.STRING
    return Region.COMMENT if state.inside else Region.CODE
