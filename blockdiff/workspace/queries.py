"""Tag queries: which nodes of a tree define something, and where its name stands.

In the convention of tree-sitter's own `tags.scm`: `@definition.KIND` and `@name`. `@scope` is the
type that a definition outside of its class belongs to. Patterns are apart, so that an older or
newer grammar without some node loses that pattern only.
"""

from __future__ import annotations

_FUNCTION_VALUE = "[(arrow_function) (function_expression)]"

_PYTHON = (
    "(class_definition name: (identifier) @name) @definition.class",
    "(function_definition name: (identifier) @name) @definition.function",
    "(module (expression_statement (assignment left: (identifier) @name) @definition.constant))",
    "(class_definition body: (block (expression_statement"
    " (assignment left: (identifier) @name) @definition.field)))",
    "((assignment left: (attribute object: (identifier) @self attribute: (identifier) @name))"
    ' @definition.field (#eq? @self "self"))',
)
_SCRIPT = (
    "(function_declaration name: (identifier) @name) @definition.function",
    "(generator_function_declaration name: (identifier) @name) @definition.function",
    "(method_definition name: (property_identifier) @name) @definition.method",
    "(program (lexical_declaration"
    " (variable_declarator name: (identifier) @name) @definition.constant))",
    "(program (variable_declaration"
    " (variable_declarator name: (identifier) @name) @definition.constant))",
    "(program (export_statement (lexical_declaration"
    " (variable_declarator name: (identifier) @name) @definition.constant)))",
    "(assignment_expression left: (member_expression property: (property_identifier) @name)"
    f" right: {_FUNCTION_VALUE}) @definition.function",
)
_JAVASCRIPT = (
    *_SCRIPT,
    "(class_declaration name: (identifier) @name) @definition.class",
    "(field_definition property: (property_identifier) @name) @definition.field",
)
_TYPESCRIPT = (
    *_SCRIPT,
    "(class_declaration name: (type_identifier) @name) @definition.class",
    "(abstract_class_declaration name: (type_identifier) @name) @definition.class",
    "(interface_declaration name: (type_identifier) @name) @definition.class",
    "(enum_declaration name: (identifier) @name) @definition.class",
    "(type_alias_declaration name: (type_identifier) @name) @definition.type",
    "(function_signature name: (identifier) @name) @definition.function",
    "(public_field_definition name: (property_identifier) @name) @definition.field",
    "(class_body (method_signature name: (property_identifier) @name) @definition.method)",
    "(abstract_method_signature name: (property_identifier) @name) @definition.method",
    "(interface_body (method_signature name: (property_identifier) @name) @definition.method)",
    "(interface_body (property_signature name: (property_identifier) @name) @definition.field)",
    "(enum_body (property_identifier) @name @definition.field)",
    "(enum_assignment name: (property_identifier) @name) @definition.field",
)
_GO = (
    "(function_declaration name: (identifier) @name) @definition.function",
    "(method_declaration receiver: (parameter_list (parameter_declaration type: (_) @scope))"
    " name: (field_identifier) @name) @definition.method",
    "(type_spec name: (type_identifier) @name) @definition.class",
    "(type_alias name: (type_identifier) @name) @definition.type",
    "(source_file (const_declaration (const_spec name: (identifier) @name) @definition.constant))",
    "(source_file (var_declaration (var_spec name: (identifier) @name) @definition.constant))",
    "(source_file (var_declaration (var_spec_list"
    " (var_spec name: (identifier) @name) @definition.constant)))",
    "(field_declaration name: (field_identifier) @name) @definition.field",
    "(method_elem name: (field_identifier) @name) @definition.method",
)
_RUST = (
    "(function_item name: (identifier) @name) @definition.function",
    "(function_signature_item name: (identifier) @name) @definition.function",
    "(struct_item name: (type_identifier) @name) @definition.class",
    "(union_item name: (type_identifier) @name) @definition.class",
    "(enum_item name: (type_identifier) @name) @definition.class",
    "(trait_item name: (type_identifier) @name) @definition.class",
    "(impl_item type: (_) @name) @definition.impl",
    "(type_item name: (type_identifier) @name) @definition.type",
    "(const_item name: (identifier) @name) @definition.constant",
    "(static_item name: (identifier) @name) @definition.constant",
    "(macro_definition name: (identifier) @name) @definition.macro",
    "(field_declaration name: (field_identifier) @name) @definition.field",
    "(enum_variant name: (identifier) @name) @definition.field",
)
_JAVA = (
    "(class_declaration name: (identifier) @name) @definition.class",
    "(interface_declaration name: (identifier) @name) @definition.class",
    "(enum_declaration name: (identifier) @name) @definition.class",
    "(record_declaration name: (identifier) @name) @definition.class",
    "(annotation_type_declaration name: (identifier) @name) @definition.class",
    "(method_declaration name: (identifier) @name) @definition.method",
    "(constructor_declaration name: (identifier) @name) @definition.method",
    "(field_declaration declarator: (variable_declarator name: (identifier) @name))"
    " @definition.field",
    "(enum_constant name: (identifier) @name) @definition.field",
)
_LUA = (
    "(function_declaration name: (identifier) @name) @definition.function",
    "(function_declaration"
    " name: (dot_index_expression table: (_) @scope field: (identifier) @name))"
    " @definition.function",
    "(function_declaration"
    " name: (method_index_expression table: (_) @scope method: (identifier) @name))"
    " @definition.method",
    "(assignment_statement (variable_list"
    " . name: (dot_index_expression table: (_) @scope field: (identifier) @name))"
    " (expression_list . value: (function_definition))) @definition.function",
    "(chunk (variable_declaration (assignment_statement"
    " (variable_list . name: (identifier) @name))) @definition.constant)",
)


def _declared(node: str, name: str, kind: str) -> tuple[str, ...]:
    """A function of C by its declarator, which a pointer or a reference may stand before."""
    plain = f"(function_declarator declarator: {name})"
    return (
        f"({node} declarator: {plain}) @definition.{kind}",
        f"({node} declarator: (pointer_declarator declarator: {plain})) @definition.{kind}",
    )


_C = (
    *_declared("function_definition", "(identifier) @name", "function"),
    *_declared("declaration", "(identifier) @name", "function"),
    "(struct_specifier name: (type_identifier) @name body: (_)) @definition.class",
    "(union_specifier name: (type_identifier) @name body: (_)) @definition.class",
    "(enum_specifier name: (type_identifier) @name body: (_)) @definition.class",
    "(type_definition declarator: (type_identifier) @name) @definition.type",
    "(field_declaration declarator: (field_identifier) @name) @definition.field",
    "(field_declaration declarator: (pointer_declarator declarator: (field_identifier) @name))"
    " @definition.field",
    "(enumerator name: (identifier) @name) @definition.field",
    "(preproc_def name: (identifier) @name) @definition.macro",
    "(preproc_function_def name: (identifier) @name) @definition.macro",
)
_QUALIFIED = "(qualified_identifier scope: (_) @scope name: (identifier) @name)"
_CPP = (
    *_C,
    "(class_specifier name: (type_identifier) @name body: (_)) @definition.class",
    *_declared("field_declaration", "(field_identifier) @name", "method"),
    *_declared("function_definition", "(field_identifier) @name", "method"),
    *_declared("function_definition", _QUALIFIED, "method"),
    "(field_declaration declarator: (reference_declarator"
    " (function_declarator declarator: (field_identifier) @name))) @definition.method",
    "(function_definition declarator: (reference_declarator"
    " (function_declarator declarator: [(identifier) (field_identifier)] @name)))"
    " @definition.function",
    "(alias_declaration name: (type_identifier) @name) @definition.type",
)

TAGS: dict[str, tuple[str, ...]] = {
    "python": _PYTHON,
    "javascript": _JAVASCRIPT,
    "typescript": _TYPESCRIPT,
    "tsx": _TYPESCRIPT,
    "go": _GO,
    "rust": _RUST,
    "java": _JAVA,
    "lua": _LUA,
    "c": _C,
    "cpp": _CPP,
}
"""Patterns by language."""
