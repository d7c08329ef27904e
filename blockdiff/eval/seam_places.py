"""Places of a file where a person may ask for text, by kind: found in its tree, or in its words
where there is no grammar for the language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import parsed

if TYPE_CHECKING:
    import tree_sitter

KINDS = {
    "mid-line": "an operand or a name, with more behind it in its line",
    "line-end": "the rest of a line",
    "body": "all of a function but its head and its docstring",
    "docstring": "the text of a docstring, or of the comment before a definition",
    "arguments": "what a call passes, or a command's words",
    "string": "the text of a string, or its last words",
}
CharRange = tuple[int, int]

_CHARACTERS = {
    "mid-line": (2, 60), "line-end": (4, 80), "body": (12, 320),
    "docstring": (16, 320), "arguments": (3, 80), "string": (4, 80),
}  # fmt: skip
_MOST_LINES = 8
_BODIES = ("block", "statement_block", "compound_statement", "constructor_body")
_ARGUMENTS = ("argument_list", "arguments")
_STRINGS = ("string", "string_literal", "interpreted_string_literal", "template_string")
_WORDED = ("comment", "string", "char", "preproc", "import")
_OF_LICENCE = re.compile(r"copyright|licen[cs]e|SPDX", re.IGNORECASE)
_COMMENT = re.compile(
    r"(?P<open>(?:/\*[*!]?|//[/!]?|--+|#!?)\s*(?:\*\s*)?)(?P<text>.*?)\s*(?:\*/)?"
)
_QUOTED = re.compile(r"""\w*(?P<quote>"{3}|'{3}|["'`])(?P<text>.*)(?P=quote)""", re.S)


def places(text: str, language: str) -> dict[str, list[CharRange]]:
    """All places of each kind, in order, as offsets into `text`."""
    tree = parsed(text.encode(), language)
    if tree is None:
        return {kind: _usable(kind, find(text), text) for kind, find in _OF_WORDS.items()}
    nodes = list(_walk(tree.root_node, _offsets(text)))
    return {kind: _usable(kind, find(nodes, text), text) for kind, find in _OF_TREE.items()}


def _usable(kind: str, found: Iterable[CharRange], text: str) -> list[CharRange]:
    """Those of a fitting size, without blanks at their ends."""
    low, high = _CHARACTERS[kind]
    return sorted(
        {
            (start, end)
            for start, end in found
            if low <= end - start <= high
            and not (text[start].isspace() or text[end - 1].isspace())
            and text.count("\n", start, end) < _MOST_LINES
        }
    )


@dataclass(frozen=True, slots=True)
class _Node:
    """A node and where it stands in the text; `worded`: in a comment, a string, an import."""

    node: tree_sitter.Node
    start: int
    end: int
    worded: bool

    @property
    def type(self) -> str:
        return self.node.type


def _walk(root: tree_sitter.Node, at: list[int]) -> Iterator[_Node]:
    todo = [(root, False)]
    while todo:
        node, worded = todo.pop()
        worded = worded or any(word in node.type for word in _WORDED)
        yield _Node(node, at[node.start_byte], at[node.end_byte], worded)
        todo += [(child, worded) for child in reversed(node.children)]


def _offsets(text: str) -> list[int]:
    """The character that each byte of UTF-8 belongs to, and the end."""
    found = [i for i, character in enumerate(text) for _ in character.encode()]
    return [*found, len(text)]


def _line(text: str, at: int) -> CharRange:
    end = text.find("\n", at)
    return text.rfind("\n", 0, at) + 1, len(text) if end < 0 else end


def _in_line(text: str, start: int, end: int) -> bool:
    """Whether code stands before the span in its line and the span stays in it."""
    first, last = _line(text, start)
    return end <= last and bool(text[first:start].strip())


# --- in a tree ------------------------------------------------------------------------------------


def _mid_line(nodes: list[_Node], text: str) -> Iterator[CharRange]:
    for one in nodes:
        if one.node.is_named and not one.worded and _in_line(text, one.start, one.end):
            if text[one.end : _line(text, one.end)[1]].strip():
                yield one.start, one.end


def _line_end(nodes: list[_Node], text: str) -> Iterator[CharRange]:
    for one in nodes:
        if one.node.is_named and not one.worded and not one.node.children:
            first, last = _line(text, one.start)
            if text[first : one.start].strip():
                yield one.start, first + len(text[first:last].rstrip())


def _bodies(nodes: list[_Node], text: str) -> Iterator[CharRange]:
    for one in nodes:
        node, start = one.node, one.start
        around = node.parent.type if node.parent else ""
        if node.type not in _BODIES or not re.search("function|method|constructor", around):
            continue
        inner = text[start : one.end]
        if inner.startswith("{"):
            start, inner = start + 1, inner[1:-1]
        elif node.children and _is_docstring(node.children[0]) and len(node.children) > 1:
            skipped = node.children[1].start_byte - node.start_byte
            skipped = len(inner.encode()[:skipped].decode())
            start, inner = start + skipped, inner[skipped:]
        yield _stripped(text, start, start + len(inner))


def _is_docstring(node: tree_sitter.Node) -> bool:
    return node.type == "expression_statement" and node.children[0].type == "string"


def _docstrings(nodes: list[_Node], text: str) -> Iterator[CharRange]:
    run: CharRange | None = None  # of comments that follow one another line by line
    for one in nodes:
        start, end, parent = one.start, one.end, one.node.parent
        if _is_docstring(one.node) and (quoted := _QUOTED.fullmatch(text[start:end])):
            yield _stripped(text, start + quoted.start("text"), start + quoted.end("text"))
        if "comment" not in one.type or (parent and "comment" in parent.type):
            continue
        end = start + len(text[start:end].rstrip())
        first, last = _line(text, start)[0], _line(text, end)[1]
        if text[first:start].strip() or text[end:last].strip():
            continue
        goes_on = run and not text.startswith("/*", start) and text[run[1] : start].isspace()
        run = (run[0] if run and goes_on and text.count("\n", run[1], start) == 1 else start), end
        following = text[last + 1 : _line(text, min(last + 1, len(text)))[1]].strip()
        if following and not following.startswith(("//", "/*", "#", "--")):
            yield from _comment(text, *run)


def _comment(text: str, start: int, end: int) -> Iterator[CharRange]:
    """Of the words of a comment, without the marks around them."""
    inside = _COMMENT.fullmatch(text[start:end].replace("\n", "\0"))
    if inside and not _OF_LICENCE.search(text[start:end]):
        words = start + inside.start("text"), start + inside.end("text")
        lead = re.match(r"[\s*]*", text[words[0] : words[1]])
        yield _stripped(text, words[0] + (lead.end() if lead else 0), words[1])


def _stripped(text: str, start: int, end: int) -> CharRange:
    inner = text[start:end]
    lead = len(inner) - len(inner.lstrip())
    return start + lead, max(start + lead, start + len(inner.rstrip()))


def _arguments(nodes: list[_Node], text: str) -> Iterator[CharRange]:
    for one in nodes:
        inner = text[one.start : one.end]
        if one.type in _ARGUMENTS and inner[:1] == "(" and inner[-1:] == ")":
            if "\n" not in inner:
                yield one.start + 1, one.end - 1


def _strings(nodes: list[_Node], text: str) -> Iterator[CharRange]:
    for one in nodes:
        inner, parent = text[one.start : one.end], one.node.parent
        if one.type in _STRINGS and "\n" not in inner and not (parent and _is_docstring(parent)):
            if quoted := _QUOTED.fullmatch(inner):
                yield from _whole_and_tail(text, one.start + quoted.start("text"), one.end)


def _whole_and_tail(text: str, start: int, end: int) -> Iterator[CharRange]:
    """A string's text, and what stands behind its first word."""
    last = end - 1
    yield start, last
    blank = text.find(" ", start, last)
    if blank > start:
        yield blank + 1, last


_OF_TREE = {
    "mid-line": _mid_line, "line-end": _line_end, "body": _bodies,
    "docstring": _docstrings, "arguments": _arguments, "string": _strings,
}  # fmt: skip

# --- in words: the shell --------------------------------------------------------------------------

_WORD = re.compile(r"[^\s;|&<>(){}\[\]]+")
_FUNCTION = re.compile(r"^\w+ *\(\) *\{\n(.*?)\n\}$", re.M | re.S)
_REMARK = re.compile(r"(?:^#[^!\n].*\n)+(?=[^#\n])", re.M)
_COMMAND = re.compile(
    r"^[ \t]*(?!(?:if|then|else|fi|for|while|do|done|case|esac)\b)[\w./-]+ (.+)$", re.M
)
_STRING = re.compile(r'"([^"\n]+)"')


def _code_words(text: str) -> Iterator[CharRange]:
    for word in _WORD.finditer(text):
        first, _ = _line(text, word.start())
        before = text[first : word.start()]
        if before.strip() and not before.lstrip().startswith("#"):
            yield word.span()


def _shell_mid_line(text: str) -> Iterator[CharRange]:
    return ((a, b) for a, b in _code_words(text) if text[b : _line(text, b)[1]].strip())


def _shell_line_end(text: str) -> Iterator[CharRange]:
    return ((a, _line(text, a)[1]) for a, _ in _code_words(text))


def _shell_bodies(text: str) -> Iterator[CharRange]:
    return (_stripped(text, *match.span(1)) for match in _FUNCTION.finditer(text))


def _shell_docstrings(text: str) -> Iterator[CharRange]:
    for match in _REMARK.finditer(text):
        yield from _comment(text, match.start(), match.end() - 1)


def _shell_arguments(text: str) -> Iterator[CharRange]:
    return (match.span(1) for match in _COMMAND.finditer(text))


def _shell_strings(text: str) -> Iterator[CharRange]:
    for match in _STRING.finditer(text):
        if not text[_line(text, match.start())[0] : match.start()].lstrip().startswith("#"):
            yield from _whole_and_tail(text, match.start(1), match.end())


_OF_WORDS = {
    "mid-line": _shell_mid_line, "line-end": _shell_line_end, "body": _shell_bodies,
    "docstring": _shell_docstrings, "arguments": _shell_arguments, "string": _shell_strings,
}  # fmt: skip
