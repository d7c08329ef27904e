"""What compilers refuse is not called fine, and what they accept is not called broken.

`|` marks where a hole begins and ends.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from blockdiff.syntax import python_compiler
from blockdiff.syntax.check import check, check_rewrite, faults
from blockdiff.syntax.syntax_errors import syntax_faults
from blockdiff.types import SyntaxState

OK, BROKEN, SKIPPED = SyntaxState.OK, SyntaxState.BROKEN, SyntaxState.SKIPPED


def state(marked: str, language: str) -> SyntaxState:
    before, text, after = marked.split("¦") if "¦" in marked else marked.split("|")
    start = len(before)
    return check(before + text + after, start, start + len(text), language)


REFUSED = {
    "python": (
        # no body behind a colon, levels that are none, a `try` alone
        "def area(w, h):\n    if w < 0:\n||    return w * h\n",
        "class A:\n||\nclass B:\n    pass\n",
        "def f():\n    try:\n|        g()\n|    return 1\n",
        "def f(x):\n    for a in x:|\n        # nothing yet\n|    return x\n",
        "def f(x):\n    if x:\n        g()\n|      h()\n|    return x\n",
        "def f(x):\n    g()\n|        h()\n|    return x\n",
        "async def f():\n    with a:\n|    pass|\n",
        # what only the compiler knows
        "f(|,|)",
        "x = f(|a=1, 2|)",
        "|print \"hello\"|",
        "|import os; class A: pass|",
        "x = [|a b|]\n",
        "|f() = 1|\n",
        "def f(a, |a|):\n    pass\n",
        "|return 1|\n",
        "def f():\n    |await g()|\n",
        "x = 1\n|from __future__ import annotations|\n",
        "|    x = 1\n|",
        "    if x:\n|    y = 1|\n",
        # in a long file, and beside code that is broken by itself
        ("# " + "x" * 60 + "\n") * 6_000 + "\ndef f():\n    |g(a=1, 2)|\n" + "y = 1\n\n" * 10,
        "def f(x:\n    pass\n\n\ndef g():\n    if x:\n|    return 1|\n\n\ny = 2\n",
    ),
    "c": (
        "int f(int a) {\n  if (a) {\n|    g();\n|  return a;\n}\n",
        "int f(int a) {\n  switch (a) {\n    case 1: {\n|      g();\n|  }\n  return a;\n}\n",
        "int f(void) { |else;| return 1; }",
        "int f(void) { int |return|; }",
        "#define A\n|#en|\nint x;\n",
    ),
    "cpp": (
        "int f(int a) {\n  while (a) {\n|    g();\n|  return a;\n}\n",
        "int f() { |else;| return 1; }",
    ),
    "java": (
        "class A {\n  int f(int a) {\n    if (a > 0) {\n|      g();\n|    return a;\n  }\n}\n",
        "class A { void f() { |x == y;| } }",
        "class A { void f() { |a + 1;| } }",
        "class A { void f() { for (int i = 0; i < 3; |+i|) { } } }",
        "class A { |f() { }| }",
        "class A { char c = |'ab'|; }",
        "class A { private final |final| int x = 1; }",
        "package a;\n\n|package a;|\n\nclass A { }\n",
    ),
    "go": (
        "package p\n\nfunc f(a int) int {\n\tif a > 0 {\n|\t\tg()\n|\treturn a\n}\n",
        "package p\n\nvar a = []int{\n\t1,\n|\t2\n|}\n",
        "package p\n\nvar m = map[string]int{\n|\t\"a\": 1\n|}\n",
        "package p\n\nfunc f() {\n\tg(\n|\t\ta,\n\t\tb\n|\t)\n}\n",
        "package p\n\nfunc f()|\n{|\n}\n",
        "package p\n\nfunc f() {\n\t|if x\n\t{\n\t}|\n}\n",
        "package p\n\nfunc f() {\n\tfor i := 0; i < 3; |i++|\n\t{\n\t}\n}\n",
        "package p\n\nfunc f() {\n\tswitch |x|\n\t{\n\t}\n}\n",
        "package p\n\nvar f = |func() int|\n{\n\treturn 1\n}\n",
        "package p\n\n|x := 1|\n",
        "package p\n\n|package p|\n\nvar x = 1\n",
        "package p\n\nfunc f(|http.Header, r int|) {}\n",
    ),
    "javascript": (
        "function f(a) {\n  if (a) {\n|    g();\n|  return a;\n}\n",
        "|const x;|",
        "f(|a,, b|)",
        "f(|, b|)",
        "|const {a, b};|",
        "|let a = 1; let a = 2;|",
        "function f() { |a * b = c| }",
        "|function () {}|",
        "function f() {\n  try {\n    g();\n  }||\n}\n",
        "export default f;\n|export default f;|\n",
    ),
    "typescript": (
        "function f(a: number) {\n  if (a) {\n|    g();\n|  return a;\n}\n",
        "|const x;|",
        "f(|a,, b|)",
        "const x = |else|;",
        "|let if = 1;|",
    ),
    "rust": (
        "fn f(a: i32) -> i32 {\n    if a > 0 {\n¦        g();\n¦    a\n}\n",
        "fn f() -> bool { ¦a == b == c¦ }",
        "fn f() -> bool { ¦a < b < c¦ }",
        "fn f() { let ¦fn¦ = 1; }",
        "fn f() {\n    ¦assert_eq!(a, b)¦\n    g();\n}\n",
        "mod a;\n¦b;¦\nmod c;\n",
        "fn f(¦a¦) {}\n",
        "fn f(a: u8, ¦&str¦) {}\n",
    ),
    "lua": (
        "function f(a)\n  if a then\n|    g()\n|  return a\nend\n",
        "x = |end|",
        "local |then| = 1\n",
        "f(|until|)\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "language, marked", [(lang, text) for lang, texts in REFUSED.items() for text in texts]
)
def test_what_a_compiler_refuses_is_broken(language: str, marked: str) -> None:
    assert state(marked, language) is BROKEN


ACCEPTED = {
    "python": (
        "def f(x):\n    |return x|\n",
        "|x = '''\n  a\n'''|\n",
        "class A:\n    |x: int = 1|\r\n",
        "x = 1\ry = |2|\rz = 3\r",
        "\ufeffimport os\n|x = 1|\n",
        "# -*- coding: latin-1 -*-\n|x = 'é'|\n",
        "\x0cdef f():\n    |pass|\n\x0c\n",
        "def f():\n    |return 1 is 1|\n",  # a warning, no error
        "x = |" + "-" * 5000 + "1|\n",  # too deep for the compiler
        # newer than some interpreters
        "try:\n    f()\n|except* ValueError:\n    pass|\n",
        "|type X[T] = list[T]|\n",
        "def f|[T](x: T)| -> T:\n    return x\n",
        "x = f\"{d[|\"k\"|]}\"\n",
        "|class A[T]: pass|\n",
        # a fragment that begins indented
        "    x = f(|a, b|)\n    return x\n",
        "\n    x = 1\n|    y = await g()\n|    return x\n",
        # made for Python 2
        "print \"a\"\n\n\ndef f():\n    |print \"b\"|\n",
    ),
    "c": (
        "#define IF(x) if (x)\nint f(void) { |if (a) b(); else;| return 1; }",
        "#ifndef A_H\n#define A_H\n|int f(void);|\n#endif\n",
    ),
    "java": (
        "class A { char a = |'\\u0041'|, b = '\\'', c = '\\12', d = 'é'; }",
        "class A { |A() { }| void f() { x++; new A(); f(); } }",
        "class A { int f(int x) { return switch (x) { |case 1 -> x + 1;| default -> x; }; } }",
    ),
    "go": (
        "package p\n\nvar a = []int{\n\t1,\n|\t2, // two\n|}\n",
        "package p\n\nfunc f() {\n\tg(|func() {\n\t}|)\n}\n",
        "package p\n\nfunc f() {\n\t|if x {\n\t} else\n\t{\n\t}\n\tselect\n\t{\n\t}|\n}\n",
        "package p\n\nfunc f(|a, b, c, d, e, g, h, i, j, k int|) {}\n",
    ),
    "javascript": (
        "for (|const x of y|) { }",
        "f(|a, b,|); [a,, b];",
        "{ let a = 1; } |let a = 2;|",
        "export { |default| } from 'a';",
        "(|function () {}|)();",
    ),
    "typescript": (
        "declare |const x;|",
        "export { |default as x| } from 'a';",
        "export default function f(a: A): A\n|export default function f(b: B): B|\n"
        "export default function f(c: any) { }\n",
    ),
    "rust": (
        "fn f() { g!(¦if a { b } else { c }¦); }",
        "fn f() -> bool { ¦a == (b == c)¦ }",
        "fn f(x: &'¦static¦ str) { }",
        "fn f(¦&self, (a, _): (u8, u8), mut b: &mut u8¦) { }",
        "trait T {\n    fn f(¦u8¦);\n}\n",
        "fn f() -> Vec<u8> {\n    g!();\n    ¦vec![1]¦\n}\n",
    ),
    "lua": ("t = {|['end'] = 1|}\n", "x = t.|ending|\n"),
}  # fmt: skip


@pytest.mark.parametrize(
    "language, marked", [(lang, text) for lang, texts in ACCEPTED.items() for text in texts]
)
def test_what_a_compiler_accepts_is_fine(language: str, marked: str) -> None:
    assert state(marked, language) is OK


@pytest.mark.parametrize(
    "language, marked",
    [
        # the construct around the hole parses by itself
        ("python", "def f(x:\n    pass\n\n\ndef g():\n    |return 1|\n\n\ny = 2\n"),
        ("python", "print 'a'\n\n\ndef g():\n    |return 1|\n"),
        ("c", "int f(void) {\n  if (a) {\n  return 1;\n}\n\nint g(void) {\n  |return 2;|\n}\n"),
        ("go", "package p\n\nfunc f() {\n\tg(\n}\n\nfunc h() int {\n\t|return 2|\n}\n"),
    ],
)
def test_faults_elsewhere_are_not_the_holes(language: str, marked: str) -> None:
    assert state(marked, language) is OK


@pytest.mark.parametrize(
    "language, marked",
    [
        ("python", "class A:\n    def f():\n        x = = 1\n\n    def g():\n        |pass|\n"),
        ("java", "class A {\n  void f() {\n    g(;\n  }\n  void h() {\n    |k();|\n  }\n}\n"),
    ],
)
def test_where_nobody_can_tell_nothing_is_said(language: str, marked: str) -> None:
    assert state(marked, language) is SKIPPED


def test_the_line_that_the_compiler_stops_at_is_in_the_faults() -> None:
    before, text = "def f():\n", "    x = 1\n    y = g(a=1, 2)\n    return y\n"
    found = faults(before + text, len(before), len(before + text), "python")
    (start, end) = found.spans[0]
    assert found.size and text[:10] not in (before + text)[start:end]
    assert (before + text).rfind("\n", 0, start) == (before + text).index("    y = g") - 1


def test_a_rewrite_is_held_to_what_the_compiler_says() -> None:
    original = "def f():\n    return g(1)\n"
    rewritten = "def f():\n    return g(a=1, 2)\n"
    assert check_rewrite(original, rewritten, 13, len(rewritten) - 1, "python") is BROKEN
    assert check_rewrite(original, original, 13, len(original) - 1, "python") is OK


def test_nothing_of_a_text_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = f"open({str(mark)!r}, 'w').close()\n"
    assert python_compiler.refusal(text, (0, len(text))) is None
    assert not mark.exists()


def test_the_compiler_reads_no_module_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "symtable.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(python_compiler, "_compiler", python_compiler._Compiler())
    assert python_compiler.refusal("x = 1\n", (0, 6)) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["x = '\0'\n", "x = " + "-" * 200_000 + "1\n", "x = 1\n" * 100_000], ids=len
)
def test_what_the_compiler_cannot_judge(text: str) -> None:
    with pytest.raises(python_compiler.NotJudged):
        python_compiler.refusal(text, (0, len(text)))
    assert python_compiler.refusal("x = = 1\n", (0, 8)) == 4  # and it lives on


def test_a_compiler_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = python_compiler._Compiler()
    monkeypatch.setattr(python_compiler, "_compiler", compiler)
    assert python_compiler.refusal("x = 1\n", (0, 6)) is None
    first = compiler.process
    monkeypatch.setattr(python_compiler, "TIME_LIMIT_S", 0.0)
    slow = "x = [" + "1, " * 90_000 + "]\n"
    with pytest.raises(python_compiler.NotJudged):
        python_compiler.refusal(slow, (0, len(slow)))
    monkeypatch.undo()
    monkeypatch.setattr(python_compiler, "_compiler", compiler)
    assert python_compiler.refusal("x = 1\n", (0, 6)) is None
    assert compiler.process is not first


def test_without_an_interpreter_the_tree_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert state("x = |1|\n", "python") is OK
    assert state("x = |(|\n", "python") is BROKEN


def test_threads_take_turns() -> None:
    answers: dict[int, int | None] = {}

    def ask(number: int) -> None:
        text = "x = 1\n" * number + ("y = = 1\n" if number % 2 else "")
        answers[number] = python_compiler.refusal(text, (0, len(text)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: 6 * n + 4 if n % 2 else None for n in range(12)}


def test_only_the_new_part_is_held_to_what_grammars_let_pass() -> None:
    text = "x = end\ny = 1\n"
    assert syntax_faults(text, "lua", 0, 7)
    assert not syntax_faults(text, "lua", 12, 13)
