#!/usr/bin/env bash
# In Go, a list of ten or more parameter names that share one type is read as ten types.
#
# `func f(a0, a1, ... int) {}` has named parameters however many there are. The grammar for Go has
# to guess whether `a0, a1` are names or types until it meets the type; up to nine names it guesses right,
# from the tenth on the tree has one parameter_declaration for each name, with the name as its type and
# no error anywhere.
#
# Seen on 2026-11-28 with tree-sitter 0.26.1 and tree-sitter-go 0.25.0.
#
# Why it matters here: signatures are taken from such trees (outlines, documentation, definitions in a
# prompt), and nothing says that this one is wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  tree-sitter==0.26.1 tree-sitter-go==0.25.0
"$folder/venv/bin/python" - <<'PY'
import sys

import tree_sitter
import tree_sitter_go

parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_go.language()))
seen = {}
for count in (2, 9, 10, 12):
    names = ", ".join(f"a{i}" for i in range(count))
    tree = parser.parse(f"package p\n\nfunc f({names} int) {{}}\n".encode())
    function = tree.root_node.named_children[-1]
    declared = function.child_by_field_name("parameters").named_children
    named = sum(len(d.children_by_field_name("name")) for d in declared)
    seen[count] = (len(declared), named, tree.root_node.has_error)
    print(f"{count:2} names: {len(declared):2} declarations, {named:2} names in them, error {seen[count][2]}")
right = all(seen[n] == (1, n, False) for n in (2, 9))
wrong = all(seen[n][0] > 1 and seen[n][1] < n and not seen[n][2] for n in (10, 12))
sys.exit(not (right and wrong))
PY
