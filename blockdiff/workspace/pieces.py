"""What of an index goes into a prompt: `context_pieces`, a pure function of a place in a text.

First the signatures that the place asks for: members of what an attribute is completed of, names
that stand near the hole, names that are imported. Then recent edits, then the ring of other open
files. Nothing comes twice, and nothing that the window around the hole shows anyway. Definitions
are the lines of a file that a model reads: heads without bodies, in their classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blockdiff.syntax.grammars import language_of
from blockdiff.types import Hole, Snippet
from blockdiff.workspace.definitions import Definition, TagKind
from blockdiff.workspace.index import Index
from blockdiff.workspace.place import CHARACTERS_PER_TOKEN, HolePlace
from blockdiff.workspace.search import DefinitionKey, Search, Selection, key_of

_COMMENTS = {"python": "#", "lua": "--"}


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
    needed: frozenset[DefinitionKey] = frozenset()
    shown: frozenset[DefinitionKey] = frozenset()


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
    found = Selection()
    snippets: list[Snippet] = []
    if index is not None:
        name = index.name_of(Path(path)) if os.path.isabs(path) else path
        found = Search(index, HolePlace.of(text, hole, name, language, window)).found()
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


def _size(snippet: Snippet) -> int:
    return len(snippet.text) + len(snippet.path) + 4


def _packed(index: Index, found: Selection, language: str, room: int) -> list[Snippet]:
    """As many as find room, by weight; those of one file together, the weightiest file first."""
    files: dict[str, list[_Shown]] = {}
    is_open = index.open_files()
    for key, (definition, _) in sorted(found.chosen.items(), key=lambda item: -item[1][1]):
        if key in found.packed:
            continue
        path = definition.path
        if not is_open(path):
            continue
        head = len(path) + 4 if path not in files else 0
        for members in _less_and_less(found.members.get(key, [])):
            shown = _Shown(definition, members) if not definition.container else None
            shown = shown or _Shown(None, [definition])
            size = head + len(_text_of([shown], language))
            if size <= room:
                room -= size
                files.setdefault(path, []).append(shown)
                found.packed.add(key)
                for member in members:
                    found.packed.add(key_of(member))
                    found.chosen.setdefault(key_of(member), (member, 0.0))
                break
    return [
        Snippet(path, _text_of(_in_order(parts), language_of(path) or language))
        for path, parts in files.items()
    ]


def _less_and_less(members: list[Definition]) -> Iterable[list[Definition]]:
    """All of them, then half of them, down to none."""
    while members:
        yield members
        members = members[: len(members) // 2]
    yield []


@dataclass(slots=True)
class _Shown:
    """A definition at the top level of a file, and those of its members that are shown.

    Attributes:
        head: None where only the members are known, such as of a class in another file.
    """

    head: Definition | None
    members: list[Definition] = field(default_factory=list)


def _lines_of(shown: _Shown, language: str) -> list[str]:
    """The lines of one definition with its members."""
    head, is_python = shown.head, language == "python"
    if head is None:
        return [line for member in shown.members for line in _lines(member, language, True)]
    if not shown.members:
        return _lines(head, language, True)
    opening = head.signature if is_python else f"{head.signature} {{"
    doc = [f"    # {head.doc}"] if is_python and head.doc else []
    above = [f"{_mark(language)} {head.doc}"] if head.doc and not is_python else []
    outside = [m for m in shown.members if not is_python and _is_outside(m, language)]
    inside = [m for m in shown.members if m not in outside]
    body = [
        f"    {line}" for member in inside for line in _lines(member, language, False)
    ]
    closing = [] if is_python else ["}"]
    if not inside and not is_python:
        opening, closing = head.signature, []
    behind = [line for member in outside for line in _lines(member, language, False)]
    return [*above, opening, *doc, *body, *closing, *behind]


def _text_of(shown: Iterable[_Shown], language: str) -> str:
    """All of one file."""
    return "".join(f"{line}\n" for part in shown for line in _lines_of(part, language))


def _lines(definition: Definition, language: str, documented: bool) -> list[str]:
    doc = f"{_mark(language)} {definition.doc}" if documented and definition.doc else ""
    head = definition.signature.split("\n")
    if language == "python":
        is_code = definition.kind in (TagKind.FUNCTION, TagKind.METHOD, TagKind.CLASS)
        head[-1] += " ..." if is_code and head[-1].endswith(":") else ""
        if doc:
            head[-1] += f"  {doc}"
        return head
    return [doc, *head] if doc else head


def _is_outside(member: Definition, language: str) -> bool:
    """Whether the signature says by itself what it is a member of."""
    is_method = language in ("go", "lua") and member.kind is TagKind.METHOD
    return is_method and "func" in member.signature


def _mark(language: str) -> str:
    return _COMMENTS.get(language, "//")


def _in_order(found: Sequence[_Shown]) -> list[_Shown]:
    """As they stand in their file."""
    def line(shown: _Shown) -> int:
        return shown.head.line if shown.head else min(m.line for m in shown.members)

    return sorted(found, key=line)
