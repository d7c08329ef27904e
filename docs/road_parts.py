"""The files that one `blockdiff/infill` passes, written into docs/architecture.md by `make docs`.

They are counted by running it: an editor, the language server, the service and an engine with tiny
random weights, all in this process, and a profiler that notes every function that is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import socket
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
ROADS = ("lsp_server", "blockdiff")
TEXT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"


class Trace:
    """Files of the functions called while `on`; what waited since before then is not called."""

    def __init__(self) -> None:
        self.on = False
        self.files: set[str] = set()
        self._waiting: list[FrameType] = []  # kept, so that no other frame gets its identity

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        if not self.on and frame.f_code.co_flags & inspect.CO_COROUTINE:
            self._waiting.append(frame)
        elif self.on and not any(frame is one for one in self._waiting):
            self.files.add(frame.f_code.co_filename)


def road() -> list[str]:
    """Files from the first request of a language server to its answer, below `ROOT`, sorted."""
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        os.environ["BLOCKDIFF_RUNTIME"] = folder
        threading.setprofile(trace)
        sys.setprofile(trace)
        try:
            _ask(Path(folder), port, trace)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
    paths = {Path(file) for file in trace.files}
    inside = {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)}
    return sorted(path for path in inside if path.startswith(ROADS))


def _ask(folder: Path, port: int, trace: Trace) -> None:
    from lsprotocol import types
    from pygls.exceptions import JsonRpcException

    from blockdiff.client.endpoint import Runtime
    from blockdiff.engine.engine import Engine
    from lsp_server.__main__ import main
    from tests.lsp.editor import Editor, capabilities, hole, infill
    from tests.unit.scripted_service import served
    from tests.unit.tiny_checkpoint import checkpoint

    async def story() -> None:
        editor = Editor({"context": {"warmAhead": False}})
        for _ in range(200):
            try:
                await editor.start_tcp("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.1)
        await editor.initialize_session(types.InitializeParams(capabilities=capabilities()))
        editor.open(TEXT)
        # answered behind the document and the settings, so that these are not on the road
        elsewhere = types.InlineCompletionParams(
            types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
            types.TextDocumentIdentifier("untitled:none"),
            types.Position(0, 0),
        )
        with contextlib.suppress(JsonRpcException):
            await editor.ask("textDocument/inlineCompletion", elsewhere)
        trace.on = True
        await editor.ask("blockdiff/infill", infill(hole((1, 4)), maxTokens=8))
        trace.on = False
        await editor.shutdown_session()
        await editor.stop()

    with served(Runtime(folder), lambda report: Engine(checkpoint()), idle_seconds=0):
        arguments = ["--tcp", f"127.0.0.1:{port}"]
        threading.Thread(target=main, args=(arguments,), daemon=True).start()
        asyncio.run(story())


def updated(text: str) -> str:
    """The document with the road as it is now."""
    files = road()
    rooms = defaultdict(list)
    for file in files:
        room, _, name = file.rpartition("/")
        rooms[room].append(name.removesuffix(".py"))
    rows = [f"| `{room}/` | {', '.join(names)} |" for room, names in rooms.items()]
    table = "\n".join([f"| {len(files)} files | |", "|---|---|", *rows])
    pattern = r"(<!-- road -->\n).*?(<!-- end -->)"
    text, found = re.subn(pattern, lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.S)
    assert found == 1
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text("utf-8")), "utf-8")
