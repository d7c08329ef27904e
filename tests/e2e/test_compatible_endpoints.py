"""llama.vim's own request, by curl as it calls it, to the default model: `serve --compat`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import COMPAT_TOKEN, Runtime
from blockdiff.client.wire import affordable_context
from blockdiff.types import Extent, Finished, Hole, InfillRequest
from tests.unit.compat_clients import LLAMA_VIM, events, llama_vim, text_of

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

BEFORE = '''\
import math


def area_of_circle(radius):
    """The area of a circle."""
'''
LINE = "    return "
AFTER = """\



print(area_of_circle(3))
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, str]]:
    """Where `serve --compat` runs, and the URL it says; it has the model loaded."""
    runtime = Runtime(tmp_path_factory.mktemp("engine") / "run")
    command = [sys.executable, "-m", "blockdiff", "serve", "--compat", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "BLOCKDIFF_RUNTIME": str(runtime.folder)},
    )  # fmt: skip
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["compat"]
    retry = ["--retry", "600", "--retry-delay", "1", "--fail", "--silent", f"{url}/health"]
    subprocess.run(["curl", *retry], check=True, stdout=subprocess.DEVNULL)  # 503 while it loads
    yield runtime, url
    asyncio.run(EngineClient(runtime=runtime).stop())
    process.wait(60)


def curl(engine: tuple[Runtime, str], path: str, body: object) -> str:
    """As llama.vim calls it."""
    runtime, url = engine
    token = (runtime.folder / COMPAT_TOKEN).read_text().strip()
    done = subprocess.run(
        ["curl", "--silent", "--no-buffer", "--request", "POST", "--url", url + path, "--header",
         "Content-Type: application/json", "--header", f"Authorization: Bearer {token}", "--data",
         "@-"],
        input=json.dumps(body), capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return done.stdout


def test_llama_vim_gets_what_our_own_plugins_get(engine: tuple[Runtime, str]) -> None:
    body = LLAMA_VIM | {
        "input_prefix": BEFORE, "prompt": LINE, "input_suffix": AFTER, "input_extra": []
    }  # fmt: skip
    first = json.loads(curl(engine, "/infill", body))
    raw = curl(engine, "/infill", body)
    assert json.loads(raw)["timings/prompt_n"] <= 1 < first["timings/prompt_n"]
    assert llama_vim(raw) == asyncio.run(ghost_text(engine[0]))
    filled = BEFORE + LINE + llama_vim(raw) + AFTER
    ran = subprocess.run([sys.executable, "-c", filled], capture_output=True, text=True, check=True)
    assert re.match(r"28\.27", ran.stdout)


async def ghost_text(runtime: Runtime) -> str:
    """As the language server asks for it."""
    async with EngineClient(runtime=runtime) as client:
        speed = (await client.health()).context_speed
        request = InfillRequest(
            BEFORE + LINE + AFTER,
            Hole(len(BEFORE + LINE), len(BEFORE + LINE)),
            extent=Extent.BLOCK,
            context_tokens=affordable_context(speed),
        )
        async with aclosing(client.infill(request)) as stream:
            return [event async for event in stream if isinstance(event, Finished)][-1].text


def test_what_is_streamed_is_what_comes_whole(engine: tuple[Runtime, str]) -> None:
    body = {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 64}
    whole = json.loads(curl(engine, "/v1/completions", body))["choices"][0]["text"]
    assert "return" in whole
    streamed = curl(engine, "/v1/completions", body | {"stream": True})
    assert events(text_of)(streamed) == whole
