"""What a tree-sitter grammar accepts and every compiler of the language refuses.

Grammars are made to colour code and let much pass. Here is what of that a reader of the tree can
tell by itself, as a table: a query whose captures `@x` are wrong, or may be and are asked about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import query

if TYPE_CHECKING:
    import tree_sitter

Clause = Callable[["tree_sitter.Node"], "tree_sitter.Node | None"]
"""The node that is wrong of one that may be, or None."""

_RESERVED = {
    "c": "break case continue default do else enum for goto if return struct switch typedef union"
    " while",
    "cpp": "break case catch class continue default delete do else enum for goto if namespace new"
    " return struct switch template throw try typedef union using while",
    "java": "abstract assert boolean break byte case catch char class continue default do double"
    " else enum extends final finally float for if implements import instanceof int interface long"
    " native new package private protected public return short static super switch synchronized"
    " this throw throws transient try void volatile while",
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
_BEFORE = {  # what alone may stand before them at the top of a file
    "package_clause": {"comment"},
    "package_declaration": {"block_comment", "line_comment"},
    "import_declaration": {
        "package_clause", "package_declaration", "import_declaration",
        "comment", "block_comment", "line_comment",
    },
}  # fmt: skip
_DIRECTIVES = frozenset(
    {"if", "ifdef", "ifndef", "else", "elif", "elifdef", "elifndef", "endif", "include", "define",
     "pragma", "error", "warning", "line", "undef", "include_next", "import", "ident", "sccs",
     "assert", "unassert", "embed", "using"}
)  # fmt: skip
_CHARACTER = re.compile(r"'(?:\\u+[0-9a-fA-F]{4}|\\[0-7]{1,3}|\\?[^\n])'")
_ENDS_LINE = re.compile(rb"(?:[\w\"'`)\]}\x80-\xff]|\+\+|--)$")  # of Go, where a statement may end
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
def _rules(language: str) -> tuple[tuple[str, Clause | None], ...]:
    rules = list(_RULES.get("typescript" if language == "tsx" else language, ()))
    words = _RESERVED.get("typescript" if language == "tsx" else language, "")
    if words:
        listed = " ".join(f'"{word}"' for word in words.split())
        rules.append((f"((identifier) @x (#any-of? @x {listed}))", _read))
    return tuple(rules)


def _read(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """A reserved word as a name, unless a macro reads it or the grammar lost its way here.

    It does where a line is a macro: that is a type, and what follows is what it declares.
    """
    parent = node.parent
    if parent is None or parent.has_error or parent.type in _UNREAD:
        return None
    return node if parent.start_point.row == node.start_point.row else None


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


def _brace_below(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Go: a line ends before the brace that it should end with."""
    for child in node.children:
        before = child.prev_sibling
        if child.type in ("{", "block") and before is not None and before.is_named:
            ends = before.type != "comment" and _ENDS_LINE.search(before.text or b"")
            if ends and before.end_point.row < child.start_point.row:
                return child
    return None


def _no_top_of_go(root: tree_sitter.Node) -> tree_sitter.Node | None:
    wrong = (child for child in root.named_children if child.type not in _TOP_OF_GO)
    return next(wrong, None)


def _too_late(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Go and Java: the package comes first and once, then what is imported."""
    before, above = _BEFORE[node.type], node.prev_named_sibling
    while above is not None and above.type in before:
        above = above.prev_named_sibling
    return None if above is None or above.is_error else node


def _no_character(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Java: several characters, or none, between single quotes."""
    return None if _CHARACTER.fullmatch((node.text or b"").decode("utf-8", "replace")) else node


def _declared_twice(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """JavaScript: two `let`, `const` or `import` of one name in a block."""
    name = _declared(node)
    other = node.prev_named_sibling
    while name and other is not None:
        if name & _declared(other):
            return node
        other = other.prev_named_sibling
    return None


def _declared(node: tree_sitter.Node) -> set[bytes]:
    """The names that a declaration binds in its block, as far as they are plain."""
    if node.type == "export_statement":  # of a value by default, or of a declaration
        inner = node.child_by_field_name("declaration")
        return _declared(inner) if inner is not None else set()
    if node.type == "import_statement":
        names = [
            n.child_by_field_name("alias") or n.child_by_field_name("name")
            for n in _below(node, {"import_specifier"})
        ]
    elif node.type == "lexical_declaration":
        names = [child.child_by_field_name("name") for child in node.named_children]
    else:
        return set()
    return {name.text or b"" for name in names if name is not None and name.type == "identifier"}


def _default_twice(root: tree_sitter.Node) -> tree_sitter.Node | None:
    """JavaScript: a module has one export by default. (TypeScript has overloads.)"""
    found = [
        node
        for node in root.named_children
        if node.type == "export_statement" and any(c.type == "default" for c in node.children)
    ]
    return found[-1] if len(found) > 1 else None


def _repeated(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Java: a modifier that stands twice."""
    seen: set[str] = set()
    for child in node.children:
        if child.type in seen and not child.is_named:
            return child
        seen.add(child.type)
    return None


def _half_named(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Go: of parameters all have a name or none.

    Of ten names that share a type the grammar takes the first for types, so a word is no proof.
    """
    types = ("parameter_declaration", "variadic_parameter_declaration")
    all_of = [child for child in node.named_children if child.type in types]
    if not any(child.child_by_field_name("name") for child in all_of):
        return None
    for child in all_of:
        type_of = child.child_by_field_name("type")
        if child.child_by_field_name("name") is None and type_of is not None:
            if type_of.type != "type_identifier":
                return child
    return None


def _below(node: tree_sitter.Node, types: set[str]) -> Iterator[tree_sitter.Node]:
    todo = list(node.named_children)
    while todo:
        child = todo.pop()
        if child.type in types:
            yield child
        todo.extend(child.named_children)


def _no_directive(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """C: a line that starts with `#` and no word of the preprocessor."""
    word = (node.text or b"").lstrip(b"# \t").decode("utf-8", "replace")
    return node if word and not word.isdigit() and word not in _DIRECTIVES else None


def _no_statement(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Java: an expression that does nothing is no statement, unless it is what a case gives."""
    if node.parent is not None and node.parent.type == "switch_rule":
        return None
    return _nothing_done(node.named_children[0]) if node.named_children else None


def _nothing_done(value: tree_sitter.Node) -> tree_sitter.Node | None:
    return None if value.type in _STATEMENTS_OF_JAVA else value


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


def _no_item(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Rust: outside of functions only macros are called."""
    value = node.named_children[0] if node.named_children else None
    return None if value is not None and value.type == "macro_invocation" else node


def _not_ended(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Rust: a macro that is called with `()` or `[]` and no `;` is the last of its block."""
    if (node.text or b"")[-1:] == b"}":
        return None
    below = node.next_sibling
    while below is not None and "comment" in below.type:
        below = below.next_sibling
    return node if below is not None and below.is_named else None


def _not_ambient(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """JavaScript: a constant without a value, unless it is only declared."""
    parent = node.parent
    while parent is not None:
        if parent.type == "ambient_declaration":
            return None
        parent = parent.parent
    return node


_SCRIPT: tuple[tuple[str, Clause | None], ...] = (
    ('(lexical_declaration "const" (variable_declarator !value) @x)', None),
    ("(variable_declarator name: [(object_pattern) (array_pattern)] !value) @x", None),
    ('(arguments "," . "," @x)', None),
    ('(arguments "(" . "," @x)', None),
    ('(formal_parameters "," . "," @x)', None),
    ('(formal_parameters "(" . "," @x)', None),
    ("(try_statement !handler !finalizer) @x", None),
    ("(binary_expression right: (assignment_expression) @x)", None),
    ("(unary_expression argument: (assignment_expression) @x)", None),
    ("[(lexical_declaration) (export_statement) (import_statement)] @x", _declared_twice),
    ("(expression_statement [(function_expression) (class)] @x)", None),
    ("(expression_statement (call_expression function: (function_expression) @x))", None),
)
_RULES: dict[str, tuple[tuple[str, Clause | None], ...]] = {
    "javascript": (*_SCRIPT, ("(program) @x", _default_twice)),
    "typescript": (
        ('(lexical_declaration "const" (variable_declarator !value !type) @x)', _not_ambient),
        *_SCRIPT[1:],
    ),
    "go": (
        ("[(literal_value) (argument_list) (parameter_list) (parenthesized_expression)] @x",
         _ended_by_line),
        ("(parameter_list) @x", _half_named),
        ("[(if_statement) (for_statement) (func_literal) (expression_switch_statement)"
         " (type_switch_statement) (select_statement)] @x", _brace_below),
        ("(source_file) @x", _no_top_of_go),
        ("[(package_clause) (import_declaration)] @x", _too_late),
    ),
    "java": (
        ("(expression_statement) @x", _no_statement),
        ("(for_statement update: (_) @x)", _nothing_done),
        ("(constructor_declaration) @x", _of_other_class),
        ("(character_literal) @x", _no_character),
        ("(modifiers) @x", _repeated),
        ("[(package_declaration) (import_declaration)] @x", _too_late),
    ),
    "c": (("(preproc_call directive: (preproc_directive) @x)", _no_directive),),
    "cpp": (("(preproc_call directive: (preproc_directive) @x)", _no_directive),),
    "rust": (
        ("(binary_expression) @x", _compared_twice),
        ("(function_item parameters: (parameters [(type_identifier) (primitive_type)"
         " (generic_type) (reference_type)] @x))", None),
        ("(block (macro_invocation) @x)", _not_ended),
        ("(source_file [(expression_statement) (let_declaration)] @x)", _no_item),
    ),
}  # fmt: skip
