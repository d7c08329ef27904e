"""What passes between the extension and the language server.

As a program it stands where the extension expects a Python interpreter: `traffic.py LOG ARGUMENTS`
runs Python with ARGUMENTS, and where these start the language server it writes every message to
LOG, a line of JSON each. In a test, `Traffic` reads the log and holds it to `tests/contract`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKED = {"blockdiff/infill": "infill-params", "blockdiff/rewrite": "rewrite-params"}
TOLD = {"blockdiff/refinement": "refinement", "blockdiff/status": "status"}


class Traffic:
    """The messages of one log, from both sides."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def messages(self, method: str = "") -> list[dict[str, Any]]:
        """`{"from": "client" | "server", "pid": of the server, "message": ...}`, in order."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        return [one for one in found if not method or one["message"].get("method") == method]

    def params(self, method: str) -> list[dict[str, Any]]:
        return [one["message"]["params"] for one in self.messages(method)]

    def breaches(self, since: int = 0) -> list[str]:
        """What contradicts a contract, from message number `since` on."""
        from jsonschema import Draft202012Validator

        contracts = Path(__file__).resolve().parents[3] / "tests" / "contract"
        check = {
            path.stem: Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
            for path in contracts.glob("*.json")
        }
        asked: dict[Any, str] = {}
        found = []
        for entry in self.messages()[since:]:
            message, key = entry["message"], (entry["pid"], entry["message"].get("id"))
            held = []  # pairs of a contract and a value
            if entry["from"] == "client":
                if name := ASKED.get(message.get("method", "")):
                    asked[key] = "outcome"
                    held.append((name, message["params"]))
                elif asked.get(("pull", *key)) and "method" not in message:
                    held += [("settings", v) for v in message.get("result") or [] if v is not None]
            elif message.get("method") == "workspace/configuration":
                asked[("pull", *key)] = "settings"
            elif name := TOLD.get(message.get("method", "")):
                held.append((name, message["params"]))
            elif asked.get(key) and "result" in message:
                held.append((asked[key], message["result"]))
            for name, value in held:
                found += [f"{name}: {error.message}" for error in check[name].iter_errors(value)]
        return found


class Reader:
    """Takes messages out of a stream of bytes."""

    def __init__(self, take: Callable[[dict[str, Any]], None]) -> None:
        self._rest, self._take = b"", take

    def feed(self, data: bytes) -> None:
        self._rest += data
        while b"\r\n\r\n" in self._rest:
            head, _, body = self._rest.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n"))
            size = int(fields[b"content-length"])
            if len(body) < size:
                return
            self._rest = body[size:]
            self._take(json.loads(body[:size]))


def main(log: str, *arguments: str) -> int:
    if "lsp_server" not in arguments:
        os.execv(sys.executable, [sys.executable, *arguments])
    server = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin and server.stdout
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(side: str) -> Reader:
        def take(message: dict[str, Any]) -> None:
            entry = {"from": side, "pid": os.getpid(), "message": message}
            os.write(out, json.dumps(entry).encode() + b"\n")

        return Reader(take)

    def pump(source: int, target: int, reader: Reader) -> None:
        try:
            while data := os.read(source, 1 << 16):
                view = memoryview(data)
                while view:
                    view = view[os.write(target, view) :]
                reader.feed(data)
        except OSError:
            pass
        os.close(target)

    pumps = [
        (sys.stdin.fileno(), server.stdin.fileno(), note("client")),
        (server.stdout.fileno(), sys.stdout.fileno(), note("server")),
    ]
    for arguments_of_pump in pumps:
        threading.Thread(target=pump, args=arguments_of_pump, daemon=True).start()
    status = server.wait()
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
