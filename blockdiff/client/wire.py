"""Requests, events and errors as JSON: one shape for `--json` and for every process boundary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from msgspec import to_builtins

from blockdiff.client.strict import read
from blockdiff.config import MAX_BYTES
from blockdiff.errors import BlockdiffError, EngineMismatch, InvalidRequest, RequestTooLarge
from blockdiff.types import (
    Filled,
    Finished,
    InfillRequest,
    Priority,
    Progress,
    Refinement,
    Request,
    Span,
    StreamEvent,
    Warmed,
)

API_VERSION = 7
"""Of the engine service; raised whenever a message changes."""

MOST_BYTES = 2 * MAX_BYTES + (1 << 20)
"""Of a request's body: its document is a source file, and JSON doubles that at most."""

TOO_LARGE_HINT = "send the part around the hole"


class EngineState(str, Enum):
    """What the engine service is doing."""

    STARTING = "starting"  # downloading or loading the model; requests wait
    READY = "ready"
    BUSY = "busy"
    ERROR = "error"  # the model did not load; a request tries again
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Health:
    """What `GET /health` answers.

    Attributes:
        api: `API_VERSION` of the engine.
        version: of its blockdiff.
        model: as it was asked for: a name of the catalogue or a path.
        drafter: what it was told to draft with, likewise; empty: nothing.
        device, dtype: empty until the model is loaded.
        message: why the model did not load; empty otherwise.
        doing: what is going on while it starts, `share` (0 to 1) of it is done.
        waiting: requests in the queue.
        context_speed: context tokens encoded per second: 95% of those of late were encoded so fast
            or faster; 0.0 while unknown.
    """

    api: int
    version: str
    pid: int
    state: EngineState
    model: str
    drafter: str = ""
    device: str = ""
    dtype: str = ""
    message: str = ""
    doing: str = ""
    share: float = 0.0
    waiting: int = 0
    context_speed: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return dict(to_builtins(self))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Health:
        """Raises EngineMismatch for an engine of another protocol, InvalidRequest for no engine."""
        api = value.get("api")
        if isinstance(api, int) and api != API_VERSION:
            version = value.get("version")
            raise EngineMismatch(
                f"the engine that runs is of blockdiff {version}, which speaks protocol {api}; "
                f"this one speaks {API_VERSION}",
                "stop it, so that the next request starts the right one: blockdiff stop",
            )
        return read(cls, value)


LATENCY_SECONDS, MOST_CONTEXT_TOKENS = 1.5, 4096
"""How long encoding the context of a completion may take if nobody says otherwise, and its most."""

_UNMEASURED_TOKENS, _LEAST_TOKENS = 512, 128
_SIZES = [int(_LEAST_TOKENS * 2 ** (step / 3) + 0.5) for step in range(36)]


def affordable_context(
    speed: float, seconds: float = LATENCY_SECONDS, most: int = MOST_CONTEXT_TOKENS
) -> int:
    """Context tokens that an engine of this `context_speed` encodes in so many seconds, 19 times in
    20.

    One of a few sizes, so that an engine that measures its speed a little otherwise than the one
    before it shows the same windows, and finds on disk what that one has encoded.
    """
    known = int(speed * seconds) if speed else _UNMEASURED_TOKENS
    if known >= most:
        return max(_LEAST_TOKENS, most)
    return max(size for size in _SIZES if size <= max(known, _LEAST_TOKENS))


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it is posted to the engine service.

    Attributes:
        source: names the document among those of all clients; an automatic completion replaces
            an older one with the same source. Empty: it replaces none.
    """

    request: Request
    priority: Priority = Priority.EXPLICIT
    source: str = ""


def call_to_json(call: Call) -> dict[str, Any]:
    """The body of `POST /v1/infill` and `/v1/rewrite`: what is asked for, `priority`, `source`."""
    return {
        **to_builtins(call.request), "priority": call.priority.value, "source": call.source
    }  # fmt: skip


def call_from_json(value: dict[str, Any], kind: type[Request] = InfillRequest) -> Call:
    """The inverse of `call_to_json`; what has a default may be left out. Raises InvalidRequest."""
    rest = dict(value)
    priority = read(Priority, rest.pop("priority", "explicit"), "priority")
    source = read(str, rest.pop("source", ""), "source")
    if isinstance(document := rest.get("document"), str):
        check_size(document)
    return Call(read(kind, rest), priority, source)


def check_size(document: str) -> None:
    """Raises RequestTooLarge for a document that the command line would not take either."""
    size = len(document)
    if size <= MAX_BYTES:
        size = len(document.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise RequestTooLarge(f"the document is larger than {MAX_BYTES >> 20} MiB", TOO_LARGE_HINT)


def body_of(value: dict[str, Any]) -> bytes:
    """A call as it is sent. Raises RequestTooLarge."""
    check_size(value["document"])
    try:
        body = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        body = json.dumps(value).encode()
    if len(body) > MOST_BYTES:
        raise RequestTooLarge(f"the request has more than {MOST_BYTES >> 20} MiB", TOO_LARGE_HINT)
    return body


def warm_call_to_json(call: Call) -> dict[str, Any]:
    """The body of `POST /v1/warm`: that of an infill, without a priority of its own."""
    body = call_to_json(call)
    del body["priority"]
    return body


def warm_call_from_json(value: dict[str, Any]) -> Call:
    """The inverse of `warm_call_to_json`; the priority is always `ahead`. Raises InvalidRequest."""
    if value.get("priority", Priority.AHEAD.value) != Priority.AHEAD.value:
        raise InvalidRequest("encoding ahead has no other priority", "leave it out")
    return call_from_json(value | {"priority": Priority.AHEAD.value})


_EVENTS: dict[str, type[Progress | Finished | Filled | Warmed]] = {
    "progress": Progress, "finished": Finished, "filled": Filled, "warmed": Warmed
}  # fmt: skip


def event_to_json(event: StreamEvent) -> dict[str, Any]:
    """Progress, a refinement or how a stream ended well; `event` names which.

    `settled` holds half-open ranges of `text` in code points, `spans` one
    `[start, end, settled, confidence]` for each token of the draft.
    """
    if isinstance(event, Refinement):
        return {
            "event": "refinement",
            "request_id": event.request_id,
            "seq": event.seq,
            "hole": event.hole,
            "text": event.text,
            "settled": [list(span) for span in event.settled],
            "confidence": round(event.confidence, 4),
            "spans": [[s.start, s.end, s.settled, round(s.confidence, 4)] for s in event.spans],
            "step": event.step,
            "forwards": event.forwards,
            "elapsed_ms": round(event.elapsed_ms, 1),
        }
    name = next(name for name, kind in _EVENTS.items() if isinstance(event, kind))
    return {"event": name, **_rounded(to_builtins(event))}


_DIGITS = {"share": 4, "elapsed_ms": 1, "first_ms": 1}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    made = values | {n: round(values[n], digits) for n, digits in _DIGITS.items() if n in values}
    if "holes" in made:
        made["holes"] = [_rounded(hole) for hole in made["holes"]]
    return made


def event_from_json(value: dict[str, Any]) -> StreamEvent:
    """The inverse of `event_to_json`. A `failed` is raised as the error it carries.

    Raises InvalidRequest on anything that is no event.
    """
    rest = dict(value)
    kind = rest.pop("event", None)
    if kind == "failed":
        raise error_from_json(rest)
    if isinstance(kind, str) and kind in _EVENTS:
        return read(_EVENTS[kind], rest)
    if kind != "refinement":
        raise InvalidRequest("not an event of a stream")
    rest.pop("settled", None)  # both follow from the spans
    rest.pop("confidence", None)
    try:
        spans = tuple(Span(*span) for span in rest.pop("spans"))
    except (KeyError, TypeError) as error:
        raise InvalidRequest("a refinement without spans") from error
    return Refinement(**{**rest, "spans": spans})


def error_to_json(error: BlockdiffError) -> dict[str, Any]:
    """How a stream ends that failed."""
    return {"event": "failed", **error.to_json()}


def error_from_json(value: dict[str, Any]) -> BlockdiffError:
    """The typed error with this `code`; a plain BlockdiffError for a code of a newer version."""
    kinds = {kind.code: kind for kind in _kinds(BlockdiffError)}
    kind = kinds.get(str(value.get("code")), BlockdiffError)
    return kind(str(value.get("message") or "no reason given"), str(value.get("hint") or ""))


def _kinds(base: type[BlockdiffError]) -> Iterator[type[BlockdiffError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)
