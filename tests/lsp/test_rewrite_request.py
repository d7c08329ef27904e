"""`blockdiff/rewrite` over stdio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from blockdiff.types import RewriteRequest
from tests.lsp.editor import editing, hole, rewrite, run, schema
from tests.unit.scripted_service import ScriptedEngine

TEXT = "def area(width, height):\n    return width + height\n\n\nprint(area(3, 4))\n"
Scripted = tuple[Runtime, ScriptedEngine]


def test_strength_zero_changes_nothing_and_one_rewrites_by_diffusion(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(TEXT)
            ask = rewrite(hole((1, 4), (1, 25)), strength=0.0)
            schema("rewrite-params").validate(ask)
            same = await editor.ask("blockdiff/rewrite", ask)
            assert same["edits"] == [] and same["tokens"] == 0
            ask = rewrite(hole((1, 4), (1, 25)), strength=0.6, requestId="w")
            changed = await editor.ask("blockdiff/rewrite", ask)
            drafts = [r for r in editor.refinements if r["requestId"] == "w"]
            assert drafts and all(r["range"] == hole((1, 4), (1, 25)) for r in drafts)
            assert changed["edits"] and len(changed["edits"]) == 1
            assert drafts[-1]["done"]

    run(story())


def test_the_edit_is_the_smallest_that_makes_the_new_text(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("x = old done\n")
            ask = rewrite(hole((0, 4), (0, 12)), instruction="rename", requestId="new")
            answer = await editor.ask("blockdiff/rewrite", ask)
            assert answer["edits"] == [{"range": hole((0, 4), (0, 7)), "newText": "new"}]

    run(story())


def test_instruction_and_strength_reach_the_engine(scripted: Scripted) -> None:
    runtime, engine = scripted
    seen: list[RewriteRequest] = []
    plain = engine.rewrite

    def look(request: RewriteRequest, cancelled: Any) -> Any:
        seen.append(request)
        return plain(request, cancelled)

    engine.rewrite = look  # type: ignore[method-assign]

    async def story() -> None:
        async with editing(runtime, settings={"rewrite": {"strength": 0.25}}) as editor:
            editor.open(TEXT)
            span = hole((1, 4), (1, 25))
            await editor.ask("blockdiff/rewrite", rewrite(span, maxTokens=2))
            await editor.ask("blockdiff/rewrite", rewrite(span, maxTokens=2, strength=0.75))
            ask = rewrite(span, maxTokens=2, instruction="multiply")
            await editor.ask("blockdiff/rewrite", ask)

    run(story())
    assert [r.strength for r in seen[:2]] == [0.25, 0.75]
    assert seen[2].instruction == "multiply"
    assert all(r.document[r.span.start : r.span.end] == "return width + height" for r in seen)


def test_an_edit_in_the_selection_ends_it(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open(TEXT)
            ask = rewrite(hole((1, 4), (1, 25)), instruction="x", maxTokens=1000, seed=20)
            answer = asyncio.create_task(editor.ask("blockdiff/rewrite", ask))
            while not editor.refinements:
                await asyncio.sleep(0.01)
            editor.change((1, 8), (1, 9), "", 2)
            with pytest.raises(JsonRpcException) as failure:
                await answer
            assert failure.value.code == -32801

    run(story())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (rewrite(hole((0, 4))), "no text to rewrite"),
        (rewrite(hole((0, 0), (0, 3)), strength=1.5), "strength must be 0 to 1"),
        (rewrite(hole((0, 0), (0, 3)), instruction=7), "instruction must be a string"),
        ({"textDocument": {"uri": "x"}}, "range is missing"),
    ],
)
def test_bad_requests(runtime: Runtime, params: Any, message: str) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open(TEXT)
            with pytest.raises(JsonRpcException, match=message) as failure:
                await editor.ask("blockdiff/rewrite", params)
            assert failure.value.code == -32602

    run(story())
