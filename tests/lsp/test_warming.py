"""While the cursor rests, its context is encoded ahead; a command then starts warm."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from blockdiff.client import endpoint
from blockdiff.client.endpoint import Runtime
from tests.lsp.editor import Editor, editing, hole, infill, run

# fits the tiny model's 512 positions, however fast the machine encodes
TEXT = "".join(f"value_{n} = {n}\n" for n in range(12))


def ahead(runtime: Runtime) -> float:
    """Context tokens encoded ahead so far."""
    announced = runtime.announced()
    assert announced is not None
    with endpoint.sync_client(announced.address, runtime.token(), 20.0) as http:
        found = re.search(r"^blockdiff_ahead_tokens_total (.*)$", http.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


async def ready(editor: Editor, uri: str) -> None:
    """Nothing is encoded ahead before a first request has shown that an engine runs."""
    await editor.ask("blockdiff/infill", infill(hole((0, 0)), uri=uri, maxTokens=1, version=0))
    while editor.statuses[-1]["state"] != "ready":
        await asyncio.sleep(0.01)


def test_a_command_after_a_rest_finds_its_context_encoded(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open("x = 1\n", "file:///other.txt", "plaintext")
            await ready(editor, "file:///other.txt")
            before = ahead(runtime)
            editor.open(TEXT)
            editor.change((6, 0), (6, 0), "y", 2)
            while ahead(runtime) == before:
                await asyncio.sleep(0.05)

    run(story())


def test_nothing_is_encoded_ahead_where_it_is_switched_off_or_not_allowed(
    runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / ".blockdiffignore").write_text("closed.py\n")
    closed = (tmp_path / "closed.py").as_uri()

    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open("x = 1\n", "file:///other.txt", "plaintext")
            await ready(editor, "file:///other.txt")
            before = ahead(runtime)
            editor.open(TEXT, closed)
            editor.change((6, 0), (6, 0), "y", 2, closed)
            await asyncio.sleep(1.5)
            assert ahead(runtime) == before
        async with editing(runtime, settings={"context": {"warmAhead": False}}) as editor:
            editor.open(TEXT)
            await ready(editor, "file:///project/area.py")
            before = ahead(runtime)
            editor.change((8, 0), (8, 0), "z", 2)
            await asyncio.sleep(1.5)
            assert ahead(runtime) == before

    run(story())
