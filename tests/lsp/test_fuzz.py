"""Messages no editor should send, in any order: the server answers each request and lives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockdiff.client.endpoint import Runtime
from tests.bench import fuzz_lsp
from tests.lsp.editor import hole
from tests.lsp.raw import Raw
from tests.unit.scripted_service import ScriptedEngine, served

URIS = ["file:///a.py", "file:///b.py", "untitled:1", "file:///%zz", ""]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raw]:
    runtime = Runtime(tmp_path_factory.mktemp("fuzz") / "run")
    with served(runtime, lambda report: ScriptedEngine()):
        made = Raw(runtime)
        made.start()
        yield made
        assert made.stop() == 0


NUMBERS = st.one_of(st.integers(-2, 9), st.sampled_from([2**31, 10**30, 1.5, True, "3", None]))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=6))
LESS_PLAIN = st.one_of(
    PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(st.text(max_size=6), PLAIN, max_size=3)
)
ANY = st.one_of(LESS_PLAIN, st.dictionaries(st.text(max_size=6), LESS_PLAIN, max_size=3))
SMALL = st.integers(0, 9).flatmap(lambda n: NUMBERS if n == 9 else st.integers(0, 3))
POSITIONS = st.fixed_dictionaries({"line": SMALL, "character": SMALL})
RANGES = st.fixed_dictionaries({"start": POSITIONS, "end": POSITIONS})
DOCUMENTS = st.fixed_dictionaries(
    {"uri": st.sampled_from([URIS[0], *URIS]), "version": st.sampled_from([None, 0, 1, 2])}
)
TEXTS = st.text(st.sampled_from("a(:\"'\n\r\t\f\u2028𝕏é\ud800"), max_size=12)


def sometimes(strategy: Any) -> Any:
    """Now and then something else altogether."""
    return st.integers(0, 9).flatmap(lambda n: ANY if n == 9 else strategy)


PARAMETERS = {
    "textDocument/didOpen": st.fixed_dictionaries({"textDocument": sometimes(st.fixed_dictionaries(
        {"uri": st.sampled_from(URIS), "languageId": st.sampled_from(["python", "x", ""]),
         "version": NUMBERS, "text": sometimes(TEXTS)}))}),
    "textDocument/didChange": st.fixed_dictionaries({
        "textDocument": sometimes(DOCUMENTS),
        "contentChanges": sometimes(st.lists(st.fixed_dictionaries(
            {"range": sometimes(RANGES), "text": sometimes(TEXTS)}), max_size=3))}),
    "textDocument/didClose": st.fixed_dictionaries({"textDocument": sometimes(DOCUMENTS)}),
    "blockdiff/infill": st.fixed_dictionaries({
        "textDocument": sometimes(DOCUMENTS),
        "holes": sometimes(st.lists(RANGES, min_size=1, max_size=2)), "maxTokens": SMALL}),
    "blockdiff/rewrite": st.fixed_dictionaries({
        "textDocument": sometimes(DOCUMENTS), "range": sometimes(RANGES), "maxTokens": SMALL,
        "strength": sometimes(st.floats(-1, 2))}),
    "textDocument/inlineCompletion": st.fixed_dictionaries({
        "textDocument": sometimes(DOCUMENTS), "position": sometimes(POSITIONS),
        "context": sometimes(st.fixed_dictionaries({"triggerKind": st.integers(0, 3)}))}),
    "textDocument/codeAction": st.fixed_dictionaries({
        "textDocument": sometimes(DOCUMENTS), "range": sometimes(RANGES),
        "context": sometimes(st.fixed_dictionaries({"diagnostics": st.just([])}))}),
    "codeAction/resolve": st.fixed_dictionaries({"title": st.just("x"), "data": ANY}),
    "workspace/executeCommand": st.fixed_dictionaries({
        "command": st.sampled_from(["blockdiff.run", "other"]),
        "arguments": sometimes(st.lists(ANY, max_size=2))}),
    "workspace/didChangeConfiguration": st.fixed_dictionaries({"settings": sometimes(
        st.dictionaries(st.sampled_from(["inline", "decoding", "x"]), ANY))}),
    "window/workDoneProgress/cancel": st.fixed_dictionaries({"token": sometimes(st.text())}),
    "$/cancelRequest": st.fixed_dictionaries({"id": st.integers(1, 400)}),
    "blockdiff/unknown": ANY,
}  # fmt: skip
NOTIFICATIONS = {"textDocument/didOpen", "textDocument/didChange", "textDocument/didClose",
                 "workspace/didChangeConfiguration", "window/workDoneProgress/cancel",
                 "$/cancelRequest"}  # fmt: skip
MESSAGES = st.sampled_from(sorted(PARAMETERS)).flatmap(
    lambda method: st.tuples(st.just(method), sometimes(PARAMETERS[method]))
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=st.lists(MESSAGES, max_size=8))
def test_every_request_is_answered_once_whatever_comes(
    raw: Raw, messages: list[tuple[str, Any]]
) -> None:
    opened = {"uri": URIS[0], "languageId": "python", "version": 1, "text": "f(\n  x𝕏\n)\n"}
    raw.send({"method": "textDocument/didOpen", "params": {"textDocument": opened}})
    numbers = set()
    for method, params in messages:
        if method in NOTIFICATIONS:
            raw.send({"method": method, "params": params})
        else:
            numbers.add(raw.request(method, params))
    raw.open("x = \n")
    raw.send(
        {"method": "workspace/didChangeConfiguration", "params": {"settings": {"blockdiff": {}}}}
    )
    sane = raw.infill((0, 4), "sane", max_tokens=1)
    answer = raw.answers({*numbers, sane})[sane]
    assert answer["result"]["edits"] == [{"range": hole((0, 4)), "newText": "sane done"}], answer


def test_mutated_messages_are_all_answered() -> None:
    report = fuzz_lsp.fuzz(600, seed=12)
    assert report.unanswered == [] and report.messages == 600 and report.requests > 300


if sys.platform == "win32":
    pytestmark = pytest.mark.skip(reason="pipes of another kind")
