"""`blockdiff rewrite`: as `infill` in what it shows, writes and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from blockdiff.config import DecodingConfig
from blockdiff.errors import ExitCode
from blockdiff.types import Hole, RewriteRequest
from tests.unit.scripted_cli import ScriptedEngine
from tests.unit.test_cli import (  # noqa: F401  fixtures
    OPTIONS,
    PROGRAM,
    blockdiff,
    program,
    script,
    scripted,
)

TOLD = ("--instruction", "rename it")


def asked() -> RewriteRequest:
    """The one request that reached the engine."""
    (request,) = ScriptedEngine.requests
    assert isinstance(request, RewriteRequest)
    return request


def test_the_diff_goes_to_standard_output_and_the_file_stays(
    blockdiff: Any, program: Path  # noqa: F811
) -> None:
    result = blockdiff("rewrite", "program.py", "--lines", "2", *TOLD)
    assert result.status == 0
    assert "-    y = x\n+    x = 1\n" in result.out and result.out.startswith("--- a/program.py")
    assert "tokens in" in result.err
    assert program.read_text("utf-8") == PROGRAM


def test_write_replaces_the_lines_and_nothing_else(
    blockdiff: Any, program: Path  # noqa: F811
) -> None:
    result = blockdiff("rewrite", "program.py", "--lines", "2", *TOLD, "--write", "-q")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert program.read_text("utf-8") == PROGRAM.replace("y = x", "x = 1")


def test_json_prints_every_event_as_one_line(blockdiff: Any, program: Path) -> None:  # noqa: F811
    result = blockdiff("rewrite", "program.py", "--range", "2:5-2:10", "--strength", "1", "--json")
    *refinements, end = map(json.loads, result.out.splitlines())
    assert {event["event"] for event in refinements} == {"refinement"}
    assert (end["event"], end["written"], end["text"]) == ("finished", False, "x = 1")
    assert asked().span == Hole(14, 19)


def test_a_text_that_comes_back_as_it_was_is_said(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    script(monkeypatch, text="y = x")
    result = blockdiff("rewrite", "program.py", "--lines", "2", *TOLD)
    assert result.out == "" and "the model left the text as it is" in result.err
    result = blockdiff("rewrite", "program.py", "--lines", "2")
    assert result.out == "" and "nothing to change" in result.err


def test_the_request_carries_what_was_said(blockdiff: Any, program: Path) -> None:  # noqa: F811
    options = ("--language", "go", "--context-tokens", "99", "-i", "shorter")
    assert blockdiff("rewrite", "program.py", "--lines", "2-3", *options).status == 0
    path = program.absolute().as_posix()
    wanted = RewriteRequest(
        PROGRAM, Hole(14, 32), "shorter", path=path, language="go", context_tokens=99
    )
    assert asked() == wanted


@pytest.mark.parametrize(("given", "strength"), [((), 0.5), (("--strength", "0.25"), 0.25)])
def test_without_an_instruction_it_is_mended(
    blockdiff: Any, program: Path, given: tuple[str, ...], strength: float  # noqa: F811
) -> None:
    assert blockdiff("rewrite", "program.py", "--lines", "2", *given).status == 0
    assert (asked().instruction, asked().strength) == ("", strength)
    assert asked().decoding == DecodingConfig()


@pytest.mark.parametrize("field", dataclasses.fields(DecodingConfig), ids=lambda f: f.name)
def test_every_setting_is_an_option_that_reaches_the_engine(
    blockdiff: Any, program: Path, field: Any  # noqa: F811
) -> None:
    text, value = OPTIONS[field.name]
    option = "--" + field.name.replace("_", "-")
    assert blockdiff("rewrite", "program.py", "--lines", "2", *TOLD, option, text).status == 0
    assert asked().decoding == dataclasses.replace(DecodingConfig(), **{field.name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say which part to rewrite"),
        (["--lines", "2", "--range", "1:1-1:2"], "name one place, not two"),
        (["--lines", "4"], "there is no text to rewrite, the span is blank"),
        (["--lines", "9"], "line 9 is outside program.py, which has 4 lines"),
        (["--range", "2:1"], "--range 2:1 is not a span"),
        (["--range", "2:1-1:1"], "--range 2:1-1:1 ends before it starts"),
        (["--lines", "2", "-i", " "], "the instruction is blank"),
        (["--lines", "2", "-i", "x", "--strength", "1"], "--strength is for rewriting without"),
        (["--lines", "2", "--strength", "1.5"], "strength must be 0..1, got 1.5"),
        (["--lines", "2", "--mode", "verify"], "--mode is for rewriting by an instruction"),
        (["--lines", "2", "--max-tokens", "-1"], "max_tokens must be 0..8192, got -1"),
        (["--lines", "2", "--at", "1:1"], "No such option: --at"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_requests_that_make_no_sense(
    blockdiff: Any, program: Path, options: list[str], message: str, as_json: bool  # noqa: F811
) -> None:
    result = blockdiff("rewrite", "program.py", *options, *["--json"] * as_json)
    assert result.status == ExitCode.USAGE
    said = json.loads(result.out)["message"] if as_json else result.error
    assert said.startswith(message)
    assert not ScriptedEngine.requests


def test_help_shows_what_to_type(blockdiff: Any) -> None:  # noqa: F811
    text = blockdiff("rewrite", "--help").out
    assert '--instruction "add type hints"' in text and "--strength 0.3" in text
    assert "rewrite" in blockdiff("--help").out
