"""What of an index goes into a prompt: `context_pieces`, a pure function of a place in a text.

First the signatures that the place asks for: members of what an attribute is completed of, names
that stand near the hole, names that are imported. Then recent edits, then the ring of other open
files. Nothing comes twice, and nothing that the window around the hole shows anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from blockdiff.syntax.grammars import language_of
from blockdiff.types import Hole, Snippet
from blockdiff.workspace.definitions import Definition, Kind
from blockdiff.workspace.imports import Import, family_of, imports_of
from blockdiff.workspace.index import Index
from blockdiff.workspace.receivers import completed, receivers, types_of
from blockdiff.workspace.render import Shown, in_order, text_of

CHARACTERS_PER_TOKEN = 3.2
"""Of signatures, on the low side: nobody here has a tokenizer."""

_LINES_BEFORE, _LINES_AFTER = 30, 10  # that names are looked for in
_NEAREST = 2  # lines before the hole whose names have to be there
_MOST_NAMES = 120
_AMBIGUOUS = 4  # definitions of a name in as many files say nothing of which is meant
_MEMBERS, _MEMBERS_ASKED_FOR = 10, 40
_IMPORTED = 0.05  # weight of a name that is imported and not near
_NAME = re.compile(r"[^\W\d]\w{2,}")
_IMPORT_FROM = re.compile(r"^[ \t]*from[ \t]+([.\w]+)[ \t]+import\b[^\n]*$")
_EXPLICIT = frozenset({"python", "javascript", "rust", "java", "lua"})  # names have to be imported

Key = tuple[str, str, str]
"""Path, class and name of a definition."""


@dataclass(frozen=True, slots=True)
class ContextPieces:
    """What is shown of other files.

    Attributes:
        snippets: the most relevant first, as an `InfillRequest` takes them.
        tokens: about as many as signatures and edits take; within the budget that was given. The
            ring is not counted.
        needed: what the place cannot do without, and the index has.
        shown: all whose signatures are there.
    """

    snippets: tuple[Snippet, ...] = ()
    tokens: int = 0
    needed: frozenset[Key] = frozenset()
    shown: frozenset[Key] = frozenset()


def context_pieces(
    index: Index | None,
    text: str,
    hole: Hole,
    path: str,
    language: str,
    budget: int,
    *,
    window: int = 1024,
    edits: Sequence[Snippet] = (),
    ring: Sequence[Snippet] = (),
) -> ContextPieces:
    """What to show of other files for a hole of a text. Changes nothing, and never raises.

    Args:
        index: of the workspace; None shows edits and ring alone.
        text: the document as it stands, which need not be what is on disk.
        hole: in code points of `text`.
        path: of the document: absolute, or relative to the root of the index.
        language: as the editor says; empty: by the path.
        budget: most tokens of signatures and edits together.
        window: tokens of context in all: about as much of the text is taken to be seen.
        edits: recent ones as small diffs, the latest first.
        ring: parts of other open files, the likeliest first.

    In a request the snippets go where they always do; `tokens` of its context are kept for them:

        pieces = context_pieces(index, text, hole, path, language, budget)
        InfillRequest(text, hole, snippets=pieces.snippets, snippet_tokens=pieces.tokens, …)
    """
    language = language_of(path, language)
    room = int(budget * CHARACTERS_PER_TOKEN)
    found = _Found()
    snippets: list[Snippet] = []
    if index is not None:
        name = path if not path.startswith("/") else _relative(index, path)
        found = _Search(index, _Place.of(text, hole, name, language, window)).found()
        snippets = _packed(index, found, language, room)
        room -= sum(map(_size, snippets))
    shown = frozenset(key for key in found.chosen if key in found.packed)
    for edit in edits:
        if _size(edit) <= room and not _is_in(edit, ring):
            room -= _size(edit)
            snippets.append(edit)
    tokens = sum(map(_size, snippets)) / CHARACTERS_PER_TOKEN
    texts = {snippet.text for snippet in snippets}
    snippets += [other for other in ring if other.text not in texts]
    return ContextPieces(tuple(snippets), int(tokens), frozenset(found.needed) & shown, shown)


def _is_in(edit: Snippet, ring: Sequence[Snippet]) -> bool:
    """Whether a diff only adds what the ring shows."""
    lines = edit.text.splitlines()
    if any(line.startswith("-") for line in lines):
        return False
    added = [line[1:] for line in lines if line.startswith("+")]
    return any(all(line in shown.text for line in added) for shown in ring)


def _relative(index: Index, path: str) -> str:
    from pathlib import Path

    return index.name_of(Path(path))


def _size(snippet: Snippet) -> int:
    return len(snippet.text) + len(snippet.path) + 4


@dataclass(frozen=True, slots=True)
class _Place:
    """A hole, and what is seen around it.

    Attributes:
        before: the text up to the hole.
        seen: the window, which the prompt shows anyway.
        weights: names near the hole by how near they are.
        nearest: those of the last lines before it.
    """

    path: str
    language: str
    before: str
    seen: str
    weights: dict[str, float]
    nearest: frozenset[str]
    imports: tuple[Import, ...]

    @classmethod
    def of(cls, text: str, hole: Hole, path: str, language: str, window: int) -> _Place:
        before, after = text[: hole.start], text[hole.end :]
        characters = int(window * CHARACTERS_PER_TOKEN)
        seen = before[-characters * 2 // 3 :] + after[: characters // 3]
        weights: dict[str, float] = {}
        lines = before[-20_000:].split("\n")[-_LINES_BEFORE:]
        near = [(distance, line) for distance, line in enumerate(reversed(lines))]
        near += list(enumerate(after[:10_000].split("\n")[:_LINES_AFTER], 3))
        for distance, line in near:
            for name in _NAME.findall(line):
                weights[name] = weights.get(name, 0.0) + 1 / (1 + distance)
        nearest = frozenset(_NAME.findall("\n".join(lines[-_NEAREST:])))
        imports = tuple(imports_of(text, language))
        return cls(path, language, before, seen, weights, nearest, imports)


@dataclass(slots=True)
class _Found:
    """Attributes:
    chosen: definitions with their weight.
    members: of a class at a key: which of them, the likeliest first.
    needed: see `ContextPieces`.
    packed: what has found room.
    """

    chosen: dict[Key, tuple[Definition, float]] = field(default_factory=dict)
    members: dict[Key, list[Definition]] = field(default_factory=dict)
    needed: set[Key] = field(default_factory=set)
    packed: set[Key] = field(default_factory=set)

    def add(self, definition: Definition, weight: float, needed: bool) -> None:
        key = key_of(definition)
        if key not in self.chosen or self.chosen[key][1] < weight:
            self.chosen[key] = (definition, weight)
        if needed:
            self.needed.add(key)


def key_of(definition: Definition) -> Key:
    return definition.path, definition.container, definition.name


class _Search:
    """Looks up what one place asks for."""

    def __init__(self, index: Index, place: _Place) -> None:
        self._index, self._place, self._found = index, place, _Found()
        self._imported: dict[str, set[str]] = {}  # files by the name that a text has from them
        self._modules: dict[str, list[str]] = {}  # files by the alias of a module
        self._asked = completed(place.before, place.language)

    def found(self) -> _Found:
        place = self._place
        self._resolve_imports()
        guesses = self._types()
        near = sorted(place.weights, key=lambda name: -place.weights[name])[:_MOST_NAMES]
        aliased = {found.name or found.alias for found in place.imports} - {""}
        names = list(dict.fromkeys((*(n for _, types in guesses for n in types), *near, *aliased)))
        by_name: dict[str, list[Definition]] = {}
        for definition in self._index.named(names[:400], place.language):
            by_name.setdefault(definition.name, []).append(definition)
        self._add_members(guesses, by_name)
        self._add_modules()
        self._add_names(by_name)
        return self._found

    def _resolve_imports(self) -> None:
        place = self._place
        modules = list(dict.fromkeys(found.module for found in place.imports))
        files = self._index.modules(modules, place.path, place.language)
        for found in place.imports:
            here = [p for p in files.get(found.module, ()) if p != place.path]
            if not here:
                continue
            if family_of(place.language) == "c":
                here = here[:3]
                self._imported.setdefault("", set()).update(here)
            elif found.name:
                self._imported.setdefault(found.name, set()).update(here)
            else:
                self._modules.setdefault(found.alias, here)

    def _types(self) -> list[tuple[str, list[str]]]:
        """Receivers near the hole, the nearest first, and what types they may be of."""
        place = self._place
        near = "\n".join(place.before[-6_000:].split("\n")[-_LINES_BEFORE:])
        asked = [self._asked[0]] if self._asked else []
        others = reversed(receivers(near, place.language))
        names = list(dict.fromkeys((*asked, *others)))[:16]
        return [(name, types_of(name, place.before, place.language)) for name in names]

    def _add_members(
        self, guesses: list[tuple[str, list[str]]], by_name: dict[str, list[Definition]]
    ) -> None:
        """Classes that receivers are of, with their members."""
        for number, (receiver, types) in enumerate(guesses):
            asked = self._asked is not None and receiver == self._asked[0]
            if receiver.partition(".")[0] in self._modules and not asked:
                continue
            for name in types:
                classes = self._classes(name, by_name)
                if not asked:  # a variable that is called like some class says little
                    classes = [d for d in classes if self._is_at_hand(d)]
                if not classes:
                    continue
                weight = 4.0 if asked else 1.5 / (1 + number)
                for definition in classes[:1]:
                    self._add_class(definition, weight, asked)
                if receiver not in ("self", "this", "cls", "super", "Self"):
                    break  # of those the classes above count, too

    def _classes(self, name: str, by_name: dict[str, list[Definition]]) -> list[Definition]:
        """Classes of a name, or that a function of this name returns."""
        ranked = self._ranked(by_name.get(name, []))
        classes = [d for d in ranked if d.kind in (Kind.CLASS, Kind.TYPE)]
        if classes:
            return classes
        for definition in ranked[:1]:
            if definition.kind in (Kind.FUNCTION, Kind.METHOD):
                names = _returned(definition, self._place.language)
                found = self._index.named(names, self._place.language)
                return self._ranked([d for d in found if d.kind is Kind.CLASS])
        return []

    def _add_class(self, definition: Definition, weight: float, asked: bool) -> None:
        place, key = self._place, key_of(definition)
        members = self._index.members(definition.name, place.language, definition.path)
        if not members or (asked and family_of(place.language) == "c"):
            others = self._index.members(definition.name, place.language)
            names = {member.name for member in members}
            members += [other for other in others if other.name not in names]
        typed = self._asked[1] if asked and self._asked else ""
        ranked = sorted(
            (m for m in members if not self._is_seen(m) and _is_public(m, place)),
            key=lambda m: (
                not (typed and m.name.startswith(typed)),
                -place.weights.get(m.name, 0.0),
                m.kind is Kind.FIELD,
                m.line,
            ),
        )
        kept = ranked[: _MEMBERS_ASKED_FOR if asked else _MEMBERS]
        self._found.add(definition, weight, asked)
        known = self._found.members.get(key, [])
        if len(kept) > len(known):
            self._found.members[key] = kept
        if asked:
            self._found.needed.update(key_of(member) for member in kept[:_MEMBERS])

    def _add_modules(self) -> None:
        """What a module gives whose attribute is completed, or that an import line names."""
        place = self._place
        files: list[str] = []
        if self._asked and self._asked[0] in self._modules:
            files = self._modules[self._asked[0]]
        line = place.before[place.before.rfind("\n") + 1 :]
        if found := _IMPORT_FROM.match(line) if place.language == "python" else None:
            dots = len(found[1]) - len(found[1].lstrip("."))
            above = "./" if dots == 1 else "../" * (dots - 1)
            module = above + found[1].lstrip(".").replace(".", "/")
            files = self._index.modules([module], place.path, "python").get(module, [])
        for file in files[: 20 if place.language == "go" else 1]:
            for number, definition in enumerate(self._index.of_file(file)):
                top = not definition.container or place.language == "lua"
                if top and number < 200 and _is_public(definition, place):
                    self._found.add(definition, 3.0 - number / 100, number < _MEMBERS)

    def _add_names(self, by_name: dict[str, list[Definition]]) -> None:
        """Names near the hole, and names that are imported."""
        place = self._place
        imported = {found.name or found.alias for found in place.imports} - {""}
        for name in (*place.weights, *(imported - place.weights.keys())):
            weight = place.weights.get(name, 0.0) or _IMPORTED
            for definition in self._meant(name, by_name.get(name, [])):
                if not self._is_seen(definition):
                    self._found.add(definition, weight, name in place.nearest)
                    if definition.kind is Kind.CLASS and weight >= 0.5:
                        self._add_class(definition, weight, False)

    def _meant(self, name: str, found: list[Definition]) -> list[Definition]:
        """Those that a name in this text means, as far as can be told; none rather than many."""
        place = self._place
        tops = [d for d in found if not d.container]
        files = self._imported.get(name, set()) | self._imported.get("", set())
        if from_import := [d for d in tops if d.path in files]:
            return _overloads(from_import)
        here = [d for d in tops if d.path == place.path or _same_package(d, place)]
        if here:
            return _overloads(here)
        is_type = name[:1].isupper() and not name.isupper()
        guessed = tops if is_type or family_of(place.language) not in _EXPLICIT else []
        guessed = [d for d in guessed if not d.path.startswith("/")]
        if guessed and len({d.path for d in guessed}) < _AMBIGUOUS:
            return _overloads(self._ranked(guessed))
        members = [d for d in found if d.container and d.kind is Kind.METHOD]
        if len({key_of(d)[:2] for d in members}) == 1 and f".{name}" in place.seen:
            return members[:1]
        return []

    def _is_at_hand(self, definition: Definition) -> bool:
        """Whether the text can use a name as it stands."""
        place = self._place
        files = self._imported.get(definition.name, set()) | self._imported.get("", set())
        if definition.path in files or definition.path == place.path:
            return True
        return _same_package(definition, place) or family_of(place.language) not in _EXPLICIT

    def _ranked(self, found: list[Definition]) -> list[Definition]:
        """The likeliest first: imported, in this file or folder, in the workspace."""
        place = self._place
        folder = place.path.rpartition("/")[0]

        def rank(definition: Definition) -> tuple[bool, bool, bool, int]:
            files = self._imported.get(definition.name, set()) | self._imported.get("", set())
            return (
                definition.path not in files,
                definition.path != place.path,
                definition.path.startswith("/"),
                -_common(folder, definition.path),
            )

        return sorted(found, key=rank)

    def _is_seen(self, definition: Definition) -> bool:
        """Whether the window shows it: this very file does, as far as it reaches."""
        head = definition.signature.split("\n")[-1].partition("(")[0]
        return definition.path == self._place.path and head in self._place.seen


def _is_public(definition: Definition, place: _Place) -> bool:
    name = definition.name
    if name.startswith("__") and name.endswith("__"):
        return name == "__init__"
    if place.language == "go" and name[:1].islower():
        return _same_package(definition, place)
    if definition.signature.startswith("private ") or name.startswith("_"):
        return definition.path == place.path
    return True


def _same_package(definition: Definition, place: _Place) -> bool:
    """Whether names need no import: files of a folder in Go and Java, all in C."""
    if place.language not in ("go", "java"):
        return False
    return definition.path.rpartition("/")[0] == place.path.rpartition("/")[0]


def _overloads(found: list[Definition]) -> list[Definition]:
    return [d for d in found if d.path == found[0].path][:2]


def _common(folder: str, path: str) -> int:
    """How many folders two paths have in common."""
    count = 0
    for one, other in zip(folder.split("/"), path.split("/"), strict=False):
        if one != other:
            break
        count += 1
    return count


def _returned(definition: Definition, language: str) -> list[str]:
    """Names of types that the signature of a function says it returns."""
    signature = definition.signature
    if language in ("c", "cpp", "java"):
        text = signature.partition(definition.name)[0]
    elif language == "go":
        text = signature.rpartition(")")[2] or signature.rpartition("(")[2]
    else:
        text = re.split(r"->|\):", signature)[-1] if re.search(r"->|\):", signature) else ""
    return [name for name in re.findall(r"[^\W\d]\w*", text) if name[:1].isupper()][:4]


def _packed(index: Index, found: _Found, language: str, room: int) -> list[Snippet]:
    """As many as find room, by weight; those of one file together, the weightiest file first."""
    files: dict[str, list[Shown]] = {}
    is_open: dict[str, bool] = {}
    for key, (definition, _) in sorted(found.chosen.items(), key=lambda item: -item[1][1]):
        if key in found.packed:
            continue
        path = definition.path
        if path not in is_open:
            is_open[path] = index.is_open(path)
        if not is_open[path]:
            continue
        head = len(path) + 4 if path not in files else 0
        for members in _less_and_less(found.members.get(key, [])):
            shown = Shown(definition, members) if not definition.container else None
            shown = shown or Shown(None, [definition])
            size = head + len(text_of([shown], language))
            if size <= room:
                room -= size
                files.setdefault(path, []).append(shown)
                found.packed.add(key)
                for member in members:
                    found.packed.add(key_of(member))
                    found.chosen.setdefault(key_of(member), (member, 0.0))
                break
    return [
        Snippet(path, text_of(in_order(parts), language_of(path) or language))
        for path, parts in files.items()
    ]


def _less_and_less(members: list[Definition]) -> Iterable[list[Definition]]:
    """All of them, then half of them, down to none."""
    while members:
        yield members
        members = members[: len(members) // 2]
    yield []
