"""Many editors, many requests, cancels and edits: nothing is lost, mixed up or stale.

Short here; `BLOCKDIFF_SOAK=50` sends fifty requests from each of the eight editors, and watches the
memory of the engine, which is then the real one on tiny weights in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from tests.lsp.editor import Editor, editing, hole, infill, run
from tests.unit.scripted_service import ScriptedEngine

EDITORS = 8
REQUESTS = int(os.environ.get("BLOCKDIFF_SOAK", "6"))

Scripted = tuple[Runtime, ScriptedEngine]


async def work(editor: Editor, name: str, rng: random.Random) -> int:
    """Requests of one editor; how many of them were answered."""
    uri, version, answered = f"file:///{name}.py", 1, 0
    editor.open("a = 1\nb = \nc = 3\n", uri)
    above = 0
    for number in range(REQUESTS):
        asked = f"{name}-{number}"
        line = 1 + above
        fate = rng.choice(["cancelled", "edited inside", "edited elsewhere", "left alone"])
        steps = 2 if fate == "left alone" else 12
        ask = infill(
            hole((line, 4)), uri=uri, version=version, requestId=asked, maxTokens=steps, seed=5
        )
        task = asyncio.create_task(editor.ask("blockdiff/infill", ask, asked))
        await asyncio.sleep(rng.random() * 0.05)
        if fate == "cancelled":
            editor.cancel(asked)
        elif fate == "edited inside":
            version += 1
            editor.change((line, 4), (line, 4), "x", version, uri)
        elif fate == "edited elsewhere":
            version, above = version + 1, above + 1
            editor.change((0, 0), (0, 0), "# more\n", version, uri)
        try:
            answer = await task
        except JsonRpcException as error:
            assert error.code in (-32800, -32801)
            assert fate in ("cancelled", "edited inside")
        else:
            answered += 1
            assert answer["requestId"] == asked and answer["version"] == version
            # written in the line it was asked for, wherever that is by now
            assert fate in ("edited inside", "cancelled") or answer["edits"] == [
                {"range": hole((1 + above, 4)), "newText": f"{asked} done"}
            ]
        if fate == "edited inside":
            version += 1
            editor.change((1 + above, 4), (1 + above, 5), "", version, uri)
        assert all(
            str(r["text"]).startswith(r["requestId"]) for r in editor.refinements if r["text"]
        )
        editor.refinements.clear()
    return answered


@pytest.mark.timeout(60 + 12 * REQUESTS)
def test_eight_editors_at_once(scripted: Scripted) -> None:
    runtime, engine = scripted

    async def one(index: int) -> int:
        async with editing(runtime) as editor:
            return await work(editor, f"e{index}", random.Random(index))

    async def story() -> None:
        answered = await asyncio.gather(*(one(index) for index in range(EDITORS)))
        assert sum(answered) > EDITORS * REQUESTS // 4

    run(story(), seconds=50 + 12 * REQUESTS)
    assert len(engine.order) <= EDITORS * REQUESTS


@pytest.mark.skipif(
    "BLOCKDIFF_SOAK" not in os.environ or not Path("/proc/self/statm").exists(),
    reason="takes minutes: set BLOCKDIFF_SOAK=50",
)
@pytest.mark.timeout(3600)
def test_memory_stays_flat(runtime: Runtime) -> None:
    """The engine runs in this process: its memory is ours."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    async def story() -> None:
        sizes = []
        async with editing(runtime, settings={"decoding": {"temperature": 1.0}}) as editor:
            editor.open("def area(width, height):\n    \n\nprint(area(3, 4))\n")
            for number in range(REQUESTS * EDITORS):
                ask = infill(hole((1, 4)), maxTokens=24, seed=number)
                await editor.ask("blockdiff/infill", ask)
                sizes.append(resident())
        tenth = len(sizes) // 10
        assert sizes[-1] <= sizes[tenth] + 20, sizes[:: max(1, tenth)]

    run(story(), seconds=3500)
