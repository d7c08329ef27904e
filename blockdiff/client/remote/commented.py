"""Related texts as comments at the head of a prompt, for backends that have no other place."""

from __future__ import annotations

from blockdiff.client.remote.around import Around
from blockdiff.syntax.nesting import comment_marks


def with_snippets(around: Around, prefix: str) -> str:
    """`prefix` behind the snippets, the path of the document before it; without snippets alone."""
    mark = next(iter(comment_marks(around.language)), "")
    if not (mark and around.snippets):
        return prefix
    lines = []
    for path, text in around.snippets:
        lines += [path, *text.rstrip("\n").split("\n"), ""]
    lines.append(around.path)
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in lines) + prefix
