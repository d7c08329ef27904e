"""What contexts on disk are worth: the first completion of an engine that has just started.

    python -m tests.bench.stored --places 8 --context 512 --root FOLDER

Places are ends of lines in held-out files. Each is asked for on an empty cache, without files and
with those that the same request left, and once more some lines further down, as where somebody goes
on the day after; timed is what passes until the first line is settled. Keys and values that come
from files are compared with those encoded anew, bit for bit. Run it twice with the same FOLDER: the
second process begins with what the first one stored, as `found` says. Files lie in the system's
page cache, as they do not after a restart of the machine.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from blockdiff.config import DecodingConfig
from blockdiff.engine.engine import Engine
from blockdiff.eval import heldout
from blockdiff.infill.layout import build_prompt
from blockdiff.types import Finished, Hole, InfillRequest, Refinement

HELD_OUT = Path("models/qwen2.5-coder-1.5b-blockdiff/eval/held_out.jsonl.gz")
FURTHER = 6  # lines


@dataclass(frozen=True)
class Answer:
    """Seconds until a line was settled, the whole text, and how much of the context was known."""

    seconds: float
    text: str
    cached: int


def places(context: int, seed: int) -> Iterator[tuple[InfillRequest, InfillRequest]]:
    """A request in the middle of each file, and one some lines further down."""
    rng = random.Random(seed)
    for file in heldout.choose(heldout.load(HELD_OUT), 0, seed):
        lines = file.text.split("\n")
        if len(file.text) < 4 * context or "\r" in file.text:
            continue
        row = rng.randrange(len(lines) // 3, max(len(lines) // 3, 2 * len(lines) // 3) + 1)
        asked = []
        for at in (row, row + FURTHER):
            end = len("\n".join(lines[: at + 1]))
            decoding = DecodingConfig(max_tokens=48)
            asked.append(
                InfillRequest(
                    file.text, Hole(end, end), file.path, file.language,
                    decoding=decoding, context_tokens=context,
                )  # fmt: skip
            )
        yield asked[0], asked[1]


def ask(engine: Engine, request: InfillRequest) -> Answer:
    """On an empty cache, as the first request of a process."""
    engine.forget()
    began, first = time.perf_counter(), 0.0
    for event in engine.infill(request):
        if isinstance(event, Refinement) and not first:
            settled = "".join(
                event.text[span.start : span.end]
                for span in itertools.takewhile(lambda span: span.settled, event.spans)
            )
            first = time.perf_counter() - began if "\n" in settled.lstrip("\n") else 0.0
        end = event
    assert isinstance(end, Finished)
    return Answer(first or time.perf_counter() - began, end.text, end.cached_tokens)


def same_bits(engine: Engine, request: InfillRequest) -> bool:
    """Whether what is restored of a context is what encoding it anew gives."""
    tokens = build_prompt(request, engine.tokenizer, engine.drafting.layout).tokens
    stored, engine.contexts.store.stored = engine.contexts.store.stored, None
    assert stored is not None
    engine.forget()
    with engine.behind(tokens, request.decoding) as sampler:
        sampler.prefill(tokens)
        anew = sampler.cache.fork()
    engine.contexts.store.stored = stored
    restored = engine.contexts.empty_cache()
    restored.reserve(len(tokens))
    stored.restore(tokens, restored)
    part = anew.fork(length=restored.length)
    return restored.length > 0 and torch.equal(restored.committed_all(), part.committed_all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--root", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = Engine.load()
    engine.store_in(options.root, 8 << 30)
    stored = engine.contexts.store.stored
    ratios: dict[str, list[float]] = {"same place": [], "further": []}
    equal = texts = 0
    for here, further in itertools.islice(places(options.context, options.seed), options.places):
        here = replace(here, request_id="bench")
        found = ask(engine, here).cached
        for _ in engine.storing():
            pass
        line = [f"found {found}"]
        for name, request in (("same place", here), ("further", further)):
            engine.contexts.store.stored = None
            cold = ask(engine, request)
            engine.contexts.store.stored = stored
            warm = ask(engine, request)
            ratios[name].append(warm.seconds / cold.seconds)
            texts += cold.text == warm.text
            line.append(f"{name} {cold.seconds:.2f} -> {warm.seconds:.2f} s, {warm.cached} cached")
        equal += same_bits(engine, here)
        print("; ".join(line), flush=True)
    for name, found_ratios in ratios.items():
        low, high = min(found_ratios), max(found_ratios)
        middle = statistics.median(found_ratios)
        print(f"{name}: {middle:.2f} of cold ({low:.2f} to {high:.2f})")
    print(f"{equal} of {options.places} contexts the same bits, {texts} texts the same")


if __name__ == "__main__":
    main()
