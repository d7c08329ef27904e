#!/usr/bin/env bash
# Grammars of tree-sitter that report an error in ordinary, valid code.
#
# One expects a published grammar to accept what every compiler of its language accepts, and to be too
# lenient rather than too strict. The snippets below, all plain uses of C, C++, Go and Java that gcc 12.2,
# g++ 12.2, gofmt 1.19 and javac 17 take (with the declarations they need), make an ERROR node; beside each is a twin
# that differs in one detail and parses.
#
# Seen on 2026-11-28 with tree-sitter 0.26.1, tree-sitter-c 0.24.2, -cpp 0.23.4, -go 0.25.0, -java 0.23.5.
#
# Why it matters here: a filled hole is judged by what the grammar says. A tool that takes an error of
# the tree for an error of the code rejects right answers near such lines, so a verdict has to be by
# comparison with the document without the hole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tree-sitter==0.26.1 \
  tree-sitter-c==0.24.2 tree-sitter-cpp==0.23.4 tree-sitter-go==0.25.0 tree-sitter-java==0.23.5
"$folder/venv/bin/python" - <<'PY'
import sys

import tree_sitter
import tree_sitter_c
import tree_sitter_cpp
import tree_sitter_go
import tree_sitter_java

GRAMMARS = {
    "c": tree_sitter_c, "cpp": tree_sitter_cpp, "go": tree_sitter_go, "java": tree_sitter_java
}
PAIRS = [
    ("c", "static int x __attribute__((unused)) = 1;", "__attribute__((unused)) static int x = 1;"),
    ("c", "struct s { int a : 3; int : 0; };", "struct s { int a : 3; };"),
    ("c", "char *s(void) { return va_arg(ap, char *); }", "int s(void) { return va_arg(ap, int); }"),
    ("cpp", "template class A<int>;", "template void f<int>(int);"),
    ("cpp", "void f(const char * = 0);", "void f(const char *s = 0);"),
    ("go", "package p\nvar (x = 1)\n", "package p\ntype (A int)\n"),
    ("java", "class A { int a = 1__0; }", "class A { int a = 1_0; }"),
]
changed = False
for language, refused, accepted in PAIRS:
    parser = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[language].language()))
    seen = [parser.parse(text.encode()).root_node.has_error for text in (refused, accepted)]
    print(f"{language:5} error {seen[0]!s:5} twin {seen[1]!s:5}  {refused!r}")
    changed |= seen != [True, False]
sys.exit(changed)
PY
