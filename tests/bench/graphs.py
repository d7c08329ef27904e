"""Small forwards replayed as CUDA graphs beside eager ones: `python -m tests.bench.graphs`.

Random weights in the shape of the default model, bfloat16 and then in 8 bits. Each kind of forward
runs in turn eagerly and padded, over caches of the same content; what is printed are medians and
the median of their ratios, how far the logits are apart, and what the first padded forward takes,
which records. After that the products of each matrix: bfloat16, 8 bits by torch's own kernel, and
8 bits made bfloat16. The last line is one JSON object. Elsewhere than on CUDA nothing is recorded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from blockdiff.config import AdapterConfig, TransformerConfig
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.cuda.graphs import CudaGraphs, GraphedRunner, eagerly
from blockdiff.model.cuda.weight_only import WeightOnlyLinear, in_eight_bits
from blockdiff.model.forward import Forward, Runner, run
from blockdiff.model.transformer import Gate, Transformer

SHAPE = TransformerConfig(
    vocab_size=151_936, hidden_size=1536, n_layers=28, n_heads=12, n_kv_heads=2, head_dim=128,
    ffn_size=8960, qkv_bias=True, tied_embeddings=True, max_positions=32_768, rope_base=1e6,
)  # fmt: skip
RANKS = AdapterConfig({"qkv": 18, "o": 20, "gate_up": 6, "down": 5}, scale=2.0)
PRODUCT_ROWS = (1, 2, 4, 8, 16, 32)
Times = dict[str, list[float]]


def build(shape: TransformerConfig, device: torch.device) -> tuple[Transformer, GatedAdapter]:
    """Random weights that keep activations within bounds."""
    torch.manual_seed(0)
    with torch.device(device):
        model, adapter = Transformer(shape), GatedAdapter(shape, RANKS)
    for parameter in [*model.parameters(), *adapter.parameters()]:
        if parameter.dim() > 1:
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
    parts = (model, adapter)
    return tuple(part.bfloat16().eval().requires_grad_(False) for part in parts)  # type: ignore


def forward_of(
    kind: str, rows: int, cache: BlockCache, adapter: GatedAdapter
) -> Forward:
    """`ar`: so many causal rows; `verify`: a draft of four with all of its groups of masks."""
    past = cache.length
    gate = None
    mask = masks.causal(past, rows)
    if kind == "verify":
        mask = masks.verifying(past, 5, range(5), 4)
        gate = Gate(adapter, torch.arange(len(mask))[None] >= 5, 5)
    new = len(mask)
    tokens = torch.arange(new)[None]
    positions = torch.arange(past, past + new)[None]
    return Forward(tokens, positions, mask, cache, gate)


def in_turn(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> Times:
    """Milliseconds of every call; each round has one of each way."""
    times: Times = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, call in ways.items():
            settle(device)
            began = time.perf_counter()
            call()
            settle(device)
            if number > 1:  # the first ones warm up
                times[name].append(1e3 * (time.perf_counter() - began))
    return times


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(times: Times, way: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(times[way], times[other], strict=True))


@torch.inference_mode()
def forwards(
    model: Transformer, adapter: GatedAdapter, options: argparse.Namespace, label: str
) -> dict[str, float]:
    """Eager and padded forwards of every kind and past; their ratios by name."""
    device = model.device
    record = CudaGraphs(device) if device.type == "cuda" else eagerly
    ways: dict[str, Runner] = {
        "eager": lambda some: run(model, some),
        "padded": GraphedRunner(model, adapter, record),
    }
    ratios = {}
    for past in options.past:
        cache = BlockCache(model.config, dtype=model.dtype, device=device)
        c = model.config
        draft = torch.randn(c.n_layers, 2, 1, c.n_kv_heads, past, c.head_dim, device=device)
        cache.append_all(draft.to(model.dtype))
        cache.commit(past)
        for kind, rows in (("ar", 1), ("ar", 8), ("verify", 25)):
            made = {name: forward_of(kind, rows, cache.fork(), adapter) for name in ways}
            settle(device)
            began = time.perf_counter()
            found: dict[str, Tensor] = {"padded": ways["padded"]([made["padded"]])[0]}
            settle(device)
            first = 1e3 * (time.perf_counter() - began)
            found["eager"] = ways["eager"]([made["eager"]])[0]
            apart = float((found["padded"] - found["eager"]).abs().max())
            calls = {name: partial(way, [made[name]]) for name, way in ways.items()}
            times = in_turn(calls, options.rounds, device)
            name = f"{label}, {kind}, {rows} rows, {past} keys"
            ratios[name] = round(ratio(times, "padded", "eager"), 3)
            medians = {way: statistics.median(taken) for way, taken in times.items()}
            print(
                f"{name}: eager {medians['eager']:.2f} ms, padded {medians['padded']:.2f} ms, "
                f"ratio {ratios[name]:.2f}; first {first:.0f} ms; logits {apart:.2g} apart"
            )
    return ratios


@torch.inference_mode()
def products(model: Transformer, options: argparse.Namespace) -> dict[str, float]:
    """Of the matrices of one layer and the head: 8 bits over bfloat16, by rows and way."""
    block, device, ratios = model.blocks[0], model.device, {}
    plain = {"qkv": block.attention.qkv, "gate_up": block.ffn.gate_up, "down": block.ffn.down}
    for name, layer in (plain | {"head": model.head}).items():
        small = WeightOnlyLinear(layer.weight, None, device)
        for rows in PRODUCT_ROWS:
            x = torch.randn(rows, small.in_features, device=device, dtype=model.dtype)
            ways = {
                "bfloat16": lambda x=x, layer=layer: torch.nn.functional.linear(x, layer.weight),
                "kernel": lambda x=x, small=small: small.narrow_product(x),
                "bfloat16 again": lambda x=x, small=small: small.wide_product(x),
            }
            times = in_turn(ways, options.rounds, device)
            for way in ("kernel", "bfloat16 again"):
                key = f"{name}, {rows} rows, {way}"
                ratios[key] = round(ratio(times, way, "bfloat16"), 3)
                print(f"{key}: {ratios[key]:.2f} of bfloat16")
    return ratios


def main(arguments: Sequence[str] | None = None, shape: TransformerConfig = SHAPE) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or another: not recorded")
    parser.add_argument("--past", type=int, nargs="+", default=[500, 2000], help="keys (tokens)")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, {vars(options)}")
    model, adapter = build(shape, device)
    found = {"forwards": forwards(model, adapter, options, "bfloat16")}
    found["products"] = products(model, options)
    model = in_eight_bits(model, device, "it")
    found["forwards"] |= forwards(model, adapter, options, "int8")
    print(json.dumps({"device": name} | found))


if __name__ == "__main__":
    main()
