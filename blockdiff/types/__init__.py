"""The nouns that cross a boundary: requests go down, events come back up.

All are immutable values. Nothing here imports torch.
"""

from blockdiff.types.events import (
    Drafted,
    Event,
    Filled,
    Finished,
    FinishReason,
    OnProgress,
    Progress,
    Refinement,
    Span,
    StreamEvent,
    SyntaxState,
    Unread,
    Warmed,
    no_op,
)
from blockdiff.types.requests import (
    MOST_CONTEXT,
    MOST_HOLES,
    Extent,
    Hole,
    InfillRequest,
    Priority,
    Request,
    RewriteRequest,
    Snippet,
    check_apart,
)

__all__ = [
    "Drafted", "Event", "Extent", "Filled", "FinishReason", "Finished", "Hole", "InfillRequest",
    "MOST_CONTEXT", "MOST_HOLES", "OnProgress", "Priority", "Progress", "Refinement", "Request",
    "RewriteRequest", "Snippet", "Span", "StreamEvent", "SyntaxState", "Unread", "Warmed",
    "check_apart", "no_op",
]  # fmt: skip
