"""What service and language server add to the bare engine: `make bench-overhead`.

The engine here takes a fixed time for each refinement, so that what is over is overhead. One run
pairs three ways to the same request, in turn: the engine itself, called in this process; the
service through its client; the language server over stdio in front of that. A straight line through
short and long requests splits the overhead into a part per request and a part per refinement.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.engine.contexts import never
from tests.lsp.raw import Raw
from tests.unit.scripted_service import ScriptedEngine, client_of, collect, request

SHORT, LONG = 2, 40  # refinements
STEP_MS = 4


def bare(steps: int) -> None:
    for _ in ScriptedEngine().infill(request(steps, STEP_MS), never):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="of every way and length")
    rounds = parser.parse_args().rounds
    runtime = Runtime(Path(tempfile.mkdtemp()) / "run")
    print(f"initialize answered {started(runtime):.0f} ms after the process was started (median)")
    loop = asyncio.new_event_loop()
    client = client_of(runtime)
    loop.run_until_complete(client.health())  # starts the engine, in a process of its own
    server = Raw(runtime)
    server.start("x = \n")
    try:
        report(measure(rounds, loop, client, server))
    finally:
        server.stop()
        loop.run_until_complete(client.stop())
        loop.run_until_complete(client.aclose())


def started(runtime: Runtime, runs: int = 9) -> float:
    """Milliseconds from the start of the language server to its first answer."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        server = Raw(runtime)
        server.answers({server.request("initialize", {"capabilities": {}})})
        times.append(1e3 * (time.perf_counter() - began))
        server.stop()
    return statistics.median(times)


def measure(
    rounds: int, loop: asyncio.AbstractEventLoop, client: EngineClient, server: Raw
) -> dict[tuple[str, int], list[float]]:
    """Milliseconds by way and length."""

    def service(steps: int) -> None:
        loop.run_until_complete(collect(client, request(steps, STEP_MS)))

    def language_server(steps: int) -> None:
        server.fill((0, 4), max_tokens=steps, seed=STEP_MS)

    ways: dict[str, Callable[[int], None]] = {
        "bare engine": bare, "service": service, "language server": language_server,
    }  # fmt: skip
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in range(rounds + 2):
        for steps in (SHORT, LONG):
            for name, way in ways.items():
                began = time.perf_counter()
                way(steps)
                if number >= 2:  # the first two warm it up
                    times[name, steps].append(1e3 * (time.perf_counter() - began))
    return times


def report(times: dict[tuple[str, int], list[float]]) -> None:
    medians = {key: statistics.median(values) for key, values in times.items()}
    base = {steps: medians["bare engine", steps] for steps in (SHORT, LONG)}
    print(f"{'over the bare engine':24} {'per request':>14} {'per refinement':>16}")
    for name in ("service", "language server"):
        over = {steps: medians[name, steps] - base[steps] for steps in (SHORT, LONG)}
        each = (over[LONG] - over[SHORT]) / (LONG - SHORT)
        print(f"{name:24} {over[SHORT] - SHORT * each:11.2f} ms {each:13.3f} ms")
    ratio = medians["language server", LONG] / base[LONG]
    print(f"{LONG} refinements of {STEP_MS} ms: {ratio:.2f} times the time of the bare engine")


if __name__ == "__main__":
    main()
