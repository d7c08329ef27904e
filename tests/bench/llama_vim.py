"""llama.vim's own request, answered by us and by llama.cpp's server on the same file, both warm.

    python -m tests.bench.llama_vim --places 8

At each place, a line of the standard library, its first characters are typed. Both servers have
answered before the last of them was typed; what follows is timed, over loopback HTTP, in turn. The
same place is asked for by our own protocol, as the language server does, to compare the texts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from blockdiff.bench.scenes import lines_of_code
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import COMPAT_TOKEN, Runtime
from blockdiff.client.wire import affordable_context
from blockdiff.config import DecodingConfig
from blockdiff.service.launcher import ServeOptions, loader
from blockdiff.types import Extent, Finished, Hole, InfillRequest
from blockdiff.weights.catalog import DEFAULT_MODEL
from blockdiff.weights.store import resolve
from tests.unit.compat_clients import LLAMA_VIM
from tests.unit.scripted_service import served

TYPED = 6
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=256, help="before the cursor; a quarter after")
    options = parser.parse_args()
    runtime = Runtime(Path(tempfile.mkdtemp()) / "run")
    load = loader(ServeOptions(download=False))
    with served(runtime, load, model=DEFAULT_MODEL, compat="127.0.0.1:0"):
        announced = runtime.announced()
        assert announced is not None
        token = (runtime.folder / COMPAT_TOKEN).read_text().strip()
        ours = httpx.Client(
            base_url=announced.compat, headers={"Authorization": f"Bearer {token}"}, timeout=600
        )
        while ours.get("/health").status_code != 200:
            time.sleep(0.5)
        server = llama_cpp()
        theirs = httpx.Client(base_url=server.listening_address, timeout=600)
        measure(options, ours, theirs, EngineClient(runtime=runtime))


def llama_cpp() -> Any:
    """llama.cpp's server; it listens as long as it lives."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(resolve(DEFAULT_MODEL).base)
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = 8192, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = THREADS
    parameters.verbosity, parameters.hostnames, parameters.port = -1, ["127.0.0.1"], 0
    return xllamacpp.Server(parameters)


def measure(
    options: argparse.Namespace, ours: httpx.Client, theirs: httpx.Client, client: EngineClient
) -> None:
    ratios, same = [], 0
    loop = asyncio.new_event_loop()
    for name, lines, at in islice(lines_of_code(options.seed), options.places):
        line = lines[at].rstrip("\n")
        typed = len(line) - len(line.lstrip()) + TYPED
        before = "".join(lines[max(0, at - options.lines) : at])
        after = "".join(lines[at + 1 :][: options.lines // 4])
        body = LLAMA_VIM | {
            "input_prefix": before, "input_suffix": f"\n{after}", "input_extra": [],
            "n_indent": typed - TYPED, "t_max_predict_ms": 250,
        }  # fmt: skip
        times, texts = [], []
        for http in (ours, theirs):
            http.post("/infill", json=body | {"prompt": line[: typed - 1]})
            began = time.perf_counter()
            answer = http.post("/infill", json=body | {"prompt": line[:typed]}).json()
            times.append(time.perf_counter() - began)
            texts.append(answer["content"])
        document = "".join(lines)
        place = len("".join(lines[:at])) + typed
        document = document[:place] + document[place + len(line) - typed :]
        lsp = loop.run_until_complete(ghost_text(client, document, place, f"{name}.py"))
        same += lsp.split("\n")[0] == texts[0].split("\n")[0]
        ratios.append(times[0] / times[1])
        print(f"{name:12} ours {times[0]:.2f} s, llama.cpp {times[1]:.2f} s: {ratios[-1]:.2f}")
        print(f"  ours      {texts[0]!r}\n  by LSP    {lsp!r}\n  llama.cpp {texts[1]!r}")
    loop.run_until_complete(client.aclose())
    loop.close()
    print(f"median ratio {statistics.median(ratios):.2f}")
    print(f"first line as by LSP: {same} of {len(ratios)}")


async def ghost_text(client: EngineClient, document: str, at: int, path: str) -> str:
    """As `lsp_server/inline.py` asks."""
    speed = (await client.health()).context_speed
    request = InfillRequest(
        document, Hole(at, at), path=path, language="python", extent=Extent.BLOCK,
        context_tokens=affordable_context(speed), decoding=DecodingConfig(max_tokens=64),
    )  # fmt: skip
    events: Any = client.infill(request)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished):
                return event.text
    return ""


if __name__ == "__main__":
    main()
