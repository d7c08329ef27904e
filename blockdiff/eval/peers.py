"""Our engine against llama.cpp: same weights, same prompts, same counts, in turn in one run.

Every figure is a median over places in real code; ratios are taken place by place, so that what
else the machine does falls on both.
"""

from __future__ import annotations

import random
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.sampler import Sampler, next_snapshot
from blockdiff.engine.batch import Batch, Steps
from blockdiff.engine.engine import Engine
from blockdiff.engine.infilling import resolved
from blockdiff.model import masks

_MODULES = [
    "argparse", "ast", "calendar", "configparser", "csv", "difflib", "fractions", "ftplib", "gzip",
    "imaplib", "ipaddress", "locale", "mailbox", "optparse", "pdb", "pickle", "plistlib", "shutil",
    "smtplib", "socketserver", "statistics", "tarfile", "textwrap", "threading", "tokenize",
    "traceback", "uuid", "zipfile",
]  # fmt: skip
_WIDTHS = (1, 2, 4, 8, 16)  # positions of a forward whose time is taken
_REPEATS = 7  # of such a forward
_CLIENT_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A prompt that ends in the middle of real code, and what would be typed there."""

    name: str
    prompt: tuple[int, ...]
    typed: tuple[int, ...]


def places(engine: Engine, count: int, context: int, seed: int) -> list[Place]:
    """Lines of the standard library with `context` tokens around them, three parts before."""
    tokenizer = engine.tokenizer
    special = tokenizer.special
    found: list[Place] = []
    before, after = context * 3 // 4 - 2, context // 4 - 1
    for name, lines, at in lines_of_code(seed):
        if len(found) == count:
            break
        prefix = tokenizer.encode("".join(lines[:at]))[-before:]
        suffix = tokenizer.encode("".join(lines[at + 4 :]))[:after]
        if len(prefix) < before or len(suffix) < after:
            continue
        prompt = [special.fim_prefix, *prefix, special.fim_suffix, *suffix, special.fim_middle]
        typed = tokenizer.encode(lines[at])[:3]
        found.append(Place(f"{name}.py:{at + 1}", tuple(prompt), tuple(typed)))
    return found


def lines_of_code(seed: int) -> Iterator[tuple[str, list[str], int]]:
    """(module of the standard library, its lines, number of one that is not short), for ever."""
    rng = random.Random(seed)
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    while True:
        name = rng.choice(_MODULES)
        path = stdlib / f"{name}.py"
        if not path.is_file():
            continue
        lines = path.read_text("utf-8").splitlines(keepends=True)
        at = rng.randrange(len(lines) // 3, len(lines) * 2 // 3)
        if len(lines[at].strip()) >= 20:
            yield name, lines, at


class Ours:
    """Times generations of a fixed length in one mode."""

    def __init__(self, engine: Engine, mode: Mode, tokens: int) -> None:
        self._engine, self._tokens = engine, tokens
        self._decoding = resolved(DecodingConfig(mode=mode, max_tokens=tokens), engine.drafting)

    def __call__(self, prompt: Sequence[int], *, cold: bool) -> tuple[float, float]:
        """(seconds, tokens per forward); `cold` forgets all context first."""
        if cold:
            self._engine.forget()
        began = time.perf_counter()
        with self._engine.behind(prompt, self._decoding) as sampler:
            sampler.stop = frozenset()  # as many tokens as the rival writes
            for _ in sampler.run(prompt):
                pass
        return time.perf_counter() - began, self._tokens / sampler.forwards


class LlamaCpp:
    """The rival on the same file.

    Raises NotInstalled without the `bench` extra.
    """

    def __init__(self, model: str, tokens: int, threads: int) -> None:
        from blockdiff.eval.fillers import llama_cpp_server

        self._server, self._tokens = llama_cpp_server(model, threads), tokens

    def __call__(self, prompt: Sequence[int], *, cold: bool) -> tuple[float, float]:
        """(seconds, 1.0); warm it keeps what the last prompt has in common with this one."""
        seconds, _ = self.split(prompt, cold=cold)
        return sum(seconds), 1.0

    def split(self, prompt: Sequence[int], *, cold: bool) -> tuple[tuple[float, float], int]:
        """((seconds of context, seconds of new tokens), context tokens encoded)."""
        from blockdiff.eval.fillers import complete

        answer = complete(
            self._server.handle_completions,
            {
                "prompt": list(prompt),
                "max_tokens": self._tokens,
                "temperature": 0.0,
                "top_k": 1,
                "cache_prompt": not cold,
                "ignore_eos": True,
            },
        )
        spent: dict[str, Any] = answer["timings"]
        seconds = spent["prompt_ms"] / 1e3, spent["predicted_ms"] / 1e3
        return seconds, int(spent["prompt_n"])


def compare(
    engine: Engine,
    rival: LlamaCpp,
    found: Sequence[Place],
    modes: Sequence[Mode],
    tokens: int,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Cold requests, and the same ones after a few typed tokens, in turn.

    What is typed stands at the end of the prefix for llama.cpp, as its clients send it, and behind
    `<middle>` for us, as our engine sends it.
    """
    runners = {mode.value: Ours(engine, mode, tokens) for mode in modes}
    times: dict[str, dict[str, list[float]]] = {"cold": {}, "warm": {}}
    per_forward: dict[str, list[float]] = {}
    for place in found:
        for name, runner in runners.items():
            cold, rate = runner(place.prompt, cold=True)
            warm, _ = runner((*place.prompt, *place.typed), cold=False)
            times["cold"].setdefault(name, []).append(cold)
            times["warm"].setdefault(name, []).append(warm)
            per_forward.setdefault(name, []).append(rate)
        times["cold"].setdefault("llama.cpp", []).append(rival(place.prompt, cold=True)[0])
        rival(place.prompt, cold=False)
        cut = place.prompt.index(engine.tokenizer.special.fim_suffix)
        typed = (*place.prompt[:cut], *place.typed, *place.prompt[cut:])
        times["warm"].setdefault("llama.cpp", []).append(rival(typed, cold=False)[0])
        progress()
    report: dict[str, Any] = {}
    for kind, by_name in times.items():
        theirs = by_name["llama.cpp"]
        report[kind] = {
            name: {
                "seconds": _spread(seconds),
                "ratio": _spread([a / b for a, b in zip(seconds, theirs, strict=True)]),
            }
            for name, seconds in by_name.items()
        }
    report["tokens_per_forward"] = {k: round(statistics.mean(v), 3) for k, v in per_forward.items()}
    return report


def clients(
    engine: Engine, found: Sequence[Place], mode: Mode, count: int, tokens: int
) -> dict[str, Any]:
    """Throughput of `count` clients who write at once over that of one who writes alone.

    Each has a context of its own, which is encoded before; the same texts are written one after
    another and together, in turn. `same`: how many of them are equal, token for token.
    """
    decoding = resolved(DecodingConfig(mode=mode, max_tokens=tokens), engine.drafting)
    prompts = [found[i % len(found)].prompt for i in range(count)]
    written: dict[int, tuple[int, ...]] = {}

    def write(number: int) -> Steps:
        with engine.behind(prompts[number], decoding) as sampler:
            sampler.stop = frozenset()
            with closing(sampler.steps(prompts[number])) as drafts:
                while (draft := (yield from next_snapshot(drafts))) is not None:
                    written[number] = draft.tokens

    def seconds(numbers: Sequence[int]) -> float:
        batch: Batch[int] = Batch(engine.forward, lambda key, what: None)
        for number in numbers:
            batch.add(number, write(number))
        began = time.perf_counter()
        while len(batch):
            batch.step()
        return time.perf_counter() - began

    everybody = range(count)
    seconds(everybody)  # encodes the contexts
    gains, same = [], 0
    for _ in range(_CLIENT_REPEATS):
        alone = sum(seconds([number]) for number in everybody)
        before = dict(written)
        gains.append(alone / seconds(everybody))
        same = sum(before[number] == written[number] for number in everybody)
    return {"clients": count, "throughput": _spread(gains), "same": same}


def forwards(engine: Engine, past: int) -> dict[str, Any]:
    """Milliseconds of one forward of so many positions behind `past` cached ones, head included."""
    decoding = DecodingConfig(mode=Mode.AR, max_tokens=1)
    found: dict[str, Any] = {}
    with engine.behind([0, 0], decoding) as sampler, torch.inference_mode():
        sampler.encode([0] * (past + 1))
        for width in _WIDTHS:
            times = []
            for _ in range(_REPEATS):
                began = time.perf_counter()
                _forward(sampler, width)
                times.append(1e3 * (time.perf_counter() - began))
            found[str(width)] = _spread(times[1:])
        sampler.cache.truncate(0)
    return found


def _forward(sampler: Sampler, width: int) -> None:
    model, cache = sampler.model, sampler.cache
    tokens = torch.zeros(1, width, dtype=torch.long, device=model.device)
    positions = torch.arange(cache.length, cache.length + width, device=model.device)[None]
    mask = masks.causal(cache.length, width, model.device)
    model.head(model.hidden(tokens, positions, mask, cache)[0].contiguous())
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return {
        "median": round(statistics.median(ordered), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
