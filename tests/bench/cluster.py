"""What a second replica brings: 16 clients at a team's engine with one replica, then with two.

    python -m tests.bench.cluster [--seconds 6]

Each replica has one thread. Both are measured in one run; where others use the cores as well, the
ratio says how much, so that the load before is shown, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from blockdiff.types import Finished, Refinement
from tests.unit.cluster_world import Team, checkpoint, request, team

_CLIENTS = 16
_WIDTH, _LAYERS = 512, 8  # so that what is measured is the model's work, not Ray's


async def tokens_in(world: Team, seconds: float) -> float:
    """Tokens written per second by as many clients, each of which asks again and again."""
    written, seeds = 0, itertools.count()
    end = time.monotonic() + seconds

    async def one(who: int) -> None:
        nonlocal written
        async with world.client() as client:
            while time.monotonic() < end:
                asked = request(f"value{who} = 1\n" * 20, 30, 256, next(seeds), f"{who}.py")
                tokens = 0
                async with aclosing(client.infill(asked)) as events:
                    async for event in events:
                        if isinstance(event, Refinement):
                            tokens = len(event.spans)
                        elif isinstance(event, Finished):
                            tokens = event.tokens
                        if time.monotonic() > end:
                            break
                written += tokens

    await asyncio.gather(*map(one, range(_CLIENTS)))
    return written / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = checkpoint(folder / "model", _WIDTH, _LAYERS)
        print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        with team(folder, model) as world:
            rates = {}
            for replicas in (1, 2):
                if replicas > 1:
                    world.deploy(min_replicas=replicas)
                asyncio.run(tokens_in(world, 1.0))  # until all have their places
                rates[replicas] = asyncio.run(tokens_in(world, seconds))
                print(f"{replicas} replicas: {rates[replicas]:.0f} tokens/s")
        print(f"two over one: {rates[2] / rates[1]:.2f}")


if __name__ == "__main__":
    main()
