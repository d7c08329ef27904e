"""A hub that serves one repository of small files over HTTP, and a catalogue that names it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO, NAME, DRAFTER = "someone/tiny-diffusion", "tiny-diffusion", "tiny-drafter"
COMMIT = "c" * 40


class Repository:
    """The files of one commit, large ones (.safetensors, .bin) with a SHA-256 as LFS has it.

    Attributes:
        announced: digests other than the true ones.
        break_at: bytes after which the next GETs break off, one each.
        requests: method, path and Range of every request so far.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.announced: dict[str, str] = {}
        self.break_at: list[int] = []
        self.requests: list[tuple[str, str, str | None]] = []
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                asked = self.headers.get("Range")
                world.requests.append((self.command, self.path, asked))
                path = self.path.split("?")[0]
                api = f"/api/models/{REPO}"
                if path in (api, f"{api}/revision/{COMMIT}"):
                    return self._send(200, json.dumps(world.listing()).encode(), body, {})
                prefix = f"/{REPO}/resolve/{COMMIT}/"
                data = world.files.get(path.removeprefix(prefix)) if prefix in path else None
                if data is None:
                    return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
                start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
                tag = world.digest(path.removeprefix(prefix))
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}
                if start:
                    total = len(data)
                    headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
                self._send(206 if start else 200, data[start:], body, headers)

            def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if not body:
                    return
                if world.break_at and "X-Repo-Commit" in headers:
                    data = data[: world.break_at.pop(0)]
                    self.close_connection = True
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def digest(self, name: str) -> str:
        data = self.files[name]
        if name in self.announced:
            return self.announced[name]
        if name.endswith((".safetensors", ".bin")):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()

    def listing(self) -> dict[str, object]:
        siblings: list[dict[str, object]] = []
        for name, data in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": "b" * 40}
            if name.endswith((".safetensors", ".bin")):
                entry["lfs"] = {"sha256": self.digest(name), "size": len(data), "pointerSize": 1}
            else:
                entry["blobId"] = self.digest(name)
            siblings.append(entry)
        return {"id": REPO, "sha": COMMIT, "siblings": siblings}

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()


def write_catalog(folder: Path, revision: str = COMMIT, terms: str = "") -> None:
    """One published checkpoint with a drafter, and no model of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catalog.toml").write_text(f"""
model = []
[[checkpoint]]
name = "{NAME}"
summary = "of the tests"
repo = "{REPO}"
revision = "{revision}"
licence = "MIT"
terms = "{terms}"
family = "dream"
can = ["infill"]
context_length = 64
config = {{ model_type = "Dream", vocab_size = 64, hidden_size = 16, num_hidden_layers = 2, \
num_attention_heads = 4, num_key_value_heads = 2, intermediate_size = 24 }}
[[drafter]]
name = "{DRAFTER}"
summary = "of the tests"
repo = "{REPO}"
revision = "{revision}"
licence = "MIT"
terms = "not for the tests of others"
family = "dflash"
target = "{NAME}"
context_length = 64
config = {{ vocab_size = 64, hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 4, \
intermediate_size = 24 }}
""")
