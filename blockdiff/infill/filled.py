"""The document around a hole with a text in it: what brackets and the grammar say of it."""

from __future__ import annotations

from functools import cached_property

from blockdiff.syntax.check import check
from blockdiff.syntax.nesting import Nesting, scan
from blockdiff.types import SyntaxState


class FilledDocument:
    """`prefix` and `suffix` are the document around the hole, with LF alone."""

    def __init__(self, prefix: str, suffix: str, language: str) -> None:
        self.prefix, self.suffix, self.language = prefix, suffix, language
        self._suffix_scans: dict[str, Nesting] = {}

    @cached_property
    def before(self) -> Nesting:
        """What is open at the hole."""
        return scan(self.prefix, self.language)

    def after(self, inside: str = "") -> Nesting:
        """What the suffix opens and closes beyond its own, entered `inside` a string or not."""
        if inside not in self._suffix_scans:
            self._suffix_scans[inside] = scan(self.suffix, self.language, Nesting(inside=inside))
        return self._suffix_scans[inside]

    def at_end_of(self, text: str) -> Nesting:
        """What is open behind `text` in the hole."""
        return scan(text, self.language, self.before)

    def excess(self, text: str) -> int:
        """Brackets and strings without a partner in the document with `text` in the hole."""
        state = self.at_end_of(text)
        after = self.after(state.inside)
        stack, missing = [closer for closer, _ in state.stack], len(state.unmatched)
        for closer in after.unmatched:
            if stack and stack[-1] == closer:
                stack.pop()
            else:
                missing += 1
        return len(stack) + missing + len(after.stack) + after.in_string

    def parses(self, text: str) -> SyntaxState:
        """Whether the document does with `text` in the hole."""
        start = len(self.prefix)
        document = self.prefix + text + self.suffix
        return check(document, start, start + len(text), self.language)

    def mended(self, raw: str, keep: str) -> bool:
        """Whether the document parses with `keep` in the hole and does not with `raw`."""
        return self.parses(raw) is SyntaxState.BROKEN and self.parses(keep) is SyntaxState.OK
