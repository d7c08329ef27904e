"""A small HTTP server that answers like a backend: what a test says, request by request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """Attributes:
    parts: of the body, each sent at once.
    cut: the connection ends before the last chunk does.
    pause: seconds before each part.
    """

    parts: tuple[str, ...] = ()
    kind: str = SSE
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    pause: float = 0.0


def sse(*values: Any, done: bool = True) -> Reply:
    """Each value as an event, a `[DONE]` behind them."""
    lines = [f"data: {json.dumps(value, ensure_ascii=False)}\n\n" for value in values]
    return Reply((*lines, "data: [DONE]\n\n") if done else tuple(lines))


def lines(*values: Any) -> Reply:
    """Each value as a line."""
    return Reply(tuple(json.dumps(value) + "\n" for value in values), NDJSON)


def plain(value: Any, status: int = 200, **headers: str) -> Reply:
    """One JSON value."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply((json.dumps(value),), JSON, status, named)


@dataclass(slots=True)
class Backend:
    """Attributes:
    replies: the last of them answers all further requests.
    asked: method, path, headers and body of each request.
    closed: streams that their reader left.
    """

    url: str
    replies: list[Reply]
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    closed: int = 0


@contextmanager
def answering(*replies: Reply) -> Iterator[Backend]:
    backend = Backend("", list(replies))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            sent = {name.lower(): value for name, value in self.headers.items()}
            backend.asked.append((self.command, self.path, sent, body))
            known = backend.replies
            reply = known.pop(0) if len(known) > 1 else known[0]
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Transfer-Encoding", "chunked")
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for part in reply.parts:
                    time.sleep(reply.pause)
                    data = part.encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                if not reply.cut:
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:
                backend.closed += 1
            self.close_connection = reply.cut

        do_GET = do_POST = answer

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A reader that leaves is none."""

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    backend.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield backend
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
