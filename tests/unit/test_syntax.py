"""Languages by name, and holes judged by the errors that are theirs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.syntax import grammars
from blockdiff.syntax.check import check, faults
from blockdiff.syntax.grammars import LANGUAGES, language_of
from blockdiff.types import SyntaxState

OK, BROKEN, SKIPPED = SyntaxState.OK, SyntaxState.BROKEN, SyntaxState.SKIPPED


def spans(prefix: str, text: str, suffix: str, language: str) -> list[str]:
    found = faults(prefix + text + suffix, len(prefix), len(prefix + text), language)
    return [(prefix + text + suffix)[start:end] for start, end in found.spans]


def state(prefix: str, text: str, suffix: str, language: str) -> SyntaxState:
    return check(prefix + text + suffix, len(prefix), len(prefix + text), language)


@pytest.mark.parametrize(
    "path, language, first_line, expected",
    [
        ("a.py", "", "", "python"),
        ("dir.go/a.pyi", "", "", "python"),
        ("A.PY", "", "", "python"),
        ("a.mjs", "", "", "javascript"),
        ("a.cjs", "", "", "javascript"),
        ("a.jsx", "", "", "javascript"),
        ("a.ts", "", "", "typescript"),
        ("a.d.ts", "", "", "typescript"),
        ("a.tsx", "", "", "tsx"),
        ("a.go", "", "", "go"),
        ("a.rs", "", "", "rust"),
        ("a.c", "", "", "c"),
        ("a.h", "", "", "c"),
        ("a.C", "", "", "cpp"),
        ("a.cc", "", "", "cpp"),
        ("C:\\code\\a.hpp", "", "", "cpp"),
        ("A.java", "", "", "java"),
        ("a.lua", "", "", "lua"),
        ("a.h", "cpp", "", "cpp"),
        ("", "typescriptreact", "", "tsx"),
        ("", "javascriptreact", "", "javascript"),
        ("a.py", "Haskell", "", "haskell"),
        ("run", "", "#!/usr/bin/env python3.11", "python"),
        ("run", "", "#! /usr/bin/python -u", "python"),
        ("run", "", "#!/usr/bin/env -S node --harmony", "javascript"),
        ("run", "", "#!/usr/bin/luajit", "lua"),
        ("run", "", "#!/bin/sh", ""),
        ("run", "", "python", ""),
        ("python", "", "", ""),
        ("", "", "", ""),
    ],
)
def test_language_of(path: str, language: str, first_line: str, expected: str) -> None:
    assert language_of(path, language, first_line) == expected


SOUND = {
    "python": ("def f(x):\n    ", "return x", "\n"),
    "javascript": ("const f = (x) => {\n  ", "return x;", "\n};\n"),
    "typescript": ("function f(x: number): number {\n  ", "return x;", "\n}\n"),
    "tsx": ("const a = (\n  ", "<b>{c as string}</b>", "\n);\n"),
    "go": ("package p\n\nfunc f() int {\n\t", "return 1", "\n}\n"),
    "rust": ("fn f<'a>(x: &'a str) -> &'a str {\n    ", "x", "\n}\n"),
    "c": ("int f(int x) {\n  ", "return x;", "\n}\n"),
    "cpp": ("auto f(int x) {\n  ", "return std::vector<int>{x};", "\n}\n"),
    "java": ("class A {\n  int f() {\n    ", "return 1;", "\n  }\n}\n"),
    "lua": ("local function f(x)\n  ", "return x", "\nend\n"),
}


def test_every_language_has_a_sound_example() -> None:
    assert set(SOUND) == LANGUAGES


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_sound_and_broken_holes_in_every_language(language: str) -> None:
    prefix, text, suffix = SOUND[language]
    assert state(prefix, text, suffix, language) is OK
    assert spans(prefix, text, suffix, language) == []
    assert state(prefix, text + " ((", suffix, language) is BROKEN
    assert state(prefix, ") " + text, suffix, language) is BROKEN


@pytest.mark.parametrize(
    "prefix, text, suffix, language, expected",
    [
        # errors elsewhere are not the hole's
        ("x = = 1\n\n\ndef f():\n    ", "return 1", "\n", "python", OK),
        ("def f():\n    ", "return 1", "\n\n\nx = = 1\n", "python", OK),
        ("def f(x:\n  pass\n\n\ndef g():\n    ", "return 1", "\n\n\ny = 2\n", "python", OK),
        ("def f(x:\n  pass\n\n\ndef g():\n    ", "return (1", "\n\n\ny = 2\n", "python", BROKEN),
        ("int f() {\n  FOO(x) BAR {\n  a@b; return ", "1;", "\n}}\n", "c", OK),
        # errors it causes are, wherever they show
        ("foo(", "x", "\nbar()\n", "python", BROKEN),
        ("foo(\n    a,\n    ", "b", "\n\nbar()\n", "python", BROKEN),
        ("foo(\n    a,\n    ", "b)", "\n\nbar()\n", "python", OK),
        ("x = ", "", "\n", "python", BROKEN),
        ("", "'''", "\n" + "y = 1\n" * 50, "python", BROKEN),
        ("int f() {\n  return 1;\n", "}}", "\n\nint g() { return 2; }\n", "c", BROKEN),
        ("for x in", " a:\n    if x", " < 1:\n        y()\n", "python", OK),
        ("for x in", " a:\n    if x < 1:", " < 1:\n        y()\n", "python", BROKEN),
        # something missing
        ("int f() {\n  return ", "1", "\n}\n", "c", BROKEN),
        # no grammar
        ("a", "b", "c", "haskell", SKIPPED),
        ("a", "b", "c", "", SKIPPED),
        # nothing at all
        ("", "", "", "python", OK),
    ],
)
def test_what_a_hole_is_blamed_for(
    prefix: str, text: str, suffix: str, language: str, expected: SyntaxState
) -> None:
    assert state(prefix, text, suffix, language) is expected


@pytest.mark.parametrize(
    "prefix, text, suffix, language, expected",
    [
        ("y = '😀'\n", "a = 1\nb = = 2\nc = 3", "\n", "python", ["="]),
        ("😀 = 1; x = [", "1, 2", "\n", "c", ["1, 2"]),
        ("int f() {\n  return ", "1", "\n}\n", "c", ["1"]),  # the `;` is missing behind it
        ("a", "b", "c", "haskell", []),
        ("x = 1\n", "y = (2", "\nz = 3\nw = 4 4\n", "python", ["2"]),  # and what follows
    ],
)
def test_spans_of_faults(
    prefix: str, text: str, suffix: str, language: str, expected: list[str]
) -> None:
    found = spans(prefix, text, suffix, language)
    assert len(found) == len(expected)
    assert all(part in whole for part, whole in zip(expected, found, strict=True))


def test_a_missing_grammar_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grammars._GRAMMARS, "python", ("tree_sitter_absent", "language"))
    grammars.grammar_of.cache_clear()
    try:
        assert state("x = ", "(", "\n", "python") is SKIPPED
    finally:
        monkeypatch.undo()
        grammars.grammar_of.cache_clear()


def test_a_megabyte_of_garbage_is_skipped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "TIME_LIMIT_S", 0.05)
    garbage = "([{\"'ab \n:=}])(" * 70_000
    start = time.process_time()
    assert state(garbage, "x", garbage, "python") is SKIPPED
    assert time.process_time() - start < 5.0


def test_a_megabyte_of_code_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "TIME_LIMIT_S", 60.0)  # the machine may be busy
    code = "def f(x):\n    return [x, 1]\n\n\n" * 16_000
    assert state(code, "y = 1\n", code, "python") is OK
    assert state(code, "y = (1\n", code, "python") is BROKEN


@settings(deadline=None, max_examples=150)
@given(
    parts=st.tuples(
        *[st.text(st.sampled_from("ab1 \n\t:=()[]{}'\"#é😀\ud800,;"), max_size=30)] * 3
    ),
    language=st.sampled_from([*sorted(LANGUAGES), "", "haskell"]),
)
def test_spans_stay_inside_the_hole_and_agree_with_the_state(
    parts: tuple[str, str, str], language: str
) -> None:
    prefix, text, suffix = parts
    start, end = len(prefix), len(prefix + text)
    found = faults(prefix + text + suffix, start, end, language)
    assert all(start <= a < b <= end for a, b in found.spans)
    assert all(b < c for (_, b), (c, _) in zip(found.spans, found.spans[1:], strict=False))
    assert bool(found.size) == (state(prefix, text, suffix, language) is BROKEN)
    assert bool(found.spans) == (found.size > 0 and bool(text))
