"""What a document says far above a hole that matters there: imports, and what encloses the hole.

Only the text before the hole is looked at, with whatever it leaves open closed: what is typed at
the hole or below it does not change the outline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import parsed
from blockdiff.syntax.nesting import Nesting, scan

if TYPE_CHECKING:
    import tree_sitter

MOST_CHARACTERS = 300_000  # read in a sixth of a second; above, the nearest lines have to do

_LONGEST_PIECE = 400  # characters; longer import lists and signatures are left out

_IMPORTS = frozenset({
    "import_statement", "import_from_statement", "future_import_statement",  # python, javascript
    "package_clause", "import_declaration", "package_declaration",  # go, java
    "use_declaration", "extern_crate_declaration",  # rust
    "preproc_include", "using_declaration", "namespace_alias_definition",  # c, c++
})  # fmt: skip
_MAY_REQUIRE = frozenset({
    "lexical_declaration", "variable_declaration", "local_variable_declaration",
})  # fmt: skip
_IMPORTS_ARE_IN = frozenset({
    "if_statement", "try_statement", "block", "except_clause", "else_clause", "ERROR",
    "preproc_if", "preproc_ifdef", "preproc_else", "preproc_elif", "linkage_specification",
    "declaration_list",
})  # fmt: skip
_DEFINITIONS = frozenset({
    "function_definition", "class_definition",  # python; c, c++ and lua for the first
    "function_declaration", "generator_function_declaration", "method_definition",  # javascript
    "function_expression", "arrow_function", "class_declaration", "class",
    "abstract_class_declaration", "interface_declaration", "internal_module", "module",
    "method_declaration", "func_literal",  # go
    "function_item", "impl_item", "trait_item", "mod_item",  # rust
    "constructor_declaration", "enum_declaration", "record_declaration",  # java
    "annotation_type_declaration", "compact_constructor_declaration",
    "class_specifier", "struct_specifier", "union_specifier", "namespace_definition",  # c++
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class OutlineEntry:
    """Lines of the outline.

    Attributes:
        first_row, last_row: the lines that they are in, counted from 0.
        text: ends with a line break.
        encloses: the head of something that the end of the text is inside of.
    """

    first_row: int
    last_row: int
    text: str
    encloses: bool


@lru_cache(maxsize=8)  # the same text again with every character that is typed behind it
def outline(text: str, language: str) -> tuple[OutlineEntry, ...]:
    """The imports in `text`, LF only, and the heads of what its end is inside of, in their order.

    Empty without a grammar for the language, or for a text of more than `MOST_CHARACTERS`.
    """
    content = text.rstrip()
    if not content or len(content) > MOST_CHARACTERS:
        return ()
    data = content.encode("utf-8", "replace")
    state = scan(content, language)
    tree = parsed(data + _closing(content, language, state).encode(), language)
    if tree is None:
        return ()
    imports, around = [*_imports(tree.root_node, data)], [*_around(tree.root_node, len(data) - 1)]
    blocks = [offset for closer, offset in state.stack if closer in ("}", "end")]
    if blocks and any(node.is_error for node in around):
        # What is broken stands behind the last block's opening, more often than not.
        text = content[: blocks[-1]] + content[blocks[-1] :].split(maxsplit=1)[0]
        start = text.encode("utf-8", "replace")
        closing = _closing(text, language, scan(text, language))
        if again := parsed(start + closing.encode(), language):
            around = [*_around(again.root_node, len(start) - 1)]
    pieces = [
        *(_piece(node, node.end_byte, data, False) for node in imports),
        *(_head(node, data) for node in around if node.type in _DEFINITIONS),
    ]
    kept = {piece for piece in pieces if piece is not None}
    return tuple(sorted(kept, key=lambda piece: (piece.first_row, piece.last_row)))


def _closing(text: str, language: str, state: Nesting) -> str:
    """What ends the strings, brackets and blocks that a text leaves open."""
    if not state.in_text and language == "python" and text.endswith(":") and not state.stack:
        last = text[text.rfind("\n") + 1 :]
        return "\n" + last[: len(last) - len(last.lstrip())] + " pass"
    return state.inside + "".join(f" {closer}" for closer, _ in reversed(state.stack))


def _imports(root: tree_sitter.Node, data: bytes) -> Iterator[tree_sitter.Node]:
    todo = [*reversed(root.children)]
    while todo:
        node = todo.pop()
        if node.type in _IMPORTS:
            yield node
        elif node.type in _MAY_REQUIRE:
            if b"require" in data[node.start_byte : node.end_byte][:_LONGEST_PIECE]:
                yield node
        elif node.type in _IMPORTS_ARE_IN:
            todo.extend(reversed(node.children))


def _around(root: tree_sitter.Node, offset: int) -> Iterator[tree_sitter.Node]:
    """The nodes around a byte but for the root, which may be called `module`; innermost first."""
    node = root.descendant_for_byte_range(offset, offset)
    while node is not None and node.parent is not None:
        yield node
        node = node.parent


def _head(node: tree_sitter.Node, data: bytes) -> OutlineEntry | None:
    """A definition from the start of its line up to its body."""
    body = node.child_by_field_name("body")
    if body is None:
        end = data.find(b"\n", node.start_byte)
        return _piece(node, end if end >= 0 else len(data), data, True)
    return _piece(node, body.start_byte + data.startswith(b"{", body.start_byte), data, True)


def _piece(node: tree_sitter.Node, end: int, data: bytes, encloses: bool) -> OutlineEntry | None:
    start = data.rfind(b"\n", 0, node.start_byte) + 1
    text = data[start:end].decode("utf-8", "replace").rstrip()
    if not text.strip() or len(text) > _LONGEST_PIECE:
        return None
    first = node.start_point[0]
    return OutlineEntry(first, first + text.count("\n"), text + "\n", encloses)
