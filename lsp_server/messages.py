"""The messages of our own, `blockdiff/*`, and their JSON. The types are the schema.

`tests/contract/` holds the same shapes as JSON Schemas, which the plugins check too. Positions are
in the negotiated encoding.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from blockdiff.client import decode
from blockdiff.config import Mode
from blockdiff.errors import InvalidRequest
from blockdiff.types import MOST_HOLES
from lsp_server.document import Range, TextEdit

INFILL = "blockdiff/infill"
REWRITE = "blockdiff/rewrite"
REFINEMENT = "blockdiff/refinement"
STATUS = "blockdiff/status"

_MOST_VALUES = 10_000  # in the parameters of a request

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DocumentId:
    """Attributes: version: the one that positions refer to; 0 or less: whatever is open."""

    uri: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class InfillParams:
    """`blockdiff/infill`.

    Attributes:
        holes: up to eight, none touching another; an empty range inserts.
        max_tokens: of each hole; 0: as in the settings.
        mode, seed: empty and -1: as in the settings.
        request_id: comes back in every refinement; empty: the server makes one.
        work_done_token: where progress is reported.
    """

    text_document: DocumentId
    holes: tuple[Range, ...]
    max_tokens: int = 0
    mode: str = ""
    seed: int = -1
    request_id: str = ""
    work_done_token: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.holes) <= MOST_HOLES:
            raise InvalidRequest(f"holes must be 1 to {MOST_HOLES}, got {len(self.holes)}")
        ordered = sorted(self.holes, key=lambda hole: hole.start)
        for one, other in zip(ordered, ordered[1:], strict=False):
            if other.start < one.end or other.start == one.start:
                raise InvalidRequest("two holes overlap", "send holes that lie apart")
        if self.mode and self.mode not in [mode.value for mode in Mode]:
            raise InvalidRequest(f"mode must be one of {', '.join(m.value for m in Mode)}")


@dataclass(frozen=True, slots=True)
class RewriteParams:
    """`blockdiff/rewrite`.

    Attributes:
        instruction: what to do; empty: what is much less likely than something else is mended.
        strength: 0 to 1; only without an instruction. Negative: as in the settings.
        max_tokens: 0: enough for the text.
    """

    text_document: DocumentId
    range: Range
    instruction: str = ""
    strength: float = -1.0
    max_tokens: int = 0
    seed: int = -1
    request_id: str = ""
    work_done_token: str = ""

    def __post_init__(self) -> None:
        if self.strength > 1.0:
            raise InvalidRequest(f"strength must be 0 to 1, got {self.strength}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What both requests answer.

    Attributes:
        version: the document's, to which `edits` apply; at most one edit a hole.
        finish: how the last of the holes ended: `eom` or `length`.
        syntax: whether the document with the edits parses: `ok`, `broken`, `skipped` where that
            was not or cannot be judged.
    """

    request_id: str
    version: int | None
    edits: tuple[TextEdit, ...]
    finish: str
    syntax: str
    tokens: int
    forwards: int
    elapsed_ms: float
    model: str


@dataclass(frozen=True, slots=True)
class RefinementParams:
    """`blockdiff/refinement`: the draft of one hole, always the whole of it.

    Attributes:
        seq: counts up within a request, over all its holes.
        hole: index into the holes as they were sent.
        range: what the draft would replace, in the document of `version`.
        settled: half-open ranges of `text`, counted in the negotiated encoding from its start.
        uncertain: the same, of the tokens that are least certain.
        step: denoising steps taken in this hole.
        done: this is the final text of the hole.
    """

    request_id: str
    seq: int
    version: int | None
    hole: int
    range: Range
    text: str
    settled: tuple[tuple[int, int], ...]
    uncertain: tuple[tuple[int, int], ...]
    step: int
    done: bool


class State(str, Enum):
    """Of the engine, as an editor shows it."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StatusParams:
    """`blockdiff/status`.

    Attributes:
        message: what it is doing, or what went wrong and how to mend it.
        progress: of starting, 0 to 1.
        tokens_per_second: of the last request.
    """

    state: State
    model: str = ""
    device: str = ""
    message: str = ""
    progress: float | None = None
    tokens_per_second: float | None = field(default=None)


def read(kind: type[_T], params: Any) -> _T:
    """Parameters of a request as a dataclass. Raises InvalidRequest that names the place."""
    try:
        return decode.decode(kind, _plain(params, itertools.count(1)))
    except RecursionError as error:
        raise InvalidRequest("the parameters are nested absurdly deep") from error


def write(value: Any) -> Any:
    """A message as JSON: camelCase keys; what has no value is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {camel(name): write(item) for name, item in pairs if item is not None}
    if isinstance(value, (list, tuple)):
        return [write(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _plain(value: Any, seen: Iterator[int]) -> Any:
    """Keys as ours are, without the nulls that editors send for what they leave out.

    Raises InvalidRequest for more values than any message of ours has.
    """
    if next(seen) > _MOST_VALUES:
        raise InvalidRequest("the parameters hold too many values")
    if isinstance(value, dict):
        return {snake(k): _plain(item, seen) for k, item in value.items() if item is not None}
    return [_plain(item, seen) for item in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=1024)
def snake(name: str) -> str:
    """`maxTokens` is `max_tokens`."""
    return re.sub("[A-Z]", lambda m: "_" + m[0].lower(), name)


def camel(name: str) -> str:
    """The inverse of `snake`."""
    return re.sub("_([a-z])", lambda m: m[1].upper(), name)
