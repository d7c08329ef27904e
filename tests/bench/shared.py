"""What one request costs the others: `make bench-shared`.

Two things are timed with a random model, so that the numbers are those of what is around it. How
long building and writing one refinement takes, of drafts of two lengths that grow by a few tokens.
And how long another request waits between two of its refinements while a large file, that was
filled in, is parsed for its answer, beside how long it waits alone: on a busy machine for a core.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.engine.contexts import never
from blockdiff.engine.draft_text import DraftText
from blockdiff.engine.engine import Engine
from blockdiff.service.stream import EventEncoder
from blockdiff.types import Hole, InfillRequest, Unread
from tests.unit.tiny_checkpoint import checkpoint

LENGTHS = (1024, 4096)  # tokens
ALONE = 32  # refinements of a request before another one comes; the first half warms up
GROWTH, GUESSED = 4, 8  # tokens settled by a forward, and shown behind them
FUNCTION = "def f{}(a, b):\n    x = [i for i in range(a)]\n    return {{'a': x, 'b': b}}\n\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=945_000, help="characters of the large file")
    options = parser.parse_args()
    for length in LENGTHS:
        unread, built, written = refinements(length)
        print(
            f"{length} tokens: {unread:.3f} ms for a refinement nobody reads, "
            f"{built:.3f} ms built, {written:.3f} ms written as JSON (medians)"
        )
    for size in (1000, options.size):
        stall(size)  # starts the compiler's process, loads the grammar
        alone, beside = zip(*(stall(size) for _ in range(options.rounds)), strict=True)
        print(
            f"beside a file of {size} characters another request waited "
            f"{statistics.median(beside):.0f} ms at most, alone {statistics.median(alone):.0f} "
            f"(medians of {options.rounds})"
        )


def refinements(length: int, count: int = 60) -> tuple[float, float, float]:
    """Milliseconds for one, of drafts whose last is `length` tokens long."""
    point = checkpoint()
    tokens = point.tokenizer.encode("".join(FUNCTION.format(i) for i in range(length // 16)))
    drafts, encoder = DraftText(point.tokenizer, "r", 0), EventEncoder()
    unread, built, written = [], [], []
    for end in range(length - count * GROWTH, length, GROWTH):
        settled = (True,) * (end - GUESSED) + (False,) * GUESSED
        shares = tuple(1 / (1 + i % 7) for i in range(end))
        snapshot = Snapshot(tuple(tokens[:end]), settled, shares, 1, False)
        times = [time.perf_counter()]
        message = drafts.refinement(snapshot, 1.0)
        times.append(time.perf_counter())
        refinement = message.read()
        times.append(time.perf_counter())
        encoder.event(refinement)
        times.append(time.perf_counter())
        for row, (a, b) in zip((unread, built, written), itertools.pairwise(times), strict=True):
            row.append(1e3 * (b - a))
    return statistics.median(unread), statistics.median(built), statistics.median(written)


def stall(size: int) -> tuple[float, float]:
    """Milliseconds between two refinements of a request at most, alone and while another ends."""
    engine = Engine(checkpoint())
    document = "".join(functions(size))
    ar = DecodingConfig(mode=Mode.AR, max_tokens=4)
    large = InfillRequest(document, Hole(9, 9), "large.py", decoding=ar, context_tokens=64)
    small = InfillRequest("x = \n", Hole(4, 4), "small.py", context_tokens=64)
    small_one = DecodingConfig(mode=Mode.AR, max_tokens=400)
    last, gaps, over = time.perf_counter(), [0.0], False

    def step() -> None:
        nonlocal last, over
        for key, what in batch.step():
            over = over or (key == "large" and not isinstance(what, Unread))
            if key == "small" and isinstance(what, Unread):
                now = time.perf_counter()
                gaps.append(0.0 if over else now - last)
                last = now

    batch = engine.batch()
    for key, decoding, request in (("small", small_one, small), ("large", ar, large)):
        wanted = InfillRequest(
            request.document, request.hole, request.path, decoding=decoding, context_tokens=64
        )
        batch.prepare(key, engine.aside(lambda wanted=wanted: engine.steps(wanted, never)))
        if key == "small":
            while len(gaps) < ALONE:
                step()
            alone, gaps[:] = max(gaps[ALONE // 2 :]), [0.0]
    while not over:
        step()
    return 1e3 * alone, 1e3 * max(gaps)


def functions(size: int) -> Iterator[str]:
    written = 0
    for number in itertools.count():
        text = FUNCTION.format(number)
        if (written := written + len(text)) > size:
            return
        yield text


if __name__ == "__main__":
    main()
