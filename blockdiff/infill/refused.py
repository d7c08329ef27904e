"""What a tree-sitter grammar accepts and every compiler of the language refuses.

Grammars are made to colour code and let much pass. Here is what of that a reader of the tree can
tell by itself, as a table: a query whose captures `@x` are wrong, or may be and are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from blockdiff.grammars import query

if TYPE_CHECKING:
    import tree_sitter

Asked = Callable[["tree_sitter.Node"], "tree_sitter.Node | None"]
"""The node that is wrong of one that may be, or None."""

_RESERVED = {
    "c": "break case continue default do else enum for goto if return struct switch typedef union"
    " while",
    "cpp": "break case catch class continue default delete do else enum for goto if namespace new"
    " return struct switch template throw try typedef union using while",
    "java": "abstract assert break case catch class continue default do else enum extends final"
    " finally for if implements import instanceof interface native new package private protected"
    " public return static super switch synchronized this throw throws transient try volatile"
    " while",
    "typescript": "break case catch class const continue debugger default delete do else enum"
    " export extends finally for function if import in instanceof new return super switch this"
    " throw try typeof var while with",
    "rust": "as break const continue else enum extern fn for if impl in let loop match mod move mut"
    " pub ref return static struct trait type unsafe use where while",
    "lua": "and break do else elseif end false for function if in local nil not or repeat return"
    " then true until while",
}
# Where a reserved word may stand for itself: text that a macro takes apart, names of exports.
_UNREAD = frozenset(
    {"lifetime", "token_tree", "token_tree_pattern", "token_repetition", "token_repetition_pattern",
     "argument_list", "import_specifier", "export_specifier", "namespace_export", "meta_property",
     "preproc_def", "preproc_function_def", "preproc_params", "preproc_ifdef", "preproc_defined",
     "preproc_call"}
)  # fmt: skip
_STATEMENTS_OF_JAVA = frozenset(
    {"assignment_expression", "update_expression", "method_invocation", "switch_expression",
     "object_creation_expression"}
)  # fmt: skip
_TOP_OF_GO = frozenset(
    {"package_clause", "import_declaration", "const_declaration", "type_declaration",
     "var_declaration", "function_declaration", "method_declaration", "comment"}
)  # fmt: skip
_COMPARISONS = frozenset({"==", "!=", "<", ">", "<=", ">="})


def refused(
    tree: tree_sitter.Tree, language: str, start: int, end: int
) -> Iterator[tuple[int, int]]:
    """Byte ranges of what is wrong at the bytes `start` to `end` of a tree, or touches them."""
    for source, asked in _rules(language):
        for node in query(language, source, tree.root_node, start, end):
            wrong = asked(node) if asked else node
            if wrong is not None:
                yield wrong.start_byte, wrong.end_byte


@cache
def _rules(language: str) -> tuple[tuple[str, Asked | None], ...]:
    rules = list(_RULES.get("typescript" if language == "tsx" else language, ()))
    words = _RESERVED.get("typescript" if language == "tsx" else language, "")
    if words:
        listed = " ".join(f'"{word}"' for word in words.split())
        rules.append((f"((identifier) @x (#any-of? @x {listed}))", _read))
    return tuple(rules)


def _read(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """A reserved word as a name, unless a macro reads it or the grammar lost its way here."""
    parent = node.parent
    return None if parent is None or parent.has_error or parent.type in _UNREAD else node


def _ended_by_line(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Go: the last element of a list in lines, where no comma keeps the line from ending it."""
    closer = node.children[-1] if node.children else None
    if closer is None or closer.type not in (")", "]", "}"):
        return None
    last = closer.prev_sibling
    while last is not None and last.type == "comment":
        last = last.prev_sibling
    if last is None or not last.is_named or last.end_point.row == closer.start_point.row:
        return None
    return None if last.type == "variadic_argument" else last


def _no_top_of_go(root: tree_sitter.Node) -> tree_sitter.Node | None:
    wrong = (child for child in root.named_children if child.type not in _TOP_OF_GO)
    return next(wrong, None)


def _no_statement(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Java: an expression that does nothing is no statement, unless it is what a case gives."""
    if node.parent is not None and node.parent.type == "switch_rule":
        return None
    value = node.named_children[0] if node.named_children else None
    return None if value is None or value.type in _STATEMENTS_OF_JAVA else value


def _of_other_class(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Java: a method without a type has the name of its class."""
    name, parent = node.child_by_field_name("name"), node.parent
    while parent is not None and parent.child_by_field_name("name") is None:
        parent = parent.parent
    owner = parent.child_by_field_name("name") if parent else None
    return name if name and owner and name.text != owner.text else None


def _compared_twice(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Rust: comparisons do not chain."""
    left, operator = node.child_by_field_name("left"), node.child_by_field_name("operator")
    if left is None or operator is None or operator.type not in _COMPARISONS:
        return None
    before = left.child_by_field_name("operator") if left.type == "binary_expression" else None
    return operator if before is not None and before.type in _COMPARISONS else None


def _not_ambient(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """JavaScript: a constant without a value, unless it is only declared."""
    parent = node.parent
    while parent is not None:
        if parent.type == "ambient_declaration":
            return None
        parent = parent.parent
    return node


_SCRIPT: tuple[tuple[str, Asked | None], ...] = (
    ('(lexical_declaration "const" (variable_declarator !value) @x)', None),
    ("(variable_declarator name: [(object_pattern) (array_pattern)] !value) @x", None),
    ('(arguments "," . "," @x)', None),
    ('(arguments "(" . "," @x)', None),
    ('(formal_parameters "," . "," @x)', None),
    ('(formal_parameters "(" . "," @x)', None),
)
_RULES: dict[str, tuple[tuple[str, Asked | None], ...]] = {
    "javascript": _SCRIPT,
    "typescript": (
        ('(lexical_declaration "const" (variable_declarator !value !type) @x)', _not_ambient),
        *_SCRIPT[1:],
    ),
    "go": (
        ("[(literal_value) (argument_list) (parameter_list) (parenthesized_expression)] @x",
         _ended_by_line),
        ("(source_file) @x", _no_top_of_go),
    ),
    "java": (
        ("(expression_statement) @x", _no_statement),
        ("(constructor_declaration) @x", _of_other_class),
    ),
    "rust": (("(binary_expression) @x", _compared_twice),),
}  # fmt: skip
