"""The messages of our own, `blockdiff/*`, and their JSON. The types are the schema.

`tests/contract/` holds what `contract` writes of them, which the plugins check too. Positions are
in the negotiated encoding.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, TypeVar

from msgspec import Meta, to_builtins
from msgspec.json import schema_components

from blockdiff.client import strict
from blockdiff.client.missed import Missed
from blockdiff.config import SEEDS, MaxTokens, Mode, about, check_limits
from blockdiff.errors import InvalidRequest
from blockdiff.types import MOST_HOLES, FinishReason, SyntaxState
from lsp_server.document import Range, TextEdit

INFILL = "blockdiff/infill"
REWRITE = "blockdiff/rewrite"
REFINEMENT = "blockdiff/refinement"
STATUS = "blockdiff/status"

_MOST_VALUES = 10_000  # in the parameters of a request

_T = TypeVar("_T")


_MaxTokens = Annotated[
    MaxTokens, about("Most to write; 0: as in the settings, for a rewrite enough for the text.")
]
_Mode = Annotated[str, Meta(extra_json_schema={"enum": ["", *[mode.value for mode in Mode]]})]
_Seed = Annotated[
    int, about("Negative: as in the settings.", extra_json_schema={"maximum": SEEDS[1]})
]
_RequestId = Annotated[
    str, about("Comes back in every refinement; the server makes one if it is missing.")
]
_Token = Annotated[str, about("Where work-done progress is reported.")]
_Version = Annotated[int, about("Of the document that it is about.")]
_Count = Annotated[int, Meta(ge=0)]
_Spans = tuple[tuple[_Count, _Count], ...]


@dataclass(frozen=True, slots=True)
class DocumentId:
    """An open document."""

    uri: str
    version: Annotated[
        int | None, about("The version that positions refer to; 0 or null: whatever is open.")
    ] = 0


@dataclass(frozen=True, slots=True)
class InfillParams:
    """Client to server: fill holes of an open document."""

    text_document: DocumentId
    holes: Annotated[
        tuple[Range, ...],
        about("None touches another; an empty range inserts.", min_length=1, max_length=MOST_HOLES),
    ]
    max_tokens: _MaxTokens = 0
    mode: _Mode = ""
    seed: _Seed = -1
    request_id: _RequestId = ""
    work_done_token: _Token = ""

    def __post_init__(self) -> None:
        check_limits(self)
        ordered = sorted(self.holes, key=lambda hole: hole.start)
        for one, other in zip(ordered, ordered[1:], strict=False):
            if other.start < one.end or other.start == one.start:
                raise InvalidRequest("two holes overlap", "send holes that lie apart")
        if self.mode and self.mode not in [mode.value for mode in Mode]:
            raise InvalidRequest(f"mode must be one of {', '.join(m.value for m in Mode)}")


@dataclass(frozen=True, slots=True)
class RewriteParams:
    """Client to server: write a range of an open document anew."""

    text_document: DocumentId
    range: Range
    instruction: Annotated[
        str, about("Empty: what is much less likely than something else is mended.")
    ] = ""
    strength: Annotated[
        float,
        about(
            "Share of the text that may change, 0 to 1, without an instruction. "
            "Negative: as in the settings.",
            extra_json_schema={"maximum": 1},
        ),
    ] = -1.0
    max_tokens: _MaxTokens = 0
    seed: _Seed = -1
    request_id: _RequestId = ""
    work_done_token: _Token = ""

    def __post_init__(self) -> None:
        if self.strength > 1.0:
            raise InvalidRequest(f"strength must be 0 to 1, got {self.strength}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Server to client: edits that have not been applied, and how they were made."""

    request_id: str
    version: _Version | None
    edits: Annotated[
        tuple[TextEdit, ...],
        about(
            "In the order of the holes; a hole that is right as it is has none.",
            max_length=MOST_HOLES,
        ),
    ]
    finish: Annotated[FinishReason, about("How the last of the holes ended.")]
    syntax: Annotated[
        SyntaxState,
        about("Whether the document with the edits parses; skipped: it cannot be judged."),
    ]
    tokens: _Count
    forwards: _Count
    elapsed_ms: Annotated[float, Meta(ge=0)]
    model: str


@dataclass(frozen=True, slots=True)
class RefinementParams:
    """Server to client: the draft of one hole, always the whole of it."""

    request_id: str
    seq: Annotated[int, about("Counts up within a request, over all its holes.", ge=0)]
    version: _Version | None
    hole: Annotated[int, about("Index into the holes as sent.", ge=0, le=MOST_HOLES - 1)]
    range: Annotated[Range, about("What the draft would replace, in the document of `version`.")]
    text: str
    settled: Annotated[
        _Spans, about("Half-open ranges of `text`, in units of the negotiated encoding.")
    ]
    uncertain: Annotated[_Spans, about("The same, of the tokens that are least certain.")]
    step: Annotated[int, about("Denoising steps taken in this hole.", ge=0)]
    done: Annotated[bool, about("This is the final text of the hole.")]


class State(str, Enum):
    """Of the engine, as an editor shows it."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StatusParams:
    """Server to client: how the engine is."""

    state: State
    model: str = ""
    device: str = ""
    backend: Annotated[
        str, about("The server of others that code is sent to; empty: our own engine writes.")
    ] = ""
    message: Annotated[str, about("What it does, or what went wrong and how to mend it.")] = ""
    progress: Annotated[float, about("Of starting.", ge=0, le=1)] | None = None
    tokens_per_second: Annotated[float, about("Of the last request.", ge=0)] | None = None
    missed: (
        Annotated[Missed, about("The last automatic completion that did not come, or was dropped.")]
        | None
    ) = None


def contract() -> dict[str, dict[str, Any]]:
    """JSON Schemas of the messages, by the names of their files."""
    return {
        "infill-params": schema_of(InfillParams, INFILL),
        "rewrite-params": schema_of(RewriteParams, REWRITE),
        "outcome": schema_of(Outcome, f"result of {INFILL} and {REWRITE}", sent=True),
        "refinement": schema_of(RefinementParams, REFINEMENT, sent=True),
        "status": schema_of(StatusParams, STATUS, sent=True),
    }


def schema_of(kind: type, title: str, sent: bool = False) -> dict[str, Any]:
    """JSON Schema of a dataclass with camelCase keys and no others.

    Of what is `sent` all is there but what would be null; of what is read, what has no default.
    """
    (top,), parts = schema_components([kind])

    def whole(part: Any) -> Any:
        """A part with what it refers to in its place."""
        if not isinstance(part, dict):
            return [whole(item) for item in part] if isinstance(part, list) else part
        part = parts.get(part.get("$ref", "").rpartition("/")[2], {}) | part
        if either := part.pop("anyOf", None):  # something or null
            if "$ref" in either[0]:
                return whole(either[0]) | part
            part |= either[0] if sent else {"type": [one["type"] for one in either]}
        made = {key: whole(part[key]) for key in part if key not in ("$ref", "title", "properties")}
        if properties := part.get("properties"):
            made["description"] = made["description"].partition("\n\n")[0].replace("\n", " ")
            always = [name for name, rule in properties.items() if "anyOf" not in rule]
            made["required"] = [camel(name) for name in (always if sent else part["required"])]
            made["properties"] = {camel(name): whole(rule) for name, rule in properties.items()}
            made["additionalProperties"] = False
        return made

    made: dict[str, Any] = whole(top)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | made


def read(kind: type[_T], params: Any) -> _T:
    """Parameters of a request as a dataclass. Raises InvalidRequest that names the place."""
    try:
        return strict.read(kind, _plain(params, itertools.count(1)))
    except RecursionError as error:
        raise InvalidRequest("the parameters are nested absurdly deep") from error


def write(message: Any) -> Any:
    """A message as JSON: camelCase keys; what has no value is left out."""

    def written(value: Any) -> Any:
        if isinstance(value, dict):
            return {camel(key): written(item) for key, item in value.items() if item is not None}
        return [written(item) for item in value] if isinstance(value, (list, tuple)) else value

    return written(to_builtins(message))


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
