"""Everything that differs on a GPU, tried in one run: `python -m tests.bench.gpu_check`.

It needs no weights: the true shapes of 1.5B and 7B are filled with random ones on the device. What
is computed there is compared with the CPU, recorded forwards with eager ones, and both with
transformers on the same weights; each dtype, memory, tokens per second of every mode, and the share
of the memory's rate that a forward reaches are told by one line of JSON at the end. A step that
fails is told there, too, and the others still run. Random drafts never come true: `verify` is timed
as it is then, the slowest, and with every draft right, the fastest that it can be.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine.batch import Batch
from blockdiff.engine.devices import choose_dtype
from blockdiff.engine.engine import Engine
from blockdiff.errors import is_out_of_memory
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import TransformerConfig
from blockdiff.model.cuda.graphs import CudaGraphs, GraphedRunner, eagerly
from blockdiff.model.cuda.shapes import GraphShape
from blockdiff.model.cuda.weight_only import WeightOnlyLinear, in_eight_bits
from blockdiff.model.forward import Forward, Runner, run
from blockdiff.model.transformer import Transformer
from blockdiff.types import Finished, Hole, InfillRequest
from tests.bench.random_model import (
    SHAPES,
    TINY,
    as_transformers,
    build,
    filled,
    forward_of,
    in_turn,
    ratio,
    settle,
    weight_bytes,
)
from tests.unit.tiny_checkpoint import checkpoint

APART = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 1e-1, "int8": 1e-1}
"""How far logits may lie from the CPU's in float32, or in 8 bits, as a share of their size."""
CUT = 2  # layers that are computed on the CPU, too
COUNTS = {"ar": (1, 1), "verify": (1, 25), "eight at once": (8, 1)}  # forwards together, their rows


@dataclass
class Check:
    """One run: where, how much, and what was found."""

    device: torch.device
    rounds: int = 20
    past: int = 512  # tokens of context
    new: int = 64  # tokens that are written
    seconds: float = 330.0  # after which no step begins any more
    began: float = field(default_factory=time.monotonic)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    read_rate: float = 0.0  # bytes a second

    def step(self, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """Run a step and keep what it found, or why it found nothing."""
        began, cuda = time.monotonic(), self.device.type == "cuda"
        if began - self.began > self.seconds:
            self.steps[name] = {"ok": False, "error": "not begun: the time was over"}
            return
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            with torch.inference_mode():
                found = {"ok": True} | call()
        except Exception as error:  # whatever it is, the other steps are still worth knowing
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(str(error).split())[:300]
            found = {
                "ok": False,
                "error": f"{type(error).__name__}: {reason}",
                "at": f"{place.filename.rpartition('/')[2]}:{place.lineno} {place.name}",
            }
        found["seconds"] = round(time.monotonic() - began, 2)
        if cuda:
            found["peak_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)
        self.steps[name] = found
        print(f"{name}: {json.dumps(found)}", file=sys.stderr, flush=True)

    def share(self, model: Transformer, seconds: float) -> float | None:
        """Of the memory's rate, that reading all weights in so many seconds is."""
        return round(weight_bytes(model) / seconds / self.read_rate, 3) if self.read_rate else None


def recorded(
    check: Check, model: Transformer, adapter: GatedAdapter, shapes: list[GraphShape] | None = None
) -> GraphedRunner:
    """Raises AssertionError where nothing could be recorded."""
    cuda = check.device.type == "cuda"
    record = CudaGraphs(check.device) if cuda else eagerly
    runner = GraphedRunner(model, adapter, record, shapes)
    assert runner.shapes, "nothing was recorded; the log says why"
    return runner


def together(cache: BlockCache, adapter: GatedAdapter, kind: str) -> list[Forward]:
    count, rows = COUNTS[kind]
    return [forward_of(kind, rows, cache.fork(), adapter) for _ in range(count)]


# --- steps ---------------------------------------------------------------------------------------


def machine(check: Check) -> dict[str, Any]:
    """What `auto` chooses, and how fast memory is read."""
    size = (2 << 30) if check.device.type == "cuda" else (1 << 22)
    numbers = torch.ones(size // 4, device=check.device)
    times = in_turn({"read": numbers.sum}, 5, check.device)["read"]
    check.read_rate = size / (min(times) / 1e3)
    chosen = str(choose_dtype("auto", check.device)).removeprefix("torch.")
    return {"read_gb_per_s": round(check.read_rate / 1e9, 1), "auto_dtype": chosen}


def no_memory(check: Check) -> dict[str, Any]:
    """That there is none is understood, and ends nothing."""
    try:
        torch.empty(1 << 50, dtype=torch.uint8, device=check.device)
    except Exception as error:
        assert is_out_of_memory(error), f"not understood: {type(error).__name__}: {error}"
    else:
        raise AssertionError("a petabyte was to be had")
    assert float(torch.ones(2, device=check.device).sum()) == 2.0
    return {}


def engine(check: Check) -> dict[str, Any]:
    """A tiny model behind the whole engine: texts of every mode, alone and together, as on a CPU.

    In float32, on the device under the runner that it gets by itself.
    """
    point = checkpoint()
    assert point.adapter is not None
    texts: list[list[str]] = []
    for device in (torch.device("cpu"), check.device):
        model, adapter = (  # a module is moved in place
            copy.deepcopy(part).to(device)  # type: ignore[union-attr]
            for part in (point.model, point.adapter)
        )
        here = Engine(replace(point, model=model, adapter=adapter))
        here.check()
        made = [
            InfillRequest(
                "def area(width, height):\n    \n\nprint(area(3, 4))\n" + "#\n" * n,
                Hole(29, 29),
                "area.py",
                decoding=DecodingConfig(mode=mode, rule=rule, max_tokens=12),
            )
            for n, (mode, rule) in enumerate(
                [(Mode.AR, Rule.TRUST), (Mode.VERIFY, Rule.TRUST), (Mode.DIFFUSION, Rule.SCHEDULE)]
            )
        ]
        found = [event.text for one in made for event in here.infill(one) if _ended(event)]
        batch: Batch[int] = here.batch()
        for number, one in enumerate(made):
            batch.add(number, here.steps(one, lambda: False))
        told: dict[int, str] = {}
        while len(batch):
            told |= {number: event.text for number, event in batch.step() if _ended(event)}
        assert [told[n] for n in range(len(made))] == found, "together other texts than alone"
        texts.append(found)
    assert texts[0] == texts[1], "other texts than on a CPU"
    return {"texts": len(texts[1])}


def parity(check: Check, shape: TransformerConfig) -> dict[str, Any]:
    """Logits of a few layers of the true width, each dtype beside float32 on the CPU."""
    cut = replace(shape, n_layers=CUT)
    cpu = torch.device("cpu")
    found: dict[str, Any] = {}
    model, adapter = build(cut, torch.float32, check.device)
    exact = _logits(model.to(cpu), adapter.to(cpu))
    rounded = _logits(in_eight_bits(model, cpu, "it"), adapter)
    for name in APART:
        dtype = torch.bfloat16 if name == "int8" else getattr(torch, name)
        model, adapter = build(cut, torch.float32, check.device)  # the same ones again
        model, expected = model.to(dtype), exact
        if name == "int8":
            model, expected = in_eight_bits(model, check.device, "it"), rounded
        logits = _logits(model, adapter.to(dtype))
        apart = max(
            float((a - b).norm() / b.norm()) for a, b in zip(logits, expected, strict=True)
        )
        found[name] = float(f"{apart:.2g}")
    wrong = [name for name, apart in found.items() if not apart < APART[name]]
    assert not wrong, f"{wrong} too far from the CPU: {found}"
    return {"apart": found}


def graphs(check: Check, shape: TransformerConfig) -> dict[str, Any]:
    """Recorded forwards beside eager ones, in bfloat16: milliseconds, and the same logits."""
    model, adapter = build(shape, torch.bfloat16, check.device)
    before, began = _allocated(check), time.monotonic()
    runner = recorded(check, model, adapter)
    settle(check.device)
    found: dict[str, Any] = {
        "weights_gb": round(weight_bytes(model) / 1e9, 3),
        "recorded": len(runner.shapes),
        "record_s": round(time.monotonic() - began, 2),
        "record_gb": round((_allocated(check) - before) / 1e9, 3),
    }
    cache = filled(model, check.past)
    for kind in COUNTS:
        ways: dict[str, Runner] = {"eager": partial(run, model), "graph": runner}
        made = {name: together(cache, adapter, kind) for name in ways}
        assert runner.shape_of(made["graph"]) is not None, f"{kind}: no shape takes it"
        first = {name: torch.cat(way(made[name])) for name, way in ways.items()}
        calls = {name: partial(way, made[name]) for name, way in ways.items()}
        times = in_turn(calls, check.rounds, check.device)
        apart = float((first["graph"] - first["eager"]).norm() / first["eager"].norm())
        assert apart < APART["bfloat16"], f"{kind}: logits are {apart:.2g} of their size apart"
        graph_s = statistics.median(times["graph"]) / 1e3
        found[kind] = {
            **{f"{name}_ms": round(statistics.median(ms), 3) for name, ms in times.items()},
            "graph_over_eager": round(ratio(times, "graph", "eager"), 3),
            "of_read_rate": check.share(model, graph_s),
            "apart": float(f"{apart:.2g}"),
        }
    return found


def speed(check: Check, shape: TransformerConfig, name: str) -> dict[str, Any]:
    """Milliseconds of forwards in a dtype, recorded, and their share of the memory's rate."""
    dtype = torch.bfloat16 if name == "int8" else getattr(torch, name)
    model, adapter = build(shape, dtype, check.device)
    if name == "int8":
        model = in_eight_bits(model, check.device, "it")
    keys = 1024
    shapes = [GraphShape(1, 1, keys, False), GraphShape(1, 32, keys, True)]
    runner = recorded(check, model, adapter, shapes)
    cache = filled(model, check.past)
    found: dict[str, Any] = {"weights_gb": round(weight_bytes(model) / 1e9, 3)}
    for kind in ("ar", "verify"):
        made = together(cache, adapter, kind)
        times = in_turn({"it": partial(runner, made)}, check.rounds, check.device)["it"]
        ms = statistics.median(times)
        found[kind] = {"ms": round(ms, 3), "of_read_rate": check.share(model, ms / 1e3)}
    if name == "int8":
        found["products_ms"] = _products(model, check)
    return found


def modes(check: Check, shape: TransformerConfig) -> dict[str, Any]:
    """Tokens a second of every mode behind a context, beside transformers on the same weights."""
    model, adapter = build(shape, torch.bfloat16, check.device)
    runner = recorded(check, model, adapter)
    torch.manual_seed(2)
    prompt = torch.randint(0, shape.vocab_size, (check.past,)).tolist()
    ar = DecodingConfig(mode=Mode.AR, max_tokens=check.new)
    verify = replace(ar, mode=Mode.VERIFY, block_size=4)
    blocks = replace(
        ar, mode=Mode.DIFFUSION, rule=Rule.SCHEDULE, block_size=16, denoising_steps=4
    )
    text: list[int] = []
    found: dict[str, Any] = {}
    for name, decoding, original in (
        ("ar", ar, False), ("verify, nothing comes true", verify, False),
        ("verify, all comes true", verify, True), ("diffusion, 4 tokens a step", blocks, False),
    ):  # fmt: skip
        best = None
        for _ in range(3):  # the first warms up
            told = _written(check, model, adapter, runner, prompt, decoding, text * original)
            best = told if best is None or told[0] < best[0] else best
        assert best is not None
        seconds, tokens, forwards = best
        text = text or tokens
        found[name] = {
            "tokens_per_s": round(len(tokens) / seconds, 1), "forwards": forwards,
            "of_read_rate": check.share(model, seconds / forwards),
        }  # fmt: skip
    ours = statistics.median(
        _written(check, model, adapter, runner, prompt, ar, [], context=True)[0] for _ in range(3)
    )
    theirs, agreed = _transformers(check, model, prompt, text)
    found["with_context"] = {
        "ar_s": round(ours, 4), "transformers_s": round(theirs, 4),
        "transformers_over_ar": round(theirs / ours, 3), "same_tokens_first": agreed,
    }  # fmt: skip
    return found


# --- what steps are made of ----------------------------------------------------------------------


def _ended(event: object) -> bool:
    return isinstance(event, Finished)


def _allocated(check: Check) -> int:
    return torch.cuda.memory_allocated(check.device) if check.device.type == "cuda" else 0


def _logits(model: Transformer, adapter: GatedAdapter) -> list[Tensor]:
    """On the CPU in float32: of a context, of one token behind it, of a draft with its masks."""
    cache = BlockCache(model.config, dtype=model.dtype, device=model.device)
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, model.config.vocab_size, (1, 48), generator=draw)
    context = Forward(tokens, torch.arange(48)[None], masks.causal(0, 48), cache, None, 47)
    answers = run(model, [context])
    cache.commit(48)
    for kind in ("ar", "verify"):
        answers += run(model, [forward_of(kind, 1, cache, adapter)])
    return [answer.float().cpu() for answer in answers]


def _products(model: Transformer, check: Check) -> dict[str, Any]:
    """Of one matrix of 8 bits: the kernel for few rows beside the way by floating point."""
    matrix = model.blocks[0].ffn.gate_up
    assert isinstance(matrix, WeightOnlyLinear)
    found = {}
    for rows in (1, 4, 16):
        x = torch.randn(rows, matrix.in_features, device=check.device, dtype=torch.bfloat16)
        ways = {"kernel": matrix.narrow_product, "wide": matrix.wide_product}
        calls = {name: partial(way, x) for name, way in ways.items()}
        times = in_turn(calls, check.rounds, check.device)
        found[rows] = {name: round(statistics.median(ms), 4) for name, ms in times.items()}
    return found


def _written(
    check: Check, model: Transformer, adapter: GatedAdapter, runner: Runner, prompt: list[int],
    decoding: DecodingConfig, original: list[int], context: bool = False,
) -> tuple[float, list[int], int]:  # fmt: skip
    """Seconds, with the context's or without; the tokens; forwards."""
    cache = BlockCache(model.config, dtype=model.dtype, device=model.device)
    sampler = Sampler(
        model=model, adapter=adapter, cache=cache, chooser=Chooser(()), stop=frozenset(),
        config=decoding, cancelled=lambda: False, speculation=Speculation(), original=original,
    )  # fmt: skip
    settle(check.device)
    began = time.perf_counter()
    for forward in sampler.prefilling(prompt):
        runner([forward])
    settle(check.device)
    if not context:
        began = time.perf_counter()
    tokens: tuple[int, ...] = ()
    with sampler.writing(prompt) as generation:
        while isinstance(one := generation.next_forward(), Forward):
            if (snapshot := generation.take(runner([one])[0])) is not None:
                tokens = snapshot.tokens
    return time.perf_counter() - began, list(tokens), sampler.forwards


def _transformers(
    check: Check, model: Transformer, prompt: list[int], text: list[int]
) -> tuple[float, int]:
    """Seconds of its greedy generation on our weights, and how many tokens agree with ours."""
    theirs = as_transformers(model)
    ids = torch.tensor([prompt], device=check.device)
    seconds = []
    for _ in range(3):
        settle(check.device)
        began = time.perf_counter()
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=check.new, do_sample=False
        )
        settle(check.device)
        seconds.append(time.perf_counter() - began)
    written = out[0, len(prompt) :].tolist()
    pairs = enumerate(zip(written, text, strict=False))
    return min(seconds), next((i for i, (a, b) in pairs if a != b), len(text))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, mps, cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape: whether the check works")
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="only this")
    parser.add_argument("--seconds", type=float, default=330.0, help="no step begins after these")
    options = parser.parse_args(arguments)
    check = Check(torch.device(options.device), seconds=options.seconds)
    if options.tiny:
        check.rounds, check.past, check.new = 2, 40, 8
    shapes = TINY if options.tiny else {n: SHAPES[n] for n in options.shape or SHAPES}
    check.step("machine", partial(machine, check))
    check.step("no memory", partial(no_memory, check))
    check.step("engine", partial(engine, check))
    for name, shape in shapes.items():
        check.step(f"{name}, parity", partial(parity, check, shape))
        check.step(f"{name}, graphs", partial(graphs, check, shape))
        check.step(f"{name}, modes", partial(modes, check, shape))
        for dtype in ("int8", "float16", "float32"):
            check.step(f"{name}, {dtype}", partial(speed, check, shape, dtype))
    cuda = check.device.type == "cuda"
    device = torch.cuda.get_device_name(check.device) if cuda else check.device.type
    ok = all(found["ok"] for found in check.steps.values())
    seconds = round(time.monotonic() - check.began, 1)
    about = {"device": device, "torch": torch.__version__, "ok": ok, "seconds": seconds}
    print(json.dumps(about | {"steps": check.steps}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
