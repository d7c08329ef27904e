"""Settings that clients push and answer, among those of other servers."""

from __future__ import annotations

from typing import Any

import pytest

from blockdiff.client.endpoint import Runtime
from lsp_server.configuration import NOTHING, section_of
from lsp_server.settings import Settings, parse
from tests.lsp.raw import Raw
from tests.unit.scripted_service import ScriptedEngine

Scripted = tuple[Runtime, ScriptedEngine]
OURS = {"decoding": {"maxTokens": 7}}


@pytest.mark.parametrize("empty", [None, {}, [], {"inline": []}, {"inline": {}}, {"engine": None}])
def test_nothing_that_is_set_is_no_complaint(empty: Any) -> None:  # [] is an empty table of Lua
    assert parse(empty) == (Settings(), [])


@pytest.mark.parametrize(
    ("pushed", "section"),
    [
        ({"blockdiff": OURS, "pylsp": {}}, OURS),
        ({"blockdiff": None}, None),
        ({"blockdiff": OURS, "blockdiff.inline.automatic": False},
         OURS | {"inline.automatic": False}),
        ({"blockdiff": None, "blockdiff.inline.automatic": False}, {"inline.automatic": False}),
        ({"blockdiff": []}, []),
        ({"blockdiff.decoding.maxTokens": 7, "rust-analyzer": {}}, {"decoding.maxTokens": 7}),
        (OURS, OURS),
        ({"inline.automatic": False}, {"inline.automatic": False}),
        ({"pylsp": {"plugins": {"black": {"enabled": True}}}}, NOTHING),
        ({"": {}, "yaml": None, "context": {"x": 1}}, NOTHING),
        ({}, NOTHING),
        (None, NOTHING),
        ([OURS], NOTHING),
        ("blockdiff", NOTHING),
    ],
)  # fmt: skip
def test_what_is_ours_of_pushed_settings(pushed: Any, section: Any) -> None:
    assert section_of(pushed) == section


class _Client:
    """Tells which `maxTokens` hold: the scripted engine takes as many steps."""

    def __init__(self, runtime: Runtime, pulled: Any, can_answer: bool) -> None:
        self.raw = Raw(runtime)
        self.raw.settings = pulled
        self.raw.start("x = \n", {"workspace": {"configuration": can_answer}})

    def push(self, settings: Any) -> None:
        self.raw.send(
            {"method": "workspace/didChangeConfiguration", "params": {"settings": settings}}
        )
        self.raw.answers({self.raw.request("blockdiff/nothing", None)})

    def steps(self) -> int:
        for _ in range(3):  # what it is asked for comes before what it asks next
            self.raw.answers({self.raw.request("blockdiff/nothing", None)})
        answer = self.raw.fill((0, 4), max_tokens=0)
        return int(answer["result"]["forwards"])

    def boxes(self) -> list[str]:
        return [
            m["params"]["message"] for m in self.raw.seen if m["method"] == "window/showMessage"
        ]


@pytest.mark.parametrize("can_answer", [True, False])
@pytest.mark.parametrize("foreign", [{"pylsp": {"plugins": {}}}, {"x": 1, "inline": {}}, {}, None])
def test_settings_of_other_servers_change_nothing(
    scripted: Scripted, can_answer: bool, foreign: Any
) -> None:
    client = _Client(scripted[0], OURS if can_answer else None, can_answer)
    try:
        if not can_answer:
            client.push({"blockdiff": OURS})
        client.push(foreign)
        assert client.steps() == 7 and client.boxes() == []
        client.raw.stop()
    finally:
        client.raw.process.kill()


def test_a_client_that_answers_other_than_it_pushes_is_believed_in_what_it_pushes(
    scripted: Scripted,
) -> None:
    client = _Client(scripted[0], {}, True)
    try:
        client.push({"blockdiff": OURS})
        client.push({"pylsp": {}})
        assert client.steps() == 7
        client.raw.stop()
    finally:
        client.raw.process.kill()


def test_a_section_that_is_deleted_means_the_defaults(scripted: Scripted) -> None:
    client = _Client(scripted[0], {"decoding": {"maxTokens": 7, "seed": 0}}, True)
    try:
        assert client.steps() == 7
        client.raw.settings = None
        client.push({"pylsp": {}})
        assert client.steps() == 256
        client.raw.settings = OURS  # a new one is pushed, then deleted, too
        client.push({"blockdiff": OURS})
        assert client.steps() == 7
        client.raw.settings = None
        client.push(None)
        assert client.steps() == 256 and client.boxes() == []
        client.push({"blockdiff": {"decoding": {"maxTokens": 3}}})
        client.push({"blockdiff": None})
        assert client.steps() == 256
        client.raw.stop()
    finally:
        client.raw.process.kill()
