"""Answers `initialize` before the server itself is loaded.

The types of the protocol take a quarter of a second to import, and an editor waits for this answer
before it does anything else. So the first message is read and answered here, with what the server
will be able to do (`capabilities.json`, written by `make docs` and held to the server by a test);
then the server is loaded and given the same message to learn from, its answer dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import blockdiff

NAME = "blockdiff-lsp"
CAPABILITIES = Path(__file__).with_name("capabilities.json")

_ENCODINGS = ("utf-8", "utf-16", "utf-32")
_MOST_HEADER_LINES = 16
_AT_ONCE = 16 << 20  # bytes: a header may promise more than there is memory, or ever comes


class Replay:
    """A stream whose beginning has been read already.

    Its lines are those of headers, and come as pygls knows them, however a client writes them.

    Attributes:
        answered: id of the `initialize` request that has its answer; None if there was none.
    """

    def __init__(self, stream: BinaryIO, read: bytes, answered: int | str | None) -> None:
        self._stream, self._read, self.answered = stream, read, answered

    def readline(self) -> bytes:
        line, self._read = self._split(self._read.find(b"\n") + 1 or len(self._read))
        line = line if line.endswith(b"\n") else line + self._stream.readline()
        size = _length(line)
        if size is None:
            return line if line.strip() or not line else b"\r\n"
        return b"Content-Length: %d\r\n" % size

    def read(self, size: int) -> bytes:
        part, self._read = self._split(size)
        return part + _read(self._stream, size - len(part))

    def _split(self, at: int) -> tuple[bytes, bytes]:
        return self._read[:at], self._read[at:]


def greet(stdin: BinaryIO, stdout: BinaryIO) -> Replay:
    """Read the first message; answer it if it is `initialize`. The stream to go on with."""
    head, size = b"", 0
    for _ in range(_MOST_HEADER_LINES):
        line = stdin.readline()
        head += line
        size = _length(line) or size
        if not line.strip():
            break
    body = _read(stdin, size)
    number, encodings = _initialize(body)
    if number is not None:
        answer = json.dumps(
            {"jsonrpc": "2.0", "id": number, "result": initialize_result(encodings)}
        ).encode()
        stdout.write(b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer))
        stdout.flush()
    return Replay(stdin, head + body, number)


def _length(header: bytes) -> int | None:
    """Of the body, if that is what a line of a header says."""
    name, _, value = header.partition(b":")
    value = value.strip()
    known = name.strip().lower() == b"content-length" and value.isdigit() and len(value) < 20
    return int(value) if known else None


def _read(stream: BinaryIO, size: int) -> bytes:
    """So many bytes, fewer only where the stream ends."""
    parts = []
    while size > 0 and (part := stream.read(min(size, _AT_ONCE))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def initialize_result(encodings: Any) -> dict[str, Any]:
    """What `initialize` is answered; `encodings` are those the client knows, in its order."""
    known = encodings if isinstance(encodings, list) else []
    chosen = next((encoding for encoding in known if encoding in _ENCODINGS), "utf-16")
    capabilities = json.loads(CAPABILITIES.read_text(encoding="utf-8"))
    return {
        "capabilities": {"positionEncoding": chosen, **capabilities},
        "serverInfo": {"name": NAME, "version": blockdiff.__version__},
    }


def _initialize(body: bytes) -> tuple[int | str | None, Any]:
    """Id and position encodings of an `initialize` that the server will be able to read."""
    try:
        message = json.loads(body)
        number, method = message["id"], message["method"]
        capabilities = message["params"]["capabilities"]
        general = capabilities.get("general") or {}
        encodings = general.get("positionEncodings")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, None
    if method != "initialize" or isinstance(number, bool) or not isinstance(number, (int, str)):
        return None, None
    return number, encodings
