"""From the key that cancels to the screen without the draft, in a real Neovim: 200 ms is the aim.

`python -m tests.bench.cancel`, with the default model, which writes meanwhile.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from blockdiff.client.endpoint import Runtime
from blockdiff.weights import folders
from tests.editors.nvim.neovim import neovim

TEXT = "def area(width, height):\n    # the product\n    return todo\n"


def measure(runtime: Runtime, home: Path, rounds: int) -> list[float]:
    """Milliseconds of each round."""
    file = home / "area.py"
    file.write_text(TEXT)
    setup = {"ghost": {"enabled": False}, "server": {"decoding": {"maxTokens": 200}}}
    cache = {"BLOCKDIFF_CACHE": str(folders.cache_root())}
    taken = []
    with neovim(home, runtime.folder, file, setup=setup, environment=cache) as nvim:
        for _ in range(rounds):
            before = nvim.lua("return #drafts")
            nvim.command("2,3BlockDiff infill")
            nvim.until(f"#drafts > {before}", 300)
            nvim.sees("writing")
            pressed = time.monotonic()
            nvim.keys("<Esc>")
            nvim.misses("writing")
            taken.append(1e3 * (time.monotonic() - pressed))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        runtime = Runtime(home / "run")
        try:
            taken = measure(runtime, home, arguments.rounds)
        finally:
            if engine := runtime.announced():
                os.kill(engine.pid, signal.SIGTERM)
    print(
        f"from the key to the vanished draft: median {statistics.median(taken):.0f} ms,"
        f" longest {max(taken):.0f} ms of {len(taken)}"
    )


if __name__ == "__main__":
    main()
