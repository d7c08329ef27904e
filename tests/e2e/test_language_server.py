"""The language server over stdio, the engine it starts, and the default model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client import endpoint
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from tests.lsp.editor import Editor, editing, hole, infill, rewrite, run

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.model, pytest.mark.slow]

TEXT = '''\
import math


def area_of_circle(radius):
    """The area of a circle."""
    return |


def circumference_of_circle(radius):
    """The length of a circle's edge."""
    return 2 * math.pi * radius


print(area_of_circle(3), circumference_of_circle(3))
'''.replace("|", "")
LINE = 5


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Where the server starts its engine; it is stopped at the end."""
    made = Runtime(tmp_path_factory.mktemp("engine") / "run")
    yield made
    asyncio.run(EngineClient(runtime=made).stop())


def metric(runtime: Runtime, name: str) -> float:
    announced = runtime.announced()
    assert announced is not None
    with endpoint.sync_client(announced.address, runtime.token(), 20.0) as http:
        found = re.search(rf"^{name} (.*)$", http.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def encoded(runtime: Runtime) -> float:
    """Context tokens that finished requests had to encode."""
    total = metric(runtime, "blockdiff_context_tokens_total")
    return total - metric(runtime, "blockdiff_cached_tokens_total")


async def complete(editor: Editor, line: int, character: int) -> list[types.InlineCompletionItem]:
    answer = await editor.text_document_inline_completion_async(
        types.InlineCompletionParams(
            types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
            types.TextDocumentIdentifier("file:///project/area.py"),
            types.Position(line, character),
        )
    )
    assert isinstance(answer, types.InlineCompletionList)
    return list(answer.items)


@pytest.mark.timeout(600)
def test_a_line_is_filled_and_typing_five_characters_encodes_next_to_nothing(
    runtime: Runtime,
) -> None:
    async def story() -> None:
        quiet = {"context": {"warmAhead": False}}
        async with editing(runtime, settings=quiet) as editor:
            editor.open(TEXT)
            ask = infill(hole((LINE, 11)), maxTokens=24, requestId="one")
            answer = await editor.ask("blockdiff/infill", ask)
            (edit,) = answer["edits"]
            assert "math.pi" in edit["newText"] and "radius" in edit["newText"]
            assert answer["syntax"] == "ok" and answer["finish"] == "eom"
            drafts = [r for r in editor.refinements if r["requestId"] == "one"]
            assert len(drafts) >= 3 and drafts[-1]["text"] == edit["newText"]
            states = [status["state"] for status in editor.statuses]
            assert states[0] == "starting" and states[-1] == "ready" and "busy" in states

            before = encoded(runtime)
            editor.change((LINE, 11), (LINE, 11), "math.", 2)
            (item,) = await complete(editor, LINE, 16)
            assert "pi" in item.insert_text
            assert 0 < encoded(runtime) - before < 16

    run(story(), seconds=550)


@pytest.mark.timeout(600)
def test_cancelled_mid_stream_and_the_next_request_is_answered(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(TEXT)
            ask = infill(hole((LINE, 11)), maxTokens=24, requestId="gone")
            task = asyncio.create_task(editor.ask("blockdiff/infill", ask, "1"))
            while not editor.refinements:
                await asyncio.sleep(0.01)
            editor.cancel("1")
            with pytest.raises(JsonRpcException) as failure:
                await task
            assert failure.value.code == -32800
            again = infill(hole((LINE, 11)), maxTokens=24)
            answer = await editor.ask("blockdiff/infill", again)
            assert "math.pi" in answer["edits"][0]["newText"]

    run(story(), seconds=550)


@pytest.mark.timeout(600)
def test_a_selection_is_rewritten_as_told(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(TEXT)
            span = hole((10, 0), (10, len("    return 2 * math.pi * radius")))
            ask = rewrite(span, instruction="use math.tau instead of 2 * math.pi")
            answer = await editor.ask("blockdiff/rewrite", ask)
            (edit,) = answer["edits"]
            assert "tau" in edit["newText"] and edit["range"]["start"]["line"] == 10

    run(story(), seconds=550)
