"""What stands around the cursor, by tree-sitter: functions, their bodies, what does not parse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockdiff.grammars import language_of, parsed

if TYPE_CHECKING:
    from tree_sitter import Node

MOST_CHARACTERS = 1_000_000  # above, no action is offered that needs a parse

_FUNCTIONS = frozenset({
    "function_definition", "function_declaration", "generator_function_declaration",
    "method_definition", "method_declaration", "function_item", "constructor_declaration",
    "function_expression", "arrow_function", "func_literal",
})  # fmt: skip
_TRIVIAL = ("", "pass", "...", ";", "{}", "todo!()", "unimplemented!()")

# How documentation is opened and closed; above the function but for Python.
_COMMENTS = {
    "javascript": ("/**\n * ", "\n */\n"), "typescript": ("/**\n * ", "\n */\n"),
    "tsx": ("/**\n * ", "\n */\n"), "java": ("/**\n * ", "\n */\n"),
    "c": ("/**\n * ", "\n */\n"), "cpp": ("/**\n * ", "\n */\n"),
    "rust": ("/// ", "\n"), "go": ("// ", "\n"), "lua": ("--- ", "\n"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Function:
    """A function around the cursor.

    Attributes:
        start, end: offsets of the whole.
        body_start, body_end: of what is inside of its braces, or of its statements.
        body: the text there.
        indentation: of its first line.
        name: empty for one that has none.
        documented: whether it carries documentation.
    """

    start: int
    end: int
    body_start: int
    body_end: int
    body: str
    indentation: str
    name: str
    documented: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing but a placeholder is in its body."""
        lines = (line.strip() for line in self.body.splitlines())
        code = [line for line in lines if line and not line.startswith(("#", "//", "--", "/*"))]
        return " ".join(code).rstrip(";") in _TRIVIAL


def enclosing_function(text: str, at: int, path: str, language: str) -> Function | None:
    """The innermost function with a body around an offset; None without a grammar."""
    name = language_of(path, language)
    if len(text) > MOST_CHARACTERS:
        return None
    data = text.encode("utf-8", "replace")
    tree = parsed(data, name)
    if tree is None:
        return None
    line_end = text.find("\n", at)
    line_start = text.rfind("\n", 0, at) + 1
    line = text[line_start : line_end if line_end >= 0 else len(text)]
    # the cursor anywhere in the line where it begins is in the function
    place = max(at, line_start + len(line) - len(line.lstrip()))
    byte = len(text[:place].encode("utf-8", "replace"))
    node: Node | None = tree.root_node.descendant_for_byte_range(byte, byte)
    while node is not None:
        body = node.child_by_field_name("body")
        if node.type in _FUNCTIONS and body is not None:
            return _function(node, body, data, text, name)
        node = node.parent
    return None


def _function(node: Node, body: Node, data: bytes, text: str, language: str) -> Function:
    def offset(byte: int) -> int:
        return len(data[:byte].decode("utf-8", "replace"))

    start, end = offset(node.start_byte), offset(node.end_byte)
    first, last = offset(body.start_byte), offset(body.end_byte)
    if text[first : first + 1] == "{":
        first, last = first + 1, max(first + 1, last - 1)
    line = text.rfind("\n", 0, start) + 1
    head = text[line:start]
    name = node.child_by_field_name("name")
    return Function(
        start=start,
        end=end,
        body_start=first,
        body_end=last,
        body=text[first:last],
        indentation=head[: len(head) - len(head.lstrip())],
        name=data[name.start_byte : name.end_byte].decode("utf-8", "replace") if name else "",
        documented=_documented(node, body, language),
    )


def _documented(node: Node, body: Node, language: str) -> bool:
    if language == "python":
        first = next(iter(body.named_children), None)  # while one types there may be none
        if first is None or first.type != "expression_statement":
            return False
        return any(inner.type == "string" for inner in first.named_children[:1])
    before = node.prev_sibling
    if before is None and node.parent is not None and node.parent.type == "export_statement":
        before = node.parent.prev_sibling
    return before is not None and "comment" in before.type


def documentation(function: Function, text: str, language: str) -> tuple[int, str, str] | None:
    """Where documentation of a function goes, and the text around it; None if that is not known."""
    unit = "\t" if function.indentation.startswith("\t") else "    "
    if language == "python":
        line = text.rfind("\n", 0, function.body_start) + 1
        inner = text[line : function.body_start]
        if inner.strip():  # the body stands in the line of the signature
            return None
        indentation = inner or function.indentation + unit
        return function.body_start, '"""', f'"""\n{indentation}'
    if language not in _COMMENTS:
        return None
    opening, closing = _COMMENTS[language]
    line = text.rfind("\n", 0, function.start) + 1
    before = text[line : function.start]
    shares_line = any(mark in before for mark in "{};")
    place = function.start if shares_line else line + len(function.indentation)
    indented = [part.replace("\n", "\n" + function.indentation) for part in (opening, closing)]
    return place, indented[0], indented[1]


def broken_lines(text: str, path: str, language: str, near: int) -> tuple[int, int] | None:
    """Offsets of the lines around the error nearest to an offset; None where all parses."""
    name = language_of(path, language)
    if len(text) > MOST_CHARACTERS:
        return None
    data = text.encode("utf-8", "replace")
    tree = parsed(data, name)
    if tree is None or not tree.root_node.has_error:
        return None
    byte = len(text[:near].encode("utf-8", "replace"))
    errors = list(_errors(tree.root_node))
    start, end = min(errors, key=lambda e: max(e[0] - byte, byte - e[1], 0))
    first = len(data[:start].decode("utf-8", "replace"))
    last = len(data[: min(end, start + 2000)].decode("utf-8", "replace"))
    first = text.rfind("\n", 0, first) + 1
    stop = text.find("\n", max(first, last))
    return first, stop if stop >= 0 else len(text)


def _errors(root: Node) -> Iterator[tuple[int, int]]:
    todo = [root]
    while todo:
        node = todo.pop()
        if node.is_error or node.is_missing:
            yield node.start_byte, node.end_byte
        elif node.has_error:
            todo.extend(node.children)
