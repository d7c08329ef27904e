"""The server's process, spoken to message by message, without a client library in between."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from typing import Any

from blockdiff.client.endpoint import Runtime
from tests.lsp.editor import COMMAND, ROOT, hole

URI = "file:///sane.py"


class Raw:
    """Attributes:
    process: the server.
    number: of the last request.
    seen: requests and notifications that it sent.
    settings: what it is told when it asks for them.
    """

    def __init__(self, runtime: Runtime, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=ROOT, env={**os.environ, "BLOCKDIFF_RUNTIME": str(runtime.folder)},
        )  # fmt: skip
        self.number = 0
        self.seen: list[Any] = []
        self.settings: Any = None
        self._answered: set[int] = set()
        self._received: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        out = self.process.stdout
        assert out
        while header := out.readline():
            size = int(header.split(b":")[1])
            assert out.readline() == b"\r\n"
            self._received.put(json.loads(out.read(size)))

    def send(self, value: Any) -> None:
        assert self.process.stdin
        body = json.dumps({"jsonrpc": "2.0", **value}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def request(self, method: str, params: Any) -> int:
        self.number += 1
        self.send({"id": self.number, "method": method, "params": params})
        return self.number

    def answers(self, numbers: set[int], seconds: float = 60.0) -> dict[int, Any]:
        """Wait for the answers to these requests, one each."""
        found: dict[int, Any] = {}
        while set(found) < numbers:
            message = self._received.get(timeout=seconds)
            if "method" in message:
                self.seen.append(message)
                if "id" in message:  # it asks us: for settings, or to show progress
                    pulled = message["method"] == "workspace/configuration"
                    result = [self.settings] if pulled else None
                    self.send({"id": message["id"], "result": result})
                continue
            number = message["id"]
            assert number not in self._answered, "answered twice"
            self._answered.add(number)
            if number in numbers:
                found[number] = message
        return found

    def start(
        self, text: str | None = None, capabilities: dict[str, Any] | None = None, **params: Any
    ) -> None:
        """Initialize it, and open a document."""
        can = {"window": {"workDoneProgress": True}, **(capabilities or {})}
        first = self.request("initialize", {"capabilities": can, **params})
        assert "result" in self.answers({first})[first]
        self.send({"method": "initialized", "params": {}})
        if text is not None:
            self.open(text)

    def stop(self) -> int:
        """End it as the protocol has it; its exit status."""
        self.answers({self.request("shutdown", None)})
        self.send({"method": "exit"})
        return self.process.wait(20)

    def open(self, text: str) -> None:
        item = {"uri": URI, "languageId": "python", "version": 1, "text": text}
        self.send({"method": "textDocument/didOpen", "params": {"textDocument": item}})

    def infill(self, at: tuple[int, int], name: str = "", *, max_tokens: int, seed: int = 0) -> int:
        """Ask for a hole of that document; the number of the request."""
        params = {"textDocument": {"uri": URI}, "holes": [hole(at)], "maxTokens": max_tokens,
                  "requestId": name, "seed": seed}  # fmt: skip
        return self.request("blockdiff/infill", params)

    def fill(self, at: tuple[int, int], *, max_tokens: int, seed: int = 0) -> Any:
        """The same, and wait for the answer."""
        number = self.infill(at, max_tokens=max_tokens, seed=seed)
        return self.answers({number})[number]
