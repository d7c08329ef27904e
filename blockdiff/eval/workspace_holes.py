"""Holes for `workspace`: what is taken out uses a name that another file of the package defines.

Beside them, holes that need no other file: every name in them stands elsewhere in the same file.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from blockdiff.errors import InputFileError
from blockdiff.syntax.grammars import LANGUAGES, language_of, parsed
from blockdiff.system.ignored import IgnoreFiles
from blockdiff.types import Snippet
from blockdiff.workspace.files import read_source, source_files
from blockdiff.workspace.index import Index

if TYPE_CHECKING:
    import tree_sitter

    from blockdiff.workspace.definitions import Definition

HOLES, CONTROLS = 300, 200
_LENGTHS = (6, 100)  # characters of a hole
_FILE = (800, 60_000)  # characters of a file
_SHORTEST_NAME = 4
_MOST_FILES = 2  # that define a name: of one in many files nobody could say which is meant
_OF_FILE = 2  # holes of each sort
_OPEN, _OPEN_LINES, _OPEN_CHARACTERS = 3, 48, 4_000  # as the language server keeps of other files
_NAME = re.compile(r"[^\W\d]\w*")
_REQUIRE = re.compile(r"\brequire\b")
_BOUND = re.compile(r"\w+\s*(?::=|=(?![=>]))")
_SHARE_FOLDERS = frozenset({"go", "java", "c", "cpp"})
_IMPORT = re.compile(r"import|use_declaration|preproc_include|package|extern_crate|export_from")


class OtherFiles(str, Enum):
    """What is shown of other files. The context is as long in every case."""

    NONE = "none"
    RING = "ring"  # parts of open ones
    INDEX = "index"  # definitions, found by the index
    ALL = "all"


@dataclass(frozen=True, slots=True)
class WorkspaceHole:
    """A document with `text` taken out between `before` and `after`, up to the end of its line.

    Attributes:
        package: folder of the workspace; `path` is relative to it.
        name: what stands first in the text, defined in another file; empty: no other is needed.
        ring: what is open beside it.
    """

    id: str
    package: str
    path: str
    language: str
    name: str
    before: str
    text: str
    after: str
    ring: tuple[Snippet, ...]


class HeldOutPackages:
    """The packages in some folders, each with an index of its own.

    Args:
        folders: those whose folders are packages.
        indexes: where indexes are kept.
        trained: names of packages that are left out, as an adapter was trained on them.
    """

    def __init__(self, folders: Sequence[Path], indexes: Path, trained: frozenset[str]) -> None:
        found = (path for folder in folders for path in _folders(folder))
        self.roots = {
            path.name: path for path in sorted(found) if not trained & _names_of(path.name)
        }
        self._where = indexes
        self._open: dict[str, Index] = {}

    def index(self, package: str) -> Index:
        """It is brought up to date the first time it is asked for."""
        if package not in self._open:
            self._where.mkdir(parents=True, exist_ok=True)
            index = Index(self.roots[package], file=self._where / f"{package}.sqlite")
            index.refresh()
            self._open[package] = index
        return self._open[package]

    def close(self) -> None:
        for index in self._open.values():
            index.close()


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise InputFileError(f"cannot read {folder}: {error.strerror}") from error


def _names_of(folder: str) -> frozenset[str]:
    """What a folder such as `httpie-3.2.4` or `librust-ureq-dev_2.6.2-3` may be a package of."""
    plain = re.sub(r"[-_@]v?\d.*$", "", folder).lower()
    return frozenset({folder.lower(), plain, plain.replace("_", "-"), plain.replace("-", "_")})


def draw(spaces: HeldOutPackages, limit: int, controls: int, seed: int) -> list[WorkspaceHole]:
    """At most `limit` holes that need another file and `controls` that need none, in turn.

    Languages take turns and so do the packages of one. A larger draw begins with a smaller one of
    the same seed.
    """
    stocks = [_Stock(spaces, seed, needing) for needing in (True, False)]
    left = [limit, controls]
    found: list[WorkspaceHole] = []
    while any(left):
        for which, stock in enumerate(stocks):
            hole = stock.take() if left[which] else None
            left[which] = left[which] - 1 if hole else 0
            found += [hole] if hole else []
    return found


class _Stock:
    """Holes of one sort that are left, by language and package."""

    def __init__(self, spaces: HeldOutPackages, seed: int, needing: bool) -> None:
        self._spaces, self._seed, self._needing = spaces, seed, needing
        self._turns = {
            language: [self._of_package(name, language) for name in spaces.roots]
            for language in sorted(LANGUAGES)
        }

    def take(self) -> WorkspaceHole | None:
        while self._turns:
            language, packages = next(iter(self._turns.items()))
            del self._turns[language]
            while packages:
                turn = packages.pop(0)
                hole = next(turn, None)
                if hole is not None:
                    packages.append(turn)
                    self._turns[language] = packages  # it is this language's turn last
                    return hole
        return None

    def _of_package(self, package: str, language: str) -> Iterator[WorkspaceHole]:
        root = self._spaces.roots[package]
        files = [
            file.path
            for file in source_files(root, IgnoreFiles())
            if file.language == language and file.stamp[1] <= _FILE[1] and ".d." not in file.path
        ]
        random.Random(f"workspace/{self._seed}/{package}/{language}").shuffle(files)
        for path in files:
            data = read_source(root / path)
            text = data.decode() if data else ""
            if _FILE[0] <= len(text) <= _FILE[1]:
                yield from self._of_file(package, path, text, files)

    def _of_file(
        self, package: str, path: str, text: str, files: list[str]
    ) -> Iterator[WorkspaceHole]:
        rng = random.Random(f"workspace/{self._seed}/{self._needing}/{package}/{path}")
        places = list(_places(self._spaces.index(package), path, text, self._needing))
        rng.shuffle(places)
        for name, start, end in places[:_OF_FILE]:
            yield WorkspaceHole(
                id=f"{package}/{path}:{start}-{end}",
                package=package,
                path=path,
                language=language_of(path),
                name=name,
                before=text[:start],
                text=text[start:end],
                after=text[end:],
                ring=tuple(_ring(self._spaces.roots[package], path, files, rng)),
            )


def _places(index: Index, path: str, text: str, needing: bool) -> Iterator[tuple[str, int, int]]:
    """A name, and the range from where it begins to the end of its line, in code points."""
    language = language_of(path)
    tree = parsed(text.encode(), language)
    if tree is None or not text.isascii() or tree.root_node.has_error:
        return
    imports, names = _names(tree)
    lines = text.split("\n")
    imports |= {number for number, line in enumerate(lines) if _REQUIRE.search(line)}
    counts, imported = Counter[str](), set[str]()
    for number, line in enumerate(lines):
        words = _NAME.findall(line)
        imported.update(words) if number in imports else counts.update(words)
    here = {definition.name for definition in index.of_file(path)}
    elsewhere: dict[str, list[Definition]] = {}
    for definition in index.named(sorted({name for name, _, _ in names}), language):
        elsewhere.setdefault(definition.name, []).append(definition)
    for name, start, row in names:
        end = text.find("\n", start)
        end = len(text[: end if end >= 0 else None].rstrip())
        if row in imports or not _LENGTHS[0] <= end - start <= _LENGTHS[1]:
            continue
        others = set(_NAME.findall(text[start:end]))
        if needing:
            found = elsewhere.get(name, [])
            once = counts[name] == 1 and len(name) >= _SHORTEST_NAME and name not in here
            known = imported | counts.keys()
            if once and len({d.path for d in found}) <= _MOST_FILES and not _binds(text, start):
                if any(_is_at_hand(d, path, language, imported, known) for d in found):
                    yield name, start, end
        elif all(counts[other] > text[start:end].count(other) for other in others):
            if all(d.path == path for other in others for d in elsewhere.get(other, ())):
                yield "", start, end


def _binds(text: str, start: int) -> bool:
    """Whether a name is given a value there, and so is one of this file."""
    return _BOUND.match(text, start) is not None and text[max(0, start - 1)] not in ".>:"


def _is_at_hand(
    definition: Definition, path: str, language: str, imported: set[str], known: set[str]
) -> bool:
    """Whether a file likely means this one: it names its class, its file, or imports its name."""
    if definition.path.startswith("/") or definition.path == path:
        return False
    if definition.container:
        return definition.container in known
    folder, _, file = definition.path.rpartition("/")
    near = language in _SHARE_FOLDERS and folder == path.rpartition("/")[0]
    return near or definition.name in imported or file.partition(".")[0] in known


def _names(tree: tree_sitter.Tree) -> tuple[set[int], list[tuple[str, int, int]]]:
    """Rows of imports; and every name with where it begins (bytes) and its row."""
    imports: set[int] = set()
    names: list[tuple[str, int, int]] = []
    todo = [tree.root_node]
    while todo:
        node = todo.pop()
        row = node.start_point[0]
        if _IMPORT.match(node.type):
            imports |= set(range(row, node.end_point[0] + 1))
        elif node.type.endswith("identifier") and node.child_count == 0 and node.text:
            names.append((node.text.decode(), node.start_byte, row))
        else:
            todo += node.children
    return imports, sorted(names, key=lambda one: one[1])


def _ring(root: Path, path: str, files: list[str], rng: random.Random) -> Iterator[Snippet]:
    """Parts of other files of the language, those of the same folder first."""
    folder = path.rpartition("/")[0]
    others = [other for other in files if other != path]
    rng.shuffle(others)
    others.sort(key=lambda other: other.rpartition("/")[0] != folder)
    for other in others[:_OPEN]:
        lines = (read_source(root / other) or b"").decode().split("\n")
        first = rng.randrange(max(1, len(lines) - _OPEN_LINES))
        text = "\n".join(lines[first : first + _OPEN_LINES]).rstrip()[:_OPEN_CHARACTERS]
        if text.strip():
            yield Snippet(other, text + "\n")
