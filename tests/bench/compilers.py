"""Compilers as judges of syntax: which of many texts each would refuse before it asks for meaning.

Each judge takes all texts of a language at once, since most of them take longer to start than to
read. `judge_of` is None where the compiler is not on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Judge = Callable[[Sequence[str]], list[bool]]
"""Whether the compiler accepts each text."""

_NODE = """
const fs = require("fs"), vm = require("vm");
const texts = JSON.parse(fs.readFileSync(0, "utf8"));
const parses = (make) => {
  try { make(); return true; } catch (e) { return e.name !== "SyntaxError"; }
};
const body = (text) => text.replace(/^#!.*/, "");
process.stdout.write(JSON.stringify(texts.map((text) =>
  parses(() => new vm.Script("(function () {" + body(text) + "\\n})")) ||
  parses(() => new vm.SourceTextModule(body(text))))));
"""
_TYPESCRIPT = """
const fs = require("fs"), ts = require("typescript");
const texts = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(texts.map((text) =>
  ts.createSourceFile("a.ts", text, ts.ScriptTarget.Latest).parseDiagnostics.length === 0)));
"""
_JAVAC = """
import java.net.URI;
import java.nio.file.*;
import java.util.*;
import javax.tools.*;
import com.sun.source.util.JavacTask;

public class Judge {
    public static void main(String[] names) throws Exception {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        for (String name : names) {
            String text = Files.readString(Path.of(name));
            var file = new SimpleJavaFileObject(
                    URI.create("string:///A.java"), JavaFileObject.Kind.SOURCE) {
                @Override public CharSequence getCharContent(boolean ignore) { return text; }
            };
            var found = new DiagnosticCollector<JavaFileObject>();
            var task = (JavacTask) compiler.getTask(null, null, found, null, null, List.of(file));
            task.parse();
            System.out.println(found.getDiagnostics().stream()
                    .noneMatch(d -> d.getKind() == Diagnostic.Kind.ERROR));
        }
    }
}
"""
# What gcc says of a text that is no C; most of what else it says is about names and types.
_GCC_SYNTAX = re.compile(
    r"error: (?:expected|stray|unterminated|missing terminating|‘else’ without|'else' without"
    r"|break statement|case label|a function-definition is not allowed"
    r"|unterminated|#\w+ without|qualified-id in decl)"
)


def judge_of(language: str) -> tuple[str, Judge] | None:
    """The compiler's name and how to ask it; None if it is not installed."""
    if language == "python":
        return "CPython", _python
    if language == "javascript" and (node := shutil.which("node")):
        command = [node, "--no-warnings", "--experimental-vm-modules", "-e", _NODE]
        return "node", partial(_json, command)
    if language == "typescript" and (node := shutil.which("node")):
        command = [node, "-e", _TYPESCRIPT]
        try:
            _json(command, [])
        except subprocess.CalledProcessError:
            return None
        return "tsc", partial(_json, command)
    if language == "java" and shutil.which("javac"):
        return "javac", _java
    for name, suffix, command, refuses in _COMMANDS.get(language, ()):
        if path := shutil.which(name):
            return name, partial(_each, language, [path, *command], suffix, refuses)
    return None


_FAILS = re.compile(r"\Z")
_RUST = ["-Zparse-crate-root-only", "--edition", "2021"]
# name, suffix of the file, options, what has to be in the output of a run that failed
_COMMANDS: dict[str, tuple[tuple[str, str, list[str], re.Pattern[str]], ...]] = {
    "go": (("gofmt", ".go", ["-e", "-l"], _FAILS),),
    "rust": (("rustc", ".rs", _RUST, _FAILS),),
    "c": (("gcc", ".c", ["-fsyntax-only", "-w"], _GCC_SYNTAX),),
    "cpp": (("g++", ".cpp", ["-fsyntax-only", "-w", "-std=c++20"], _GCC_SYNTAX),),
    "lua": tuple((name, ".lua", ["-p"], _FAILS) for name in ("luac", "luac5.4", "luac5.3")),
}


def _python(texts: Sequence[str]) -> list[bool]:
    def accepts(text: str) -> bool:
        try:
            compile(text, "a.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        return True

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [accepts(text) for text in texts]


def _json(command: list[str], texts: Sequence[str]) -> list[bool]:
    said = subprocess.run(
        command, input=json.dumps(list(texts)), capture_output=True, text=True, check=True
    ).stdout
    return [bool(value) for value in json.loads(said)]


def _java(texts: Sequence[str]) -> list[bool]:
    with tempfile.TemporaryDirectory() as folder:
        judge = Path(folder, "Judge.java")
        judge.write_text(_JAVAC)
        names = []
        for number, text in enumerate(texts):
            names.append(Path(folder, f"{number}.txt"))
            names[-1].write_text(text, "utf-8", newline="")
        said = subprocess.run(
            ["java", judge, *names], capture_output=True, text=True, check=True
        ).stdout
        return [line == "true" for line in said.split()]


def _each(
    language: str, command: list[str], suffix: str, refuses: re.Pattern[str], texts: Sequence[str]
) -> list[bool]:
    def accepts(text: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "a" + suffix)
            if language in ("c", "cpp"):  # their headers are not here
                text = re.sub(r"(?m)^[ \t]*#[ \t]*include.*", "", text)
            file.write_text(text, "utf-8", newline="")
            run = subprocess.run(
                [*command, file.name],
                cwd=folder,
                capture_output=True,
                text=True,
                env=os.environ | {"RUSTC_BOOTSTRAP": "1"},
            )
            return run.returncode == 0 or not refuses.search(run.stdout + run.stderr)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(accepts, texts))
