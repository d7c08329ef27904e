"""What one place in a text asks an index for, with a weight for each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from blockdiff.workspace.definitions import Definition, TagKind
from blockdiff.workspace.imports import family_of, python_module
from blockdiff.workspace.index import Index
from blockdiff.workspace.place import HolePlace
from blockdiff.workspace.receivers import bound, completed, receivers, types_of

_LINES = 30  # before the hole, whose receivers are looked at
_MOST_NAMES = 120
_BOUND = 10  # lines before the hole whose variables may be used next
_MOST_RECEIVERS = 12
_AMBIGUOUS = 4  # definitions of a name in as many files say nothing of which is meant
_MEMBERS, _MEMBERS_ASKED_FOR = 10, 40
_CLOSE = 0.2  # weight of a class whose members are shown, too
_IMPORTED = 0.05  # weight of a name that is imported and not near
_IMPORT_FROM = re.compile(r"^[ \t]*from[ \t]+([.\w]+)[ \t]+import\b[^\n]*$")
_EXPLICIT = frozenset({"python", "javascript", "rust", "java", "lua"})  # names have to be imported

_PASSES_ON = re.compile(r"/(?:__init__\.pyi?|index\.[jt]sx?|mod\.rs|lib\.rs)$")

DefinitionKey = tuple[str, str, str]
"""Path, class and name of a definition."""


@dataclass(slots=True)
class Selection:
    """Attributes:
    chosen: definitions with their weight.
    members: of a class at a key: which of them, the likeliest first.
    needed: see `ContextPieces`.
    packed: what has found room.
    """

    chosen: dict[DefinitionKey, tuple[Definition, float]] = field(default_factory=dict)
    members: dict[DefinitionKey, list[Definition]] = field(default_factory=dict)
    needed: set[DefinitionKey] = field(default_factory=set)
    packed: set[DefinitionKey] = field(default_factory=set)

    def add(self, definition: Definition, weight: float, needed: bool) -> None:
        key = key_of(definition)
        if key not in self.chosen or self.chosen[key][1] < weight:
            self.chosen[key] = (definition, weight)
        if needed:
            self.needed.add(key)


def key_of(definition: Definition) -> DefinitionKey:
    return definition.path, definition.container, definition.name


class Search:
    """Looks up what one place asks for."""

    def __init__(self, index: Index, place: HolePlace) -> None:
        self._index, self._place, self._found = index, place, Selection()
        self._imported: dict[str, set[str]] = {}  # files by the name that a text has from them
        self._modules: dict[str, list[str]] = {}  # files by the alias of a module
        self._module_files: frozenset[str] = frozenset()
        self._asked = completed(place.before, place.language)
        aliases = (found.name or found.alias for found in place.imports)
        self._aliases = [name for name in dict.fromkeys(aliases) if name]  # in the text's order

    def found(self) -> Selection:
        place = self._place
        self._resolve_imports()
        guesses = self._types()
        near = sorted(place.weights, key=lambda name: -place.weights[name])[:_MOST_NAMES]
        names = [*(name for _, types in guesses for name in types), *near, *self._aliases]
        names = list(dict.fromkeys(names))
        by_name: dict[str, list[Definition]] = {}
        files = {place.path, *self._module_files}
        files.update(path for paths in self._imported.values() for path in paths)
        for definition in self._index.named(names[:200], place.language, sorted(files)[:100]):
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
        self._module_files = frozenset(p for paths in self._modules.values() for p in paths)

    def _types(self) -> list[tuple[str, list[str]]]:
        """Receivers near the hole, the nearest first, and what types they may be of."""
        place = self._place
        near = "\n".join(place.before[-6_000:].split("\n")[-_LINES:])
        asked = [self._asked[0]] if self._asked else []
        others = reversed(receivers(near, place.language))
        new = bound("\n".join(near.split("\n")[-_BOUND:]))
        names = list(dict.fromkeys((*asked, *others, *new)))[:_MOST_RECEIVERS]
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
        classes = [d for d in ranked if d.kind in (TagKind.CLASS, TagKind.TYPE)]
        if classes:
            return classes
        for definition in ranked[:1]:
            if definition.kind in (TagKind.FUNCTION, TagKind.METHOD):
                names = _returned(definition, self._place.language)
                found = self._index.named(names, self._place.language)
                return self._ranked([d for d in found if d.kind is TagKind.CLASS])
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
                m.kind is TagKind.FIELD,
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
            module = python_module(found[1])
            files = self._index.modules([module], place.path, "python").get(module, [])
        for file in files[: 20 if place.language == "go" else 1]:
            for number, definition in enumerate(self._index.of_file(file)):
                top = not definition.container or place.language == "lua"
                if top and number < 200 and _is_public(definition, place):
                    self._found.add(definition, 3.0 - number / 100, number < _MEMBERS)

    def _add_names(self, by_name: dict[str, list[Definition]]) -> None:
        """Names near the hole, and names that are imported."""
        place = self._place
        for name in dict.fromkeys((*place.weights, *self._aliases)):
            if name not in by_name:
                continue
            weight = place.weights.get(name, 0.0) or _IMPORTED
            for definition in self._meant(name, by_name[name]):
                if not self._is_seen(definition):
                    self._found.add(definition, weight, name in place.nearest)
                    if definition.kind is TagKind.CLASS and weight >= _CLOSE:
                        self._add_class(definition, weight, False)

    def _meant(self, name: str, found: list[Definition]) -> list[Definition]:
        """Those that a name in this text means, as far as can be told; none rather than many."""
        place = self._place
        tops = [d for d in found if not d.container]
        if from_import := self._ranked([d for d in tops if self._is_imported(d)]):
            return _overloads(from_import)
        here = [d for d in tops if d.path == place.path or _same_package(d, place)]
        if here:
            return _overloads(here)
        is_type = name[:1].isupper() and not name.isupper()
        guessed = tops if is_type or family_of(place.language) not in _EXPLICIT else []
        guessed = [d for d in guessed if not os.path.isabs(d.path)]
        if guessed and len({d.path for d in guessed}) < _AMBIGUOUS:
            return _overloads(self._ranked(guessed))
        members = [d for d in found if d.container and d.kind is TagKind.METHOD]
        if len({key_of(d)[:2] for d in members}) == 1 and f".{name}" in place.seen:
            return members[:1]
        return []

    def _is_at_hand(self, definition: Definition) -> bool:
        """Whether the text can use a name as it stands."""
        place = self._place
        if self._is_imported(definition) or definition.path == place.path:
            return True
        return _same_package(definition, place) or family_of(place.language) not in _EXPLICIT

    def _is_imported(self, definition: Definition) -> bool:
        """Whether the text has a name from there, or from a package that has it from there."""
        if definition.path in self._module_files:
            return True
        files = self._imported.get(definition.name, set()) | self._imported.get("", set())
        return definition.path in files or any(
            definition.path.startswith(file.rpartition("/")[0] + "/")
            for file in files
            if _PASSES_ON.search(file)
        )

    def _ranked(self, found: list[Definition]) -> list[Definition]:
        """The likeliest first: imported, in this file or folder, in the workspace."""
        place = self._place
        folder = place.path.rpartition("/")[0]

        def rank(definition: Definition) -> tuple[bool, bool, bool, int]:
            return (
                not self._is_imported(definition),
                definition.path != place.path,
                os.path.isabs(definition.path),
                -_common(folder, definition.path),
            )

        return sorted(found, key=rank)

    def _is_seen(self, definition: Definition) -> bool:
        """Whether the window shows it: this very file does, as far as it reaches."""
        head = definition.signature.split("\n")[-1].partition("(")[0]
        return definition.path == self._place.path and head in self._place.seen


def _is_public(definition: Definition, place: HolePlace) -> bool:
    name = definition.name
    if name.startswith("__") and name.endswith("__"):
        return name == "__init__"
    if place.language == "go" and name[:1].islower():
        return _same_package(definition, place)
    if definition.signature.startswith("private ") or name.startswith("_"):
        return definition.path == place.path
    return True


def _same_package(definition: Definition, place: HolePlace) -> bool:
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
