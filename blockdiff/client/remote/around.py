"""What of a request is sent: the same lines that our own engine would encode."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockdiff.client.remote.pieces import Pieces
from blockdiff.config import DecodingConfig
from blockdiff.infill.layout import Wording, fitting, kept_between, short_path, worded
from blockdiff.infill.windows import windows
from blockdiff.syntax.whitespace import to_lf, with_line_feeds
from blockdiff.types import InfillRequest

_MOST_TOKENS = 256  # to write, where a request leaves it open
_AROUND = 8  # tokens that a backend puts around a snippet


@dataclass(frozen=True, slots=True)
class Around:
    """The text around a hole, LF and no BOM.

    Attributes:
        before, begun: up to the hole, parted where its line starts.
        after: behind the hole.
        snippets: short path and text of each, the most relevant last.
        path: of the document, short.
        tokens: about how many all of it has.
        most_tokens: that may be written.
    """

    before: str
    begun: str
    after: str
    snippets: tuple[tuple[str, str], ...]
    path: str
    language: str
    tokens: int
    most_tokens: int
    decoding: DecodingConfig


def around(request: InfillRequest) -> Around:
    """For an infill that names its language as `language_of` does."""
    request = replace(request, document=with_line_feeds(request.document))
    pieces = Pieces()
    kept = kept_between(request, pieces, _AROUND)
    window = windows(replace(request, context_tokens=request.context_tokens - kept), pieces)
    left = request.context_tokens - window.used
    snippets = [(p, pieces.text(t)) for p, t in fitting(request.snippets, pieces, left, _AROUND)]
    sent = sum(map(len, (window.before, window.begun, window.after)))
    return Around(
        before=pieces.text(window.before),
        begun=pieces.text(window.begun),
        after=pieces.text(window.after),
        snippets=tuple(reversed(snippets)),
        path=short_path(request.path),
        language=request.language,
        tokens=sent + sum(len(pieces.encode(text)) for _, text in snippets),
        most_tokens=request.decoding.max_tokens or _MOST_TOKENS,
        decoding=request.decoding,
    )


@dataclass(frozen=True, slots=True)
class Instructed:
    """A request to rewrite the text in a hole.

    Attributes:
        said: the request in words, for a model that can chat.
        around: what stands around the text, for one that takes it apart.
        text: what is to be rewritten, LF.
        instruction: what to change; empty: whatever the model would.
    """

    said: Wording
    around: Around
    text: str
    instruction: str


def instructed(request: InfillRequest, instruction: str) -> Instructed:
    """For a rewrite of the text in the hole, else the same."""
    request = replace(request, document=with_line_feeds(request.document))
    pieces = Pieces()
    text = to_lf(request.document[request.hole.start : request.hole.end])
    size = len(pieces.encode(text))
    most = request.decoding.max_tokens or 2 * size + 128
    made = around(request)
    return Instructed(
        worded(request, pieces, instruction),
        replace(made, most_tokens=most, tokens=made.tokens + size),
        text,
        instruction,
    )
