"""Which language a document is in, and its tree-sitter parser.

Parsing stops at `TIME_LIMIT_S` per tree: a megabyte of ordinary code takes a tenth of a second, a
megabyte of garbage two. The parser holds Python's lock: a parse that takes long lets
others have it every now and then, as its thread was told to by `give_way_by`.
"""

from __future__ import annotations

import importlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tree_sitter

TIME_LIMIT_S = 0.5
_CALLBACK_FROM_BYTES = 16_384  # below this a parse cannot take long enough to be timed
_PAUSE_EVERY = 32  # calls of the parser: about a millisecond

_thread = threading.local()

_BY_EXTENSION = {
    ".py": "python", ".pyi": "python", ".pyw": "python",
    ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript",
    ".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "tsx",
    ".go": "go", ".rs": "rust", ".java": "java", ".lua": "lua",
    ".c": "c", ".h": "c",
    ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".c++": "cpp",
    ".hpp": "cpp", ".hh": "cpp", ".hxx": "cpp", ".inl": "cpp",
}  # fmt: skip
_ALIASES = {
    "py": "python", "python3": "python", "js": "javascript", "javascriptreact": "javascript",
    "jsx": "javascript", "ts": "typescript", "typescriptreact": "tsx", "golang": "go",
    "rs": "rust", "c++": "cpp", "cuda-cpp": "cpp",
}  # fmt: skip
_BY_INTERPRETER = {
    "python": "python", "pypy": "python", "node": "javascript", "nodejs": "javascript",
    "deno": "typescript", "bun": "typescript", "ts-node": "typescript", "tsx": "typescript",
    "lua": "lua", "luajit": "lua", "texlua": "lua",
}  # fmt: skip
_GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "go": ("tree_sitter_go", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "java": ("tree_sitter_java", "language"),
    "lua": ("tree_sitter_lua", "language"),
}
LANGUAGES = frozenset(_GRAMMARS)
EXTENSIONS = frozenset(_BY_EXTENSION)


def language_of(path: str, language: str = "", first_line: str = "") -> str:
    """Name of the language: what the editor says, else the extension, else the `#!` line.

    Names are those of `LANGUAGES` where it is one of them; an editor's other ids are passed on in
    lower case; empty means unknown.
    """
    if language:
        name = language.strip().lower()
        return _ALIASES.get(name, name)
    extension = PurePosixPath(path.replace("\\", "/")).suffix
    if extension == ".C":
        return "cpp"
    if found := _BY_EXTENSION.get(extension.lower()):
        return found
    words = re.split(r"[\s/]+", first_line[2:].strip()) if first_line.startswith("#!") else []
    names = (re.sub(r"[\d.]+$", "", word) for word in words)
    return next((_BY_INTERPRETER[name] for name in names if name in _BY_INTERPRETER), "")


class NoGrammar(Exception):
    """No grammar for this language is installed."""


class OutOfTime(Exception):
    """The parse took longer than `TIME_LIMIT_S` of its thread's own time."""


def give_way_by(pause: Callable[[], None]) -> None:
    """Have this thread call `pause` about every millisecond of a long parse."""
    _thread.pause = pause


def _no_pause() -> None: ...


def parsed(data: bytes, language: str) -> tree_sitter.Tree | None:
    """The tree of UTF-8 text; None without a grammar, or if it took longer than `TIME_LIMIT_S`."""
    try:
        return parse(data, language)
    except (NoGrammar, OutOfTime):
        return None


def parse(data: bytes, language: str) -> tree_sitter.Tree:
    """The tree of UTF-8 text. Raises NoGrammar or OutOfTime."""
    grammar = grammar_of(language)
    if grammar is None:
        raise NoGrammar
    import tree_sitter

    parser = tree_sitter.Parser(grammar)
    if len(data) < _CALLBACK_FROM_BYTES:
        return parser.parse(data)
    deadline, calls = time.thread_time() + TIME_LIMIT_S, itertools.count(1)
    pause: Callable[[], None] = getattr(_thread, "pause", _no_pause)

    def stops(offset: int, has_error: bool) -> bool:
        if next(calls) % _PAUSE_EVERY == 0:
            pause()
        return time.thread_time() > deadline

    try:
        return parser.parse(
            lambda offset, _: data[offset : offset + _CALLBACK_FROM_BYTES], progress_callback=stops
        )
    except ValueError as error:  # how the binding says that the callback stopped it
        raise OutOfTime from error


def query(
    language: str, source: str, node: tree_sitter.Node, start: int, end: int
) -> list[tree_sitter.Node]:
    """Nodes captured as `@x` below a node that reach into the bytes `start` to `end`, or touch."""
    import tree_sitter

    cursor = tree_sitter.QueryCursor(_query(language, source))
    cursor.set_byte_range(max(start - 1, 0), end + 1)
    return cursor.captures(node).get("x", [])


def matches(
    language: str, patterns: tuple[str, ...], node: tree_sitter.Node
) -> Iterator[dict[str, list[tree_sitter.Node]]]:
    """The captures of each match below a node; those of patterns that the grammar knows."""
    import tree_sitter

    query = _query(language, "\n".join(known(language, patterns)))
    for _, captures in tree_sitter.QueryCursor(query).matches(node):
        yield captures


@cache
def known(language: str, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Those patterns that the installed version of a grammar can match."""
    import tree_sitter

    grammar = grammar_of(language)
    assert grammar is not None

    def matches(*patterns: str) -> bool:
        try:
            tree_sitter.Query(grammar, "\n".join(patterns))
        except tree_sitter.QueryError:
            return False
        return True

    return patterns if matches(*patterns) else tuple(p for p in patterns if matches(p))


@cache
def _query(language: str, source: str) -> tree_sitter.Query:
    import tree_sitter

    grammar = grammar_of(language)
    assert grammar is not None, "there is a tree already"
    return tree_sitter.Query(grammar, source)


@cache
def grammar_of(language: str) -> tree_sitter.Language | None:
    """The installed grammar, or None."""
    module, function = _GRAMMARS.get(language, ("", ""))
    if not module:
        return None
    try:
        import tree_sitter

        return tree_sitter.Language(getattr(importlib.import_module(module), function)())
    except (ImportError, AttributeError, ValueError):  # absent, or of an incompatible ABI
        return None
