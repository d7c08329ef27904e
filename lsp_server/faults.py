"""What does not parse of a document: by tree-sitter, and where that is content by the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from blockdiff.syntax.grammars import NoGrammar, OutOfTime, parsed
from blockdiff.syntax.syntax_errors import syntax_faults

if TYPE_CHECKING:
    from tree_sitter import Node

MOST_CHARACTERS = 1_000_000  # above, nothing is offered that needs a parse

_MOST_JUDGED = 60_000  # characters: above, what the grammar lets pass is not looked for
_MOST_ERRORS = 200
_MOST_LINES = 12  # of an error that are written anew


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in offsets of the text.

    Attributes:
        missing: what the parser would have had there; empty if it is something else.
    """

    start: int
    end: int
    missing: str = ""


@dataclass(frozen=True, slots=True)
class DocumentFaults:
    """Of a whole document, in order.

    Attributes:
        hidden: the grammar accepts the document. Who refuses it stops at the first fault.
    """

    all: tuple[Fault, ...]
    hidden: bool = False

    def __bool__(self) -> bool:
        return bool(self.all)

    def nearest(self, at: int) -> Fault:
        return min(self.all, key=lambda fault: max(fault.start - at, at - fault.end, 0))

    def fewer_than(self, others: DocumentFaults) -> bool:
        """Fewer errors, or as many that cover less than half as much."""
        if len(self.all) == len(others.all):
            return 2 * self._size < others._size
        return len(self.all) < len(others.all)

    @property
    def _size(self) -> int:
        return sum(fault.end - fault.start + 1 for fault in self.all)


@lru_cache(maxsize=4)  # editors ask at every move of the cursor
def faults(text: str, language: str) -> DocumentFaults | None:
    """What does not parse; None where that cannot be said: no grammar, too large, too slow."""
    found = grammar_faults(text, language)
    if found is None or len(text) > _MOST_JUDGED:
        return found
    try:
        wrong = syntax_faults(text, language, 0, len(text))
    except (NoGrammar, OutOfTime):
        return found
    if found and wrong:
        return found
    return DocumentFaults(tuple(Fault(fault.start, fault.end) for fault in wrong[:1]), hidden=True)


def faults_with(text: str, language: str) -> DocumentFaults | None:
    """The same of one of many texts that are tried, most of which the grammar refuses."""
    return grammar_faults(text, language) or faults.__wrapped__(text, language)


def grammar_faults(text: str, language: str) -> DocumentFaults | None:
    """What tree-sitter refuses."""
    if len(text) > MOST_CHARACTERS:
        return None
    data = text.encode("utf-8", "replace")
    tree = parsed(data, language)
    if tree is None:
        return None
    found = list(islice(_errors(tree.root_node), _MOST_ERRORS))
    if tree.root_node.has_error and not found:  # what is missing is a token without a name
        end = len(text.rstrip())
        return DocumentFaults((Fault(end, end),))
    plain = len(data) == len(text)
    made = []
    for node in found:
        start, end = node.start_byte, node.end_byte
        if not plain:
            start = len(data[:start].decode("utf-8", "replace"))
            end = len(data[: node.end_byte].decode("utf-8", "replace"))
        missing = node.type if node.is_missing and not node.is_named else ""
        made.append(Fault(start, end, missing))
    return DocumentFaults(tuple(sorted(made, key=lambda fault: (fault.start, fault.end))))


def broken_lines(text: str, fault: Fault) -> tuple[int, int]:
    """Offsets of the lines of an error, or of the first of them where it is long."""
    first = text.rfind("\n", 0, fault.start) + 1
    last = max(fault.start, min(fault.end, len(text)))
    stop = text.find("\n", last)
    stop = len(text) if stop < 0 else stop
    if text.count("\n", first, stop) < _MOST_LINES:
        return first, stop
    stop = text.find("\n", fault.start)
    return first, len(text) if stop < 0 else stop


def _errors(root: Node) -> Iterator[Node]:
    todo = [root]
    while todo:
        node = todo.pop()
        if node.is_error or node.is_missing:
            yield node
        elif node.has_error:
            todo.extend(reversed(node.children))
