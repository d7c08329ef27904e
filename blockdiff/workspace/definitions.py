"""The definitions in a text, by tag queries: name, signature, first line of documentation, place.

Of a function it is what stands before its body, never the body. What is local to a function is left
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import matches, parsed
from blockdiff.workspace.queries import TAGS

if TYPE_CHECKING:
    import tree_sitter

MOST_DEFINITIONS = 2_000
"""Of one file: more are data, or written by a program."""

_LONGEST_SIGNATURE, _LONGEST_DOC = 240, 120  # characters
_MOST_IN_ERROR = 5000  # nodes
_LONGEST_VALUE = 60  # of a constant

_NAME = re.compile(r"[^\W\d]\w*")
_TYPE_PARAMETERS = re.compile(r"<.*|\[.*", re.DOTALL)
_DOCSTRING = re.compile(r"""[rRbBuUfF]{0,2}(?:\"{3}|'{3}|"|')\s*(.*)""")
_COMMENT_MARK = re.compile(
    r"^\s*(?:/\*+!?|//[/!]?|\*+/?|#+|--+(?:\[=*\[)?)\s*|\s*(?:\*/|\]=*\])\s*$"
)
_DECORATORS = ("@property", "@staticmethod", "@classmethod", "@cached_property", "@overload")


class TagKind(str, Enum):
    """What is defined."""

    FUNCTION = "function"
    METHOD = "method"
    CLASS = "class"  # whatever has members: also interfaces, structs, traits, enums
    FIELD = "field"
    CONSTANT = "constant"  # a name at the top level of a file
    TYPE = "type"
    MACRO = "macro"


@dataclass(frozen=True, slots=True)
class Definition:
    """Attributes:
    signature: its head, in one line but for decorators.
    doc: first line of its documentation; empty: it has none.
    container: the class it is a member of; empty: it is at the top level.
    line: counted from 0.
    path: of its file: relative to the workspace with slashes; absolute for installed packages.
    """

    name: str
    kind: TagKind
    signature: str
    doc: str = ""
    container: str = ""
    line: int = 0
    path: str = ""


@dataclass(slots=True)
class _Tag:
    """A match of a tag query; `inside` is the innermost one around it."""

    node: tree_sitter.Node
    kind: str
    name: str
    scope: str
    inside: _Tag | None = None

    @property
    def is_function(self) -> bool:
        if self.kind == "constant":  # of JavaScript, when it is a function
            return _body(self.node) is not None
        return self.kind in ("function", "method")


def _is_one_error(root: tree_sitter.Node) -> bool:
    """Whether an error puts more nodes side by side than queries for neighbours, which take the
    square of them, are worth."""
    return any(n.type == "ERROR" and n.child_count > _MOST_IN_ERROR for n in (root, *root.children))


def definitions(data: bytes, language: str) -> list[Definition]:
    """Those of a UTF-8 text, in its order; none without a grammar, or where parsing takes too
    long."""
    tree = parsed(data, language) if language in TAGS else None
    if tree is None or _is_one_error(tree.root_node):
        return []
    found: list[Definition] = []
    seen: set[tuple[str, str, str]] = set()
    for tag in _nested(_tags(tree.root_node, language, data)):
        made = _definition(tag, language, data)
        if made is None:
            continue
        key = (made.container, made.name, "" if made.kind is TagKind.FIELD else made.signature)
        if key not in seen:
            seen.add(key)
            found.append(made)
        if len(found) >= MOST_DEFINITIONS:
            break
    return found


def _tags(root: tree_sitter.Node, language: str, data: bytes) -> list[_Tag]:
    tags: dict[int, _Tag] = {}
    for captures in matches(language, TAGS[language], root):
        name = captures["name"][0]
        kind = next(key for key in captures if key.startswith("definition."))
        scope = captures.get("scope")
        node = captures[kind][0]
        tags.setdefault(
            name.start_byte,  # the first pattern that fits
            _Tag(
                node,
                kind.removeprefix("definition."),
                _text(name, data),
                _text(scope[0], data) if scope else "",
            ),
        )
    return sorted(tags.values(), key=lambda tag: (tag.node.start_byte, -tag.node.end_byte))


def _nested(tags: list[_Tag]) -> Iterator[_Tag]:
    around: list[_Tag] = []
    for tag in tags:
        while around and around[-1].node.end_byte <= tag.node.start_byte:
            around.pop()
        tag.inside = around[-1] if around else None
        yield tag
        if tag.node.end_byte > tag.node.start_byte:
            around.append(tag)


def _definition(tag: _Tag, language: str, data: bytes) -> Definition | None:
    around = tag.inside
    if around is not None and around.is_function:
        if not (language == "python" and tag.kind == "field" and around.inside is not None):
            return None
        around = around.inside  # what a method gives its object
        if around.kind != "class":
            return None
    if tag.kind == "impl" or not tag.name:
        return None
    while around is not None and around.kind in ("field", "constant"):
        around = around.inside
    container = tag.scope or (around.name if around else "")
    container = _bare(container)
    kind = TagKind(tag.kind)
    if container and kind in (TagKind.FUNCTION, TagKind.CONSTANT):
        kind = TagKind.METHOD if kind is TagKind.FUNCTION else TagKind.FIELD
    return Definition(
        name=tag.name,
        kind=kind,
        signature=_signature(tag, kind, language, data),
        doc=_doc(tag.node, language, data),
        container=container,
        line=tag.node.start_point[0],
    )


def _bare(container: str) -> str:
    """The name of a type without its parameters, path and pointers."""
    names = _NAME.findall(_TYPE_PARAMETERS.sub("", container))
    return names[-1] if names else ""


def _signature(tag: _Tag, kind: TagKind, language: str, data: bytes) -> str:
    node = tag.node
    body = _body(node)
    start, end = node.start_byte, body.start_byte if body is not None else node.end_byte
    if kind is TagKind.CONSTANT and node.type == "variable_declarator" and node.parent is not None:
        start = node.parent.start_byte  # with `const`
    text = data[start : min(end, start + 4 * _LONGEST_SIGNATURE)].decode("utf-8", "replace")
    if kind in (TagKind.FIELD, TagKind.CONSTANT, TagKind.MACRO) and body is None:
        text = text.split("\n", 1)[0].rstrip()
        text = f"{text} ..." if text.endswith(("[", "(")) else text
        if len(text) > _LONGEST_VALUE and "=" in text:
            head = text[: text.index("=") + 1]
            text = f"{head} ..." if len(head) < _LONGEST_SIGNATURE else head
    text = _PREFIXES.get(node.type, "") + " ".join(text.split())
    text = text.rstrip("{ ;").removesuffix("=>").rstrip()
    if node.type == "type_definition":
        text = f"{text.partition('{')[0].rstrip()} {tag.name}" if body is not None else text
    elif language == "lua":
        text = text.removesuffix(" end")
    text = text.replace("( ", "(").replace(", )", ")").replace(",)", ")").replace(" )", ")")
    if len(text) > _LONGEST_SIGNATURE:
        text = text[:_LONGEST_SIGNATURE].rsplit(",", 1)[0] + ", ...)"
    if language == "python" and node.parent is not None:
        if node.parent.type == "decorated_definition":
            heads = [
                _text(child, data)
                for child in node.parent.children
                if child.type == "decorator" and _text(child, data).startswith(_DECORATORS)
            ]
            text = "\n".join((*heads, text))
    return text


def _body(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """What a signature ends before."""
    body = node.child_by_field_name("body")
    if body is not None:
        is_head = body.type == "ordered_field_declaration_list"  # of Rust: `struct A(u8)`
        return None if is_head else body
    if node.type == "type_spec":  # of Go
        kind = node.child_by_field_name("type")
        if kind is not None and kind.type in ("struct_type", "interface_type"):
            return next((child for child in kind.children if child.type in _GO_BODIES), None)
    if node.type == "type_definition":  # of C: `typedef struct {`
        kind = node.child_by_field_name("type")
        return kind.child_by_field_name("body") if kind is not None else None
    for field in ("value", "right"):  # a function that has its name from what it is assigned to
        value = node.child_by_field_name(field)
        if value is not None and value.type in ("arrow_function", "function_expression"):
            return value.child_by_field_name("body")
    return None


_GO_BODIES = ("field_declaration_list", "{")
_PREFIXES = {
    "type_spec": "type ", "type_alias": "type ", "const_spec": "const ", "var_spec": "var "
}  # fmt: skip


def _doc(node: tree_sitter.Node, language: str, data: bytes) -> str:
    if language == "python":
        body = node.child_by_field_name("body")
        first = body.named_children[0] if body is not None and body.named_children else None
        if first is None or first.type != "expression_statement" or not first.named_children:
            return ""
        if first.named_children[0].type != "string":
            return ""
        text = _text(first, data, 4 * _LONGEST_DOC)
        found = _DOCSTRING.match(text)
        return _first_line(found[1].strip("\"'")) if found else ""
    while node.parent is not None and node.parent.type in _WRAPPERS:
        before = node.prev_named_sibling
        if before is not None and node.parent.type not in ("export_statement", *_TEMPLATES):
            break  # not the first of several
        node = node.parent
    row, said = node.start_point[0], ""
    above = node.prev_sibling
    while above is not None and above.type in _ATTRIBUTES:
        row, above = above.start_point[0], above.prev_sibling
    while above is not None and "comment" in above.type and above.end_point[0] >= row - 1:
        behind = above.prev_sibling
        if behind is not None and behind.end_point[0] == above.start_point[0] != 0:
            break  # it is about what stands before it in its line
        row, comment = above.start_point[0], _text(above, data, 8 * _LONGEST_DOC)
        lines = (_COMMENT_MARK.sub("", line).strip() for line in comment.splitlines())
        said = next((line for line in lines if _NAME.search(line)), said)
        above = above.prev_sibling
    return _first_line(said)


_TEMPLATES = ("template_declaration", "expression_statement")
_WRAPPERS = (
    "export_statement", "lexical_declaration", "variable_declaration", "type_declaration",
    "const_declaration", "var_declaration", *_TEMPLATES,
)  # fmt: skip
_ATTRIBUTES = ("attribute_item", "decorator", "marker_annotation", "annotation")


def _first_line(text: str) -> str:
    line = text.strip().split("\n", 1)[0].strip()
    return line if len(line) <= _LONGEST_DOC else line[:_LONGEST_DOC].rsplit(" ", 1)[0] + " …"


def _text(node: tree_sitter.Node, data: bytes, most: int = 1 << 12) -> str:
    end = min(node.end_byte, node.start_byte + most)
    return data[node.start_byte : end].decode("utf-8", "replace")
