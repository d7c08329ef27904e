"""Definitions as the lines of a file that a model reads: heads without bodies, in their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from blockdiff.workspace.definitions import Definition, Kind

_COMMENTS = {"python": "#", "lua": "--"}


@dataclass(slots=True)
class Shown:
    """A definition at the top level of a file, and those of its members that are shown.

    Attributes:
        head: None where only the members are known, such as of a class in another file.
        documented: members whose documentation is shown, too.
    """

    head: Definition | None
    members: list[Definition] = field(default_factory=list)
    documented: bool = True


def lines_of(shown: Shown, language: str) -> list[str]:
    """The lines of one definition with its members."""
    head, is_python = shown.head, language == "python"
    if head is None:
        return [line for member in shown.members for line in _lines(member, language, True)]
    if not shown.members:
        return _lines(head, language, shown.documented)
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


def text_of(shown: Iterable[Shown], language: str) -> str:
    """All of one file."""
    return "".join(f"{line}\n" for part in shown for line in lines_of(part, language))


def _lines(definition: Definition, language: str, documented: bool) -> list[str]:
    doc = f"{_mark(language)} {definition.doc}" if documented and definition.doc else ""
    head = definition.signature.split("\n")
    if language == "python":
        is_code = definition.kind in (Kind.FUNCTION, Kind.METHOD, Kind.CLASS)
        head[-1] += " ..." if is_code and head[-1].endswith(":") else ""
        if doc:
            head[-1] += f"  {doc}"
        return head
    return [doc, *head] if doc else head


def _is_outside(member: Definition, language: str) -> bool:
    """Whether the signature says by itself what it is a member of."""
    return language in ("go", "lua") and member.kind is Kind.METHOD and "func" in member.signature


def _mark(language: str) -> str:
    return _COMMENTS.get(language, "//")


def in_order(found: Sequence[Shown]) -> list[Shown]:
    """As they stand in their file."""
    def line(shown: Shown) -> int:
        return shown.head.line if shown.head else min(m.line for m in shown.members)

    return sorted(found, key=line)
