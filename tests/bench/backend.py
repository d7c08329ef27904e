"""What our client of a remote backend adds to bare HTTP: `python -m tests.bench.backend`.

llama.cpp's own server on a tiny model, the same request by both in turns.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from blockdiff.client.remote.client import RemoteClient
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.config import DecodingConfig
from blockdiff.types import Hole, InfillRequest
from tests.unit.tiny_llamacpp import serving

_TIMES, _WARM_UP, _TOKENS = 60, 5, 12
_FILE = Path(__file__).resolve().parents[2] / "examples" / "intervals.py"


async def _measure(url: str) -> tuple[list[float], list[float]]:
    """Seconds from the request to the end of the stream: bare, ours."""
    text = _FILE.read_text("utf-8")
    at = text.index("# HOLE")
    request = InfillRequest(
        text, Hole(at, at), path=_FILE.name, decoding=DecodingConfig(max_tokens=_TOKENS)
    )
    bare, ours = [], []
    async with RemoteClient(BackendOptions(Backend.LLAMACPP, url)) as client:
        sent = await client.sent(request)
        async with httpx.AsyncClient() as http:
            for _ in range(_TIMES):
                began = time.perf_counter()
                async with http.stream("POST", sent.url, json=sent.body) as response:
                    async for _ in response.aiter_bytes():
                        pass
                bare.append(time.perf_counter() - began)
                began = time.perf_counter()
                async for _ in client.infill(request):
                    pass
                ours.append(time.perf_counter() - began)
    return bare[_WARM_UP:], ours[_WARM_UP:]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
        bare, ours = asyncio.run(_measure(url))
    for name, taken in (("least", min), ("median", statistics.median)):
        a, b = 1e3 * taken(bare), 1e3 * taken(ours)
        print(f"{name:7} bare {a:6.1f} ms   ours {b:6.1f} ms   more {b - a:5.1f} ms")


if __name__ == "__main__":
    main()
