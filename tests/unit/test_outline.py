"""Imports and what encloses the end of a text, in nine languages, whole or broken."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.syntax import outline as module
from blockdiff.syntax.outline import MOST_CHARACTERS, OutlineEntry, outline

# Each ends in the middle of something. The lines marked with > are the outline.
TEXTS = {
    "python": """\
> import os
> from a import (
>   b,
> )
try:
>     import c
except ImportError:
    pass

def other(): return 1

> class A(B):
    x = 1
    @property
>     def f(self,
>           y: int) -> None:
        for i in y:
            print(""",
    "javascript": """\
> import x from 'x'
> const fs = require('fs')
const n = 1
function other() { return 1 }
> class A extends B {
>   go(a, b) {
>     const f = async (q) => {
      if (q) {
        foo(""",
    "typescript": """\
> import {a} from './a'
interface Other { b: number }
> namespace N {
>   export class A<T> implements B {
>     private go(a: number): string {
      return `""",
    "tsx": """\
> import React from 'react'
> export function App({a}: P) {
  return <div>
    <A""",
    "go": """\
> package main
> import (
>     "fmt"
> )

func other() {}

> func (s *S) Do(x int) error {
    if x > 0 {
        fmt.""",
    "rust": """\
> use std::io;
struct S;
> mod foo {
>   impl<T> A for B<T>
>   where T: C
>   {
    fn other() {}
>     fn go(&self) -> u32 {
      match x { 1 => """,
    "java": """\
> package a.b;
> import java.util.*;

> public class A extends B {
  int other() { return 1; }
>   @Override
>   public int go(int x) throws E {
    int y = """,
    "c": """\
#ifndef A_H
> #include <stdio.h>
> #include "a.h"
int other(void) { return 1; }
> static int
> go(int x)
> {
  if (x) {
    printf(\"""",
    "cpp": """\
> #include <vector>
> using std::vector;
> namespace n {
template <class T>
> class A : public B {
  void other() {}
>   void go(int x) {
    x.""",
    "lua": """\
> local a = require('a')
local M = {}
function M.other() return 1 end
> function M.go(x)
  if x then
    for i = 1, 2 do
      print(""",
}


def plain(marked: str) -> tuple[str, str]:
    """The text, and of it the lines that are marked."""
    lines = marked.split("\n")
    wanted = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
    return "\n".join(line.removeprefix("> ") for line in lines), "\n".join([*wanted, ""])


def shown(pieces: tuple[OutlineEntry, ...]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("language", TEXTS)
def test_imports_and_the_heads_of_what_is_open(language: str) -> None:
    text, wanted = plain(TEXTS[language])
    pieces = outline(text, language)
    assert shown(pieces) == wanted
    assert {p.text for p in pieces if p.encloses} and {p.text for p in pieces if not p.encloses}
    for piece in pieces:
        rows = text.split("\n")[piece.first_row : piece.last_row + 1]
        assert "\n".join(rows).startswith(piece.text.rstrip("\n"))


@pytest.mark.parametrize("language", TEXTS)
def test_a_broken_line_above_hides_neither_imports_nor_signatures(language: str) -> None:
    text, wanted = plain(TEXTS[language])
    lines = text.split("\n")
    broken = "\n".join([*lines[:-1], "        x = = 1 +", lines[-1]])
    missing = set(wanted.splitlines()) - set(shown(outline(broken, language)).splitlines())
    assert not missing


@settings(deadline=None)
@given(language=st.sampled_from(sorted(TEXTS)), cut=st.floats(0, 1), noise=st.text(max_size=8))
def test_whatever_the_text_the_outline_is_lines_of_it(
    language: str, cut: float, noise: str
) -> None:
    text, _ = plain(TEXTS[language])
    at = int(cut * len(text))
    text = text[:at] + noise + text[at:]
    for piece in outline(text, language):
        assert piece.text.rstrip("\n") in text
        assert 0 <= piece.first_row <= piece.last_row <= text.count("\n")


def test_what_follows_does_not_matter_and_blank_lines_do_not_either() -> None:
    text, _ = plain(TEXTS["python"])
    assert outline(text, "python") == outline(text + "\n\n   ", "python")


@pytest.mark.parametrize("language", ["", "cobol"])
def test_without_a_grammar_there_is_none(language: str) -> None:
    assert outline("import os\n", language) == ()


def test_a_huge_text_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parses: list[int] = []
    monkeypatch.setattr(module, "parsed", lambda data, language: parses.append(len(data)))
    line = "    return self.area(width, height)\n"
    assert outline("import os\n" + line * 100_000, "python") == ()
    assert parses == []
    outline("import os\n" + line * (MOST_CHARACTERS // len(line) - 1), "python")
    assert len(parses) == 1
