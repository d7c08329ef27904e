"""`blockdiff/infill` over stdio: the real server; the engine is real on tiny weights, or scripted
where a test has to know what is written and when."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from blockdiff.types import Hole, InfillRequest
from lsp_server.document import Document, Encoding, Position
from tests.lsp.editor import URI, Editor, capabilities, editing, hole, infill, run, schema
from tests.unit.scripted_service import ScriptedEngine

TEXT = "def area(width, height):\n    \n\n\nprint(area(3, 4))\n"
SAMPLED = {"decoding": {"temperature": 1.0, "seed": 5}}

Scripted = tuple[Runtime, ScriptedEngine]


async def until(editor: Editor, count: int) -> None:
    while len(editor.refinements) < count:
        await asyncio.sleep(0.005)


def test_a_hole_is_drafted_and_answered_with_one_edit(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime, settings=SAMPLED) as editor:
            editor.open(TEXT)
            for seed in range(20):  # random weights often have nothing to say
                ask = infill(hole((1, 4)), maxTokens=12, requestId=f"r{seed}", seed=seed)
                schema("infill-params").validate(ask)
                answer = await editor.ask("blockdiff/infill", ask)
                assert answer["requestId"] == f"r{seed}" and answer["version"] == 1
                if answer["edits"]:
                    break
            drafts = [r for r in editor.refinements if r["requestId"] == f"r{seed}"]
            assert len(drafts) > 1
            assert [d["seq"] for d in drafts] == list(range(len(drafts)))
            assert drafts[-1]["done"] and not any(d["done"] for d in drafts[:-1])
            assert drafts[-1]["range"] == hole((1, 4))
            assert answer["edits"] == [{"range": hole((1, 4)), "newText": drafts[-1]["text"]}]
            states = [s["state"] for s in editor.statuses]
            assert "busy" in states and states[-1] == "ready"  # more than once: its device follows

    run(story())


@pytest.mark.parametrize("mode", ["ar", "verify", "diffusion"])
def test_the_same_seed_writes_the_same_text(runtime: Runtime, mode: str) -> None:
    async def story() -> None:
        async with editing(runtime, settings=SAMPLED) as editor:
            editor.open(TEXT)
            ask = infill(hole((1, 4)), maxTokens=10, mode=mode, seed=11)
            answers = [await editor.ask("blockdiff/infill", ask) for _ in range(2)]
            assert answers[0]["edits"] == answers[1]["edits"]
            assert answers[0]["forwards"] > 0

    run(story())


def test_several_holes_are_one_request_and_drafted_side_by_side(scripted: Scripted) -> None:
    runtime, engine = scripted
    seen: list[InfillRequest] = []
    plain = engine.steps

    def look(request: Any, cancelled: Any, *, ahead: bool = False) -> Any:
        seen.append(request)
        return plain(request, cancelled, ahead=ahead)

    engine.steps = look  # type: ignore[method-assign]

    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open("a = 1\nb = 2\nc = 3\n")
            ask = infill(hole((2, 4), (2, 5)), hole((0, 4), (0, 5)), maxTokens=2, requestId="x")
            answer = await editor.ask("blockdiff/infill", ask)
            assert answer["edits"] == [
                {"range": hole((2, 4), (2, 5)), "newText": "x done"},
                {"range": hole((0, 4), (0, 5)), "newText": "x done"},
            ]
            assert (answer["tokens"], answer["forwards"]) == (8, 4)
            assert [r["hole"] for r in editor.refinements if r["done"]] == [0, 1]
            assert {r["hole"] for r in editor.refinements if not r["done"]} <= {0, 1}
            assert [r["seq"] for r in editor.refinements] == list(range(len(editor.refinements)))

    run(story())
    (request,) = seen
    assert request.document == "a = 1\nb = 2\nc = 3\n"
    assert request.holes == (Hole(16, 17), Hole(4, 5))


def test_several_holes_of_a_real_engine_end_as_they_were_last_drafted(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime, settings=SAMPLED) as editor:
            editor.open("a = 1\r\nb = 2\r\nc = 3\r\n")
            ask = infill(hole((2, 4), (2, 5)), hole((0, 4), (0, 5)), hole((1, 0)), maxTokens=12)
            answer = await editor.ask("blockdiff/infill", ask)
            drafts = editor.refinements
            last = {r["hole"]: r for r in drafts if r["done"]}
            assert sorted(last) == [0, 1, 2]
            edits = {str(edit["range"]): edit["newText"] for edit in answer["edits"]}
            for number, place in enumerate(ask["holes"]):
                assert last[number]["range"] == place
                assert edits.get(str(place), "") == last[number]["text"]

    run(story())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_and_settled_ranges_are_in_the_negotiated_encoding(
    runtime: Runtime, encoding: str
) -> None:
    line = 's = "𝕏é"; t = '

    async def story() -> None:
        async with editing(runtime, encoding=encoding, settings=SAMPLED) as editor:
            editor.open(f"\f\n# \u2028 one line\r\n{line}\r\n")
            document = Document(
                "", f"\f\n# \u2028 one line\r\n{line}\r\n", encoding=Encoding(encoding)
            )
            end = document.position(document.text.rindex("\r\n"))
            assert end.line == 2
            at = (end.line, end.character)
            answer = await editor.ask("blockdiff/infill", infill(hole(at), maxTokens=8))
            assert all(edit["range"] == hole(at) for edit in answer["edits"])
            for draft in editor.refinements:
                text = Document("", draft["text"], encoding=Encoding(encoding))
                width = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
                size = len(
                    draft["text"].encode(encoding.replace("16", "16-le").replace("32", "32-le"))
                )
                assert all(0 <= a < b <= size // width for a, b in draft["settled"]), text

    run(story())


def test_an_edit_elsewhere_moves_the_hole_and_the_answer_fits_the_new_version(
    scripted: Scripted,
) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("a = 1\nb = \nc = 3\n")
            ask = infill(hole((1, 4)), maxTokens=40, seed=20, requestId="x")
            answer = asyncio.create_task(editor.ask("blockdiff/infill", ask))
            await until(editor, 2)
            editor.change((0, 0), (0, 0), "# 𝕏\n# more\n", 2)
            editor.change((4, 0), (4, 1), "cc", 3)
            result = await answer
            assert result["version"] == 3
            assert result["edits"] == [{"range": hole((3, 4)), "newText": "x done"}]
            assert editor.refinements[-1]["range"] == hole((3, 4))
            assert editor.refinements[-1]["version"] == 3

    run(story())


@pytest.mark.parametrize("what", ["inside", "at the edge", "whole", "closed", "reopened"])
def test_an_edit_inside_the_hole_ends_the_request_and_nothing_is_applied(
    scripted: Scripted, what: str
) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("a = 1\nb = old\nc = 3\n")
            ask = infill(hole((1, 4), (1, 7)), maxTokens=1000, seed=20)
            answer = asyncio.create_task(editor.ask("blockdiff/infill", ask))
            await until(editor, 2)
            if what == "inside":
                editor.change((1, 5), (1, 6), "", 2)
            elif what == "at the edge":
                editor.change((1, 7), (1, 7), "x", 2)
            elif what == "whole":
                editor.change((0, 0), (9, 0), "", 2)
            else:
                editor.close(URI)
                if what == "reopened":
                    editor.open("another = text\n")
            with pytest.raises(JsonRpcException) as failure:
                await answer
            assert failure.value.code == -32801
            while scripted[1].cancelled == []:
                await asyncio.sleep(0.01)

    run(story())


def test_a_version_older_than_the_document_is_refused(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("a = \n")
            editor.change((0, 0), (0, 1), "b", 2)
            with pytest.raises(
                JsonRpcException, match="version 1, the document is at 2"
            ) as failure:
                await editor.ask("blockdiff/infill", infill(hole((0, 4))))
            assert failure.value.code == -32801
            whatever = infill(hole((0, 4)), version=0, maxTokens=1)
            assert await editor.ask("blockdiff/infill", whatever)

    run(story())


def test_cancelling_ends_the_request_and_the_engine_s_work(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("a = \n")
            ask = infill(hole((0, 4)), maxTokens=1000, seed=20, requestId="gone")
            answer = asyncio.create_task(editor.ask("blockdiff/infill", ask, "7"))
            await until(editor, 2)
            editor.cancel("7")
            with pytest.raises(JsonRpcException) as failure:
                await answer
            assert failure.value.code == -32800
            while scripted[1].cancelled != ["gone"]:
                await asyncio.sleep(0.01)
            after = infill(hole((0, 4)), maxTokens=1)
            assert (await editor.ask("blockdiff/infill", after))["edits"]
            assert all(r["requestId"] != "gone" for r in editor.refinements[-2:])

    run(story())


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        (None, -32602, "the value must be an object"),
        ({}, -32602, "text_document is missing"),
        ({"textDocument": {"uri": URI}, "holes": []}, -32602, "holes must be 1 to 8, got 0"),
        (infill(*[hole((0, n)) for n in range(9)]), -32602, "got 9"),
        (infill(hole((0, 1), (0, 3)), hole((0, 2), (0, 4))), -32602, "overlap"),
        (infill(hole((0, 2)), hole((0, 2))), -32602, "overlap"),
        (infill(hole((0, 3), (0, 1))), -32602, "inverted"),
        (infill(hole((0, -1))), -32602, "negative"),
        (infill(hole((40, 0))), -32602, "line 40 is outside, the document has 2 lines"),
        (infill(hole((0, 0)), mode="fast"), -32602, "mode must be one of ar, verify, diffusion"),
        (infill(hole((0, 0)), maxTokens=9000), -32602, "max_tokens must be 0..8192, got 9000"),
        (infill(hole((0, 0)), maxTokens="8"), -32602, "max_tokens must be an integer"),
        (infill(hole((0, 0)), tokens=8), -32602, "unknown key 'tokens'"),
        (infill(hole((0, 0)), maxTokens=-1), -32602, "max_tokens must be 0..8192, got -1"),
        (infill(hole((0, 0)), version="1"), -32602, "version must be an integer, not a string"),  # type: ignore[arg-type]
        (infill(hole((0, 0)), uri="file:///nowhere.py"), -32602, "not open in this editor"),
        (infill({"start": 1, "end": 2}), -32602, "start must be an object"),
    ],
)
def test_bad_requests_are_typed_errors_that_say_what_is_wrong(
    runtime: Runtime, params: Any, code: int, message: str
) -> None:
    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open("a = 1\n")
            with pytest.raises(JsonRpcException, match=message) as failure:
                await editor.ask("blockdiff/infill", params)
            assert failure.value.code == code
            assert failure.value.data["code"] and failure.value.data["message"]
            assert await editor.ask("blockdiff/infill", infill(hole((0, 6)), maxTokens=1))

    run(story())


@pytest.mark.parametrize(
    "uri", ["untitled:Untitled-1", "vscode-notebook-cell:/a#b", "file:///x%20y.py"]
)
def test_unsaved_and_untitled_documents_are_documents(runtime: Runtime, uri: str) -> None:
    async def story() -> None:
        async with editing(runtime, settings=SAMPLED) as editor:
            editor.open(TEXT, uri=uri)
            answer = await editor.ask(
                "blockdiff/infill", infill(hole((1, 4)), uri=uri, maxTokens=6)
            )
            assert answer["version"] == 1

    run(story())


def test_half_a_surrogate_pair_in_any_document_does_no_harm(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime, settings=SAMPLED) as editor:
            editor.open("broken = '\ud800'\n" * 3, uri="file:///project/other.py")
            editor.open("s = '\udc00'\nt = \n")
            answer = await editor.ask("blockdiff/infill", infill(hole((1, 4)), maxTokens=4))
            assert all(edit["range"] == hole((1, 4)) for edit in answer["edits"])

    run(story())


def test_a_language_without_a_grammar_is_filled_and_said_to_be_unchecked(runtime: Runtime) -> None:
    async def story() -> None:
        async with editing(runtime, settings=SAMPLED) as editor:
            editor.open("BEGIN\n\nEND\n", language="cobol")
            answer = await editor.ask("blockdiff/infill", infill(hole((1, 0)), maxTokens=6))
            assert answer["syntax"] == "skipped"

    run(story())


def test_a_hundred_thousand_lines(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("".join(f"x{n} = {n}\n" for n in range(100_000)))
            for version in range(2, 12):
                editor.change((50_000, 0), (50_000, 0), "y", version)
            ask = infill(hole((99_999, 0)), version=11, maxTokens=2, requestId="x")
            answer = await editor.ask("blockdiff/infill", ask)
            assert answer["edits"] == [{"range": hole((99_999, 0)), "newText": "x done"}]

    run(story())


def test_what_blockdiffignore_lists_is_never_sent(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / ".blockdiffignore").write_text("*.secret\n")
    uri = (tmp_path / "keys.secret").as_uri()

    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("token = \n", uri=uri)
            with pytest.raises(JsonRpcException, match=r"\.blockdiffignore") as failure:
                await editor.ask("blockdiff/infill", infill(hole((0, 8)), uri=uri))
            assert failure.value.data["code"] == "ignored"

    run(story())
    assert scripted[1].order == []


def test_progress_is_reported_where_a_token_was_given_and_can_be_cancelled(
    scripted: Scripted,
) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("a = \n")
            ask = infill(hole((0, 4)), maxTokens=1000, seed=20, workDoneToken="t1")
            answer = asyncio.create_task(editor.ask("blockdiff/infill", ask))
            await until(editor, 3)
            editor.window_work_done_progress_cancel(types.WorkDoneProgressCancelParams("t1"))
            with pytest.raises(JsonRpcException) as failure:
                await answer
            assert failure.value.code == -32800
            kinds = [value["kind"] for value in editor.progress_reports["t1"]]
            assert kinds[0] == "begin" and kinds[-1] == "end" and "report" in kinds

    run(story())


def test_a_client_that_negotiates_nothing_gets_utf_16(runtime: Runtime) -> None:
    can = capabilities()
    can.general = None

    async def story() -> None:
        async with editing(runtime, can=can, settings=SAMPLED) as editor:
            editor.open("s = '𝕏' + \n")
            place = Document("", "s = '𝕏' + \n").position(10)
            assert place == Position(0, 11)
            answer = await editor.ask("blockdiff/infill", infill(hole((0, 11)), maxTokens=4))
            assert all(edit["range"]["start"]["character"] == 11 for edit in answer["edits"])

    run(story())
