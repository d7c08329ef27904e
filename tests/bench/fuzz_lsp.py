"""Mutated messages to the real language server: each request is answered once, and how fast.

    python -m tests.bench.fuzz_lsp --messages 10000 --seed 1

A message is one that an editor sends, with a part of it replaced, removed, doubled or made huge.
The engine is a scripted one. A server that was told to shut down, or that got a broken `initialize`
first, is followed by a new one.
"""

from __future__ import annotations

import argparse
import copy
import queue
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blockdiff.client.endpoint import Runtime
from blockdiff.types import Event, Request
from tests.lsp.editor import hole
from tests.lsp.raw import URI, Raw
from tests.unit.scripted_service import ScriptedEngine, served

_SPAN = hole((0, 4), (1, 2))
_DOCUMENT = {"uri": URI, "version": 1}
_ITEM = {**_DOCUMENT, "languageId": "python", "text": "def f(x):\n    return x\n"}
_ACTION = {"action": "fill", "textDocument": _DOCUMENT, "range": _SPAN}
_CAPABILITIES = {
    "general": {"positionEncodings": ["utf-8", "utf-16"]},
    "window": {"workDoneProgress": True},
    "workspace": {"configuration": True, "workspaceEdit": {"documentChanges": True}},
    "textDocument": {"codeAction": {"dataSupport": True, "resolveSupport": {"properties": ["edit"]},
        "codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["refactor"]}}}},
}  # fmt: skip
_DIAGNOSTIC = {"range": _SPAN, "message": "m", "severity": 1, "tags": [1]}

REQUESTS: dict[str, Any] = {
    "blockdiff/infill": {"textDocument": _DOCUMENT, "holes": [_SPAN], "maxTokens": 2, "seed": 0,
                         "mode": "ar", "requestId": "r", "workDoneToken": "t"},
    "blockdiff/rewrite": {"textDocument": _DOCUMENT, "range": _SPAN, "instruction": "x",
                          "strength": 0.5, "maxTokens": 2, "seed": 0},
    "textDocument/inlineCompletion": {"textDocument": _DOCUMENT, "context": {"triggerKind": 1},
                                      "position": {"line": 1, "character": 4}},
    "textDocument/codeAction": {"textDocument": _DOCUMENT, "range": _SPAN, "context": {
        "diagnostics": [_DIAGNOSTIC], "only": ["refactor"], "triggerKind": 1}},
    "codeAction/resolve": {"title": "x", "kind": "refactor", "data": _ACTION},
    "workspace/executeCommand": {"command": "blockdiff.run", "arguments": [_ACTION]},
    "initialize": {"processId": None, "capabilities": _CAPABILITIES, "trace": "off"},
    "textDocument/hover": {"textDocument": _DOCUMENT, "position": {"line": 0, "character": 0}},
    "blockdiff/nothing": {"x": 1},
}  # fmt: skip
NOTIFICATIONS: dict[str, Any] = {
    "textDocument/didOpen": {"textDocument": _ITEM},
    "textDocument/didChange": {"textDocument": _DOCUMENT, "contentChanges": [
        {"range": _SPAN, "text": "y"}, {"text": "a = 1\n"}]},
    "textDocument/didClose": {"textDocument": _DOCUMENT},
    "workspace/didChangeConfiguration": {"settings": {"blockdiff": {"inline": {"maxTokens": 3}}}},
    "$/cancelRequest": {"id": 1},
    "$/setTrace": {"value": "off"},
    "window/workDoneProgress/cancel": {"token": "t"},
    "workspace/didChangeWorkspaceFolders": {"event": {"added": [], "removed": []}},
    "initialized": {},
    "$/unknown": {},
}  # fmt: skip
_ODD: list[Any] = [
    None, True, 0, -1, 1.5, 2**31, 2**63, 10**30, 1e308, "", "x", "\ud800", "\0", [], {}, [[]],
    {"jsonrpc": "2.0", "id": 7, "method": "shutdown"}, {"id": 3}, "file:///%zz", "git:/a?{",
    "untitled:1", 9, "later", {"line": 0, "character": 0},
]  # fmt: skip


@dataclass
class Report:
    """What came of it.

    Attributes:
        slowest: in seconds, and by which `method`.
        slow: server, method and parameters of what took more than a second.
    """

    messages: int = 0
    requests: int = 0
    servers: int = 0
    slowest: float = 0.0
    method: str = ""
    slow: list[tuple[int, str, str]] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


class _Prompt(ScriptedEngine):
    """Two steps without a pause, whatever the request says."""

    def infill(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Event]:
        decoding = replace(request.decoding, max_tokens=2, seed=0)
        yield from super().infill(replace(request, decoding=decoding), cancelled)

    rewrite = infill


def mutated(value: Any, random: random.Random) -> Any:
    """A copy with one to three places changed."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        value = _changed(value, random)
    return value


def _changed(value: Any, random: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and random.random() < 0.85:
        key = random.choice(list(value) if isinstance(value, dict) else list(range(len(value))))
        kind = random.random()
        if kind < 0.15:
            del value[key]
        elif kind < 0.25 and isinstance(value, list):
            value += [value[key]] * random.choice((1, 20))
        elif kind < 0.3 and isinstance(value, dict):
            value[f"{key}Later"] = copy.deepcopy(value[key])
        else:
            value[key] = _changed(value[key], random)
        return value
    return _huge(random) if random.random() < 0.05 else copy.deepcopy(random.choice(_ODD))


def _huge(random: random.Random) -> Any:
    size = random.choice((1_000, 50_000))
    deep: Any = 1
    for _ in range(150):
        deep = [deep] if random.random() < 0.5 else {"x": deep}
    wide = {f"k{n}": n for n in range(size)}
    objects = [{"a": [1]}] * size
    return random.choice(("x" * size * 10, "a/" * size, [0] * size, objects, wide, deep))


def fuzz(messages: int, seed: int, patience: float = 60.0) -> Report:
    """Send them; `patience` is how long an answer is waited for, in seconds."""
    chance, report = random.Random(seed), Report()
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(Path(folder) / "run")
        with served(runtime, lambda _: _Prompt()):
            while report.messages < messages and not report.unanswered:
                _one_server(runtime, chance, min(messages - report.messages, 500), report, patience)
    return report


def _one_server(
    runtime: Runtime, chance: random.Random, messages: int, report: Report, patience: float
) -> None:
    """Half of the servers begin as they should, the others with a mutated `initialize`."""
    raw = Raw(runtime)
    report.servers += 1
    try:
        first = REQUESTS["initialize"]
        first = mutated(first, chance) if chance.random() < 0.5 else first
        _ask(raw, "initialize", first, report, 2 * patience, timed=False)  # it starts meanwhile
        raw.send({"method": "initialized", "params": {}})
        _ask(raw, "blockdiff/nothing", {}, report, patience, timed=False)
        for _ in range(messages):
            report.messages += 1
            if report.messages % 50 == 0:  # otherwise most of them meet no document
                raw.send({"method": "textDocument/didOpen", "params": {"textDocument": _ITEM}})
            table = NOTIFICATIONS if chance.random() < 0.4 else REQUESTS
            method = chance.choice(list(table))
            params = mutated(table[method], chance)
            if table is NOTIFICATIONS:
                raw.send({"method": method, "params": params})
            else:
                _ask(raw, method, params, report, patience)
            if report.unanswered:
                return
        assert raw.process.poll() is None, "the server ended"
        raw.stop()
    finally:
        raw.process.kill()


def _ask(
    raw: Raw, method: str, params: Any, report: Report, patience: float, timed: bool = True
) -> None:
    report.requests += 1
    began = time.monotonic()
    try:
        number = raw.request(method, params)
        began = time.monotonic()  # its JSON is written and sent, which is our time
        raw.answers({number}, patience)
    except (queue.Empty, BrokenPipeError):
        report.unanswered.append(f"{method}: {str(params)[:2000]}")
    seconds = time.monotonic() - began
    if timed and seconds > 1.0:
        report.slow.append((report.servers, method, f"{seconds:.2f} s: {str(params)[:300]}"))
    if timed and seconds > report.slowest:
        report.slowest, report.method = seconds, method


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = fuzz(options.messages, options.seed)
    for slow in report.slow:
        print("slow:", *slow)
    for request in report.unanswered:
        print("not answered:", request)
    print(
        f"{report.messages} messages, {report.requests} requests to {report.servers} servers, "
        f"slowest answer {report.slowest:.3f} s ({report.method})"
    )
    return 1 if report.unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
