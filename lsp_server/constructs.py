"""What stands around the cursor, by tree-sitter: functions, their bodies and documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import parsed
from blockdiff.syntax.whitespace import indent_width, indentation_unit
from lsp_server.document import Blank
from lsp_server.faults import MOST_CHARACTERS

if TYPE_CHECKING:
    from tree_sitter import Node

_FUNCTIONS = frozenset({
    "function_definition", "function_declaration", "generator_function_declaration",
    "method_definition", "method_declaration", "function_item", "constructor_declaration",
    "function_expression", "arrow_function", "func_literal",
})  # fmt: skip
# What a function without a name of its own is the value of, and what stands before one.
_AROUND = frozenset({
    "variable_declarator", "lexical_declaration", "variable_declaration", "assignment_expression",
    "expression_statement", "pair", "public_field_definition", "field_definition",
    "expression_list", "assignment_statement", "var_spec", "var_declaration", "export_statement",
    "template_declaration", "decorated_definition",
})  # fmt: skip
_BEFORE = frozenset({"attribute_item", "decorator"})

_MOST_PLACEHOLDER = 300  # characters
_PLACEHOLDER = re.compile(
    r"""pass | \.\.\. | ; | return\s+NotImplemented | raise\s+NotImplementedError\b.*
    | (?:todo|unimplemented)! .*
    | throw\s+(?:new\s+)?[\w.]*(?:NotImplemented|UnsupportedOperation)\w*\s*\(.*\)
    | (?:(?:throw\s+(?:new\s+)? | raise\s+)[\w:.]+ | panic!? | error | assert | log\.Fatal
      | return\s+(?:nil,\s*)?(?:errors\.New|fmt\.Errorf) )\s*\( (?:(?:0|false)\s*&&)? [^\w(){};]*
      (?:[\w.]+\s*:?\s+)? (?:to\s?do\b | (?:is\s+)?not\s+(?:yet\s+)?(?:implemented|supported)
      | unimplemented | implement\s+me) .* \)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

_NOTHING = re.compile(r"return(?:\s+(?:[\d.]+[fFL]?|null|nil|None|false|False|undefined|''|\"\"))?")
_TO_DO = re.compile(r"\b(?:TODO|FIXME)\b|not (?:yet )?implemented", re.IGNORECASE)

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
        start, end: offsets of the whole, with what it is the value of and what decorates it.
        body_start, body_end: of what is inside of its braces, or of its statements.
        body: the text there.
        indentation: of its first line.
        name: empty for one that has none.
        documented: whether it carries documentation.
        blank: where its body is to be written; None: it has one, or it does not parse.
    """

    start: int
    end: int
    body_start: int
    body_end: int
    body: str
    indentation: str
    name: str
    documented: bool
    blank: Blank | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing but documentation and a placeholder is in its body."""
        return self.blank is not None


def enclosing_function(text: str, at: int, language: str) -> Function | None:
    """The innermost function with a body around an offset; None without a grammar."""
    if len(text) > MOST_CHARACTERS:
        return None
    data = text.encode("utf-8", "replace")
    tree = parsed(data, language)
    if tree is None:
        return None
    line_end = text.find("\n", at)
    line_start = text.rfind("\n", 0, at) + 1
    line = text[line_start : line_end if line_end >= 0 else len(text)]
    # the cursor anywhere in the line where it begins is in the function
    first = line_start + len(line) - len(line.lstrip())

    def node_at(offset: int) -> Node | None:
        byte = len(text[:offset].encode("utf-8", "replace"))
        return tree.root_node.descendant_for_byte_range(byte, byte)

    node = node_at(max(at, first))
    while node is not None and not _is_function(node, language):
        node = node.parent
    begun = _begun_at(node_at(first), len(text[:first].encode("utf-8", "replace")))
    if begun and _is_function(begun, language) and not (node and _holds(begun, node)):
        node = begun
    return _Read(node, data, text, language).function() if node is not None else None


def _is_function(node: Node, language: str) -> bool:
    return node.type in _FUNCTIONS and bool(node.child_by_field_name("body") or language == "lua")


def _holds(outer: Node, inner: Node) -> bool:
    return outer.start_byte <= inner.start_byte and inner.end_byte <= outer.end_byte


def _begun_at(node: Node | None, byte: int) -> Node | None:
    """The function that a statement is which begins there with a node: `const f = () => {}`, one
    decorated."""
    if node is None or node.start_byte != byte:  # a blank line, or one within a construct
        return None
    while node is not None and node.parent is not None and node.parent.start_byte == byte:
        node = node.parent
    todo = [node] if node is not None else []
    while todo:
        node = todo.pop()
        if node.type in _FUNCTIONS:
            return node if _outermost(node).start_byte == byte else None
        if node.type in _AROUND or node.parent is None:
            todo += [n for n in reversed(node.children) if n.end_byte > byte]
    return None


class _Read:
    """Reads a node that is a function, in code points."""

    def __init__(self, node: Node, data: bytes, text: str, language: str) -> None:
        self._node, self._data, self._text, self._language = node, data, text, language
        self._outer = _outermost(node) if language != "python" else node
        self._body = node.child_by_field_name("body")
        self._statements = list(self._body.named_children) if self._body else []
        if self._language == "go":  # they are in a list of their own
            lists = [n for n in self._statements if n.type == "statement_list"]
            self._statements = [n for inner in lists for n in inner.named_children] or [
                n for n in self._statements if n.type != "statement_list"
            ]
        if self._body is None or language == "lua":  # comments are outside of its body there
            outside = [n for n in node.named_children if "comment" in n.type]
            self._statements = sorted(
                (*self._statements, *outside), key=lambda n: (n.start_byte, n.end_byte)
            )

    def function(self) -> Function:
        first, last = self._inside()
        start = self._offset(self._outer.start_byte)
        name = self._node.child_by_field_name("name")
        return Function(
            start=start,
            end=self._offset(self._node.end_byte),
            body_start=first,
            body_end=last,
            body=self._text[first:last],
            indentation=self._indentation(),
            name=self._said(name) if name else "",
            documented=self._documented(),
            blank=None if self._node.has_error else self._blank(first, last),
        )

    def _offset(self, byte: int) -> int:
        return len(self._data[:byte].decode("utf-8", "replace"))

    def _said(self, node: Node) -> str:
        return self._data[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def _indentation(self) -> str:
        """Of the line where it begins."""
        start = self._offset(self._outer.start_byte)
        line = self._text[self._text.rfind("\n", 0, start) + 1 : start + 1]
        return line[: len(line) - len(line.lstrip())]

    def _unit(self) -> str:
        """One level of it."""
        own = "\t" if self._indentation().startswith("\t") else "    "
        return indentation_unit(self._text, "") or ("\t" if self._language == "go" else own)

    def _inside(self) -> tuple[int, int]:
        body = self._body
        if body is None:  # Lua, where an empty body is no node
            parameters = self._node.child_by_field_name("parameters")
            first = self._offset((parameters or self._node).end_byte)
            return first, max(first, self._offset(self._node.end_byte) - len("end"))
        first, last = self._offset(body.start_byte), self._offset(body.end_byte)
        if self._text[first : first + 1] == "{":
            first, last = first + 1, max(first + 1, last - 1)
        return first, last

    def _blank(self, first: int, last: int) -> Blank | None:
        """Where a body belongs; None where there is one."""
        code = [n for n in self._statements if "comment" not in n.type]
        said = self._docstring(code)
        if said is not None:
            code = code[1:]
        if len(code) > 1:
            return None
        if code:
            words = self._said(code[0])
            if len(words) > _MOST_PLACEHOLDER or not self._says_nothing(words):
                return None
            return Blank(self._offset(code[0].start_byte), self._offset(code[0].end_byte))
        if self._language == "python":
            return self._below(self._offset((said or self._node).end_byte), said)
        if self._body is not None and self._text[first - 1 : first] != "{":
            return None  # an expression
        comments = [self._offset(n.end_byte) for n in self._statements]
        behind = max((end for end in comments if first < end <= last), default=first)
        blanks = self._indentation()
        return Blank(behind, last, f"\n{blanks}{self._unit()}", f"\n{blanks}")

    def _says_nothing(self, words: str) -> bool:
        """Whether a statement holds the place of a body; an empty result does beside a comment
        that says so."""
        words = words.strip().rstrip(";").strip() or ";"
        if _NOTHING.fullmatch(words):
            inside = [n for n in self._node.named_children if "comment" in n.type]
            said = [self._said(n) for n in (*inside, *self._statements) if "comment" in n.type]
            return any(map(_TO_DO.search, said))
        return bool(_PLACEHOLDER.fullmatch(words))

    def _docstring(self, code: list[Node]) -> Node | None:
        if self._language != "python" or not code or code[0].type != "expression_statement":
            return None
        inner = code[0].named_children[:1]
        return code[0] if inner and inner[0].type == "string" else None

    def _below(self, at: int, said: Node | None) -> Blank | None:
        """In Python, below the head of a function or its docstring, and the comments there."""
        text = self._text
        depth = indent_width(self._indentation())
        blanks = self._indentation() + self._unit()
        at = _line_end(text, at)
        while at < len(text):
            end = _line_end(text, at + 1)
            line = text[at + 1 : end]
            if not line.strip():
                if said is None and indent_width(line) > depth:
                    return Blank(at + 1 + len(line.rstrip("\r\n")), at + 1 + len(line.rstrip("\r")))
                break
            if indent_width(line) <= depth:
                break
            if not line.lstrip().startswith("#"):
                return None  # its body, if the parser does not think so
            blanks = line[: len(line) - len(line.lstrip())]
            at = end
        if said is not None:
            start = self._offset(said.start_byte)
            before = text[text.rfind("\n", 0, start) + 1 : start]
            blanks = blanks if before.strip() else before
        at -= text[at - 1 : at] == "\r"
        return Blank(at, at, "\n" + blanks)

    def _documented(self) -> bool:
        if self._language == "python":
            return self._docstring(self._statements) is not None
        before = self._outer.prev_sibling
        return before is not None and "comment" in before.type


def _outermost(node: Node) -> Node:
    """A function with what it is the value of, and the attributes and decorators before it."""
    while node.parent is not None and node.parent.type in _AROUND:
        node = node.parent
    while (before := node.prev_sibling) is not None and before.type in _BEFORE:
        node = before
    return node


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def documentation(function: Function, text: str, language: str) -> Blank | None:
    """Where documentation of a function goes, and the text around it; None if that is not known."""
    unit = "\t" if function.indentation.startswith("\t") else "    "
    if language == "python":
        line = text.rfind("\n", 0, function.body_start) + 1
        inner = text[line : function.body_start]
        if inner.strip():  # the body stands in the line of the signature
            return None
        indentation = inner or function.indentation + unit
        at = function.body_start
        return Blank(at, at, '"""', f'"""\n{indentation}')
    if language not in _COMMENTS:
        return None
    opening, closing = _COMMENTS[language]
    line = text.rfind("\n", 0, function.start) + 1
    before = text[line : function.start]
    shares_line = any(mark in before for mark in "{};")
    at = function.start if shares_line else line + len(function.indentation)
    indented = [part.replace("\n", "\n" + function.indentation) for part in (opening, closing)]
    return Blank(at, at, indented[0], indented[1])
