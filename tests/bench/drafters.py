"""What a drafter costs beside its target and what it brings, on a CPU: true shapes, random weights.

    python -m tests.bench.drafters qwen3-4b-dspark --dtype int8

Shapes are those of the catalogue. Printed are bytes; milliseconds behind 512 tokens of context, the
least of a few tries, taken in turn; and tokens per second where the drafter is told what to say:
so many tokens that come true, and nothing more, or wrong ones up to the end of its block.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.row_costs import FREE
from blockdiff.diffusion.sampler import Sampler
from blockdiff.model import masks
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import TransformerConfig
from blockdiff.model.forward import Forward, run
from blockdiff.model.int8.packing import Packed, pack
from blockdiff.model.int8.quantized import QuantizedLinear
from blockdiff.model.load.drafters import load_drafter
from blockdiff.model.load.from_folder import build, parameter_shapes
from blockdiff.model.load.stack_config import config_from_hf
from blockdiff.model.transformer import Transformer
from blockdiff.weights.catalog import drafters, published

CONTEXT, TRIES, ACCEPTED = 512, 6, range(1, 7)
Propose = Callable[[int, Tensor, Tensor], list[tuple[int, float]]]
_QWEN3 = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40_960}
_HEADS = {
    "dflash": {"architectures": ["DFlashDraftModel"], "block_size": 16, "mask_token_id": 3},
    "dspark": {
        "architectures": ["Qwen3DSparkModel"], "block_size": 7, "mask_token_id": 3,
        "enable_confidence_head": True, "confidence_head_with_markov": True,
    },
}  # fmt: skip
_TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32,
}  # fmt: skip


def target(shape: TransformerConfig, dtype: torch.dtype) -> tuple[Transformer, Tensor]:
    """Every layer has the same random numbers, in memory of its own; and the embedding, whose
    numbers are those of the head."""
    torch.manual_seed(0)
    ends = torch.empty(0)
    known: dict[tuple[int, ...], Packed | Tensor] = {}
    state: dict[str, Tensor] = {}
    packed: dict[str, list[Packed]] = {}
    for name, size in parameter_shapes(shape).items():
        if len(size) == 1:
            state[name] = torch.ones(size, dtype=torch.float32 if dtype is torch.int8 else dtype)
            continue
        if size not in known:
            numbers = torch.randn(size, dtype=torch.bfloat16) * size[1] ** -0.5
            ends = numbers if size[0] == shape.vocab_size else ends
            known[size] = pack(numbers.float()) if dtype is torch.int8 else numbers.to(dtype)
        one = known[size]
        if isinstance(one, Packed):
            packed[name] = [replace(one, data=one.data.clone())]
        else:
            state[name] = one.clone()
    return build(shape, state, "random", packed), ends


def drafter(
    config: dict[str, Any], base: Transformer, ends: Tensor, dtype: torch.dtype
) -> BlockDrafter:
    """By way of a file, as a published one."""
    weights = {
        name: torch.ones(size, dtype=torch.bfloat16)
        if len(size) == 1
        else torch.randn(size, dtype=torch.bfloat16) * size[-1] ** -0.5
        for name, size in _file_shapes(config)
    }
    if config.get("markov_rank"):  # with copies of its target's
        weights |= {"embed_tokens.weight": ends, "lm_head.weight": ends.clone()}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(weights, f"{folder}/model.safetensors")
        weights.clear()  # there is no room for them twice
        return load_drafter(Path(folder), base, "random", dtype=dtype)


def _file_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, ffn, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = (config[f"num_{n}_heads"] * head for n in ("attention", "key_value"))
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width), "mlp.down_proj": (width, ffn),
        "input_layernorm": (width,), "post_attention_layernorm": (width,),
        "self_attn.q_norm": (head,), "self_attn.k_norm": (head,),
    }  # fmt: skip
    for index in range(config["num_hidden_layers"]):
        for name, size in layer.items():
            yield f"layers.{index}.{name}.weight", size
    read = config.get("dflash_config", config)["target_layer_ids"]
    yield "fc.weight", (width, len(read) * width)
    yield "norm.weight", (width,)
    yield "hidden_norm.weight", (width,)
    if rank := config.get("markov_rank"):
        yield "markov_head.markov_w1.weight", (config["vocab_size"], rank)
        yield "markov_head.markov_w2.weight", (config["vocab_size"], rank)
        yield "confidence_head.proj.weight", (1, width + rank)
        yield "confidence_head.proj.bias", (1,)


def weight_bytes(module: torch.nn.Module) -> int:
    """Of all weights in a module, each once."""
    parts = [*module.parameters(), *module.buffers()]
    found = {part.data_ptr(): part.nbytes for part in parts}
    packed = {id(m): m.nbytes for m in module.modules() if isinstance(m, QuantizedLinear)}
    return sum(packed.values()) or sum(found.values())


def least(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TRIES):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: min(some) for name, some in times.items()}


def causal(cache: BlockCache, past: int, rows: int, wanted: int | None = 0) -> Forward:
    ids, positions = torch.zeros(1, rows, dtype=torch.long), torch.arange(past, past + rows)[None]
    return Forward(ids, positions, masks.causal(past, rows), cache, wanted=wanted)


def forwards(base: Transformer, made: BlockDrafter, cache: BlockCache, bare: BlockCache) -> None:
    assert cache.companion is not None
    size, kept = made.config.block_size, cache.companion
    ways: dict[str, Callable[[], object]] = {}
    for rows in (1, 8, 16):
        ways[f"target, rows: {rows}"] = lambda n=rows: run(base, [causal(bare, CONTEXT, n)])
        ways[f"with what the drafter reads, rows: {rows}"] = lambda n=rows: run(
            base, [causal(cache, CONTEXT, n)], made
        )
    block = Forward(
        torch.zeros(1, size, dtype=torch.long), torch.arange(CONTEXT, CONTEXT + size)[None],
        masks.full(CONTEXT, size), kept, drafts=True,
    )  # fmt: skip
    ways[f"drafter, block of {size}"] = lambda: run(base, [block], made)
    times = least(ways)
    for name, milliseconds in times.items():
        print(f"{name:<40} {milliseconds:7.1f} ms  {milliseconds / times['target, rows: 1']:5.2f}")


def told(own: Propose, text: Sequence[int], accepted: int, whole: bool) -> Propose:
    """A `BlockDrafter.propose` that takes its time, and then says what comes next in `text`."""
    starts = count(0, accepted + 1)

    def propose(last: int, logits: Tensor, hidden: Tensor) -> list[tuple[int, float]]:
        wrong = len(own(last, logits, hidden)) - accepted
        at = next(starts)
        true, miss = text[at : at + accepted], (text[at + accepted] + 1) % 256
        return [(token, 1.0) for token in [*true, *[miss] * (wrong if whole else 0)]]

    return propose


def speeds(base: Transformer, made: BlockDrafter, cache: BlockCache, rounds: int) -> None:
    """Tokens per second: median of the rounds, each a draft and the forward that verifies it."""
    prompt = [7 * i % 500 for i in range(CONTEXT + 1)]

    def writes(mode: Mode, most: int, drafting: BlockDrafter | None) -> Sampler:
        own = cache if drafting is not None else BlockCache(base.config, dtype=base.dtype)
        return Sampler(
            model=base, adapter=None, cache=own, chooser=Chooser((), 0.0, 1.0, 0),
            stop=frozenset(), config=DecodingConfig(mode=mode, max_tokens=most),
            cancelled=lambda: False, speculation=Speculation(FREE, most=0), block_drafter=drafting,
        )  # fmt: skip

    def seconds(sampler: Sampler, steps: int) -> tuple[float, tuple[int, ...]]:
        """Between snapshots, after the first, and the tokens of the last."""
        sampler.prefill(prompt)
        shown = [(time.perf_counter(), one) for one in islice(sampler.run(prompt), steps + 1)]
        _, last = shown[-1]
        settled = [t for t, s in zip(last.tokens, last.settled, strict=True) if s]
        return statistics.median(b - a for (a, _), (b, _) in pairwise(shown)), tuple(settled)

    most = (ACCEPTED[-1] + 1) * (rounds + 1)
    step, text = seconds(writes(Mode.AR, most + 1, None), most)
    print(f"{'ar':<40} {1 / step:7.2f} tokens per second")
    own = made.propose
    for whole in (False, True):
        for accepted in ACCEPTED:
            made.propose = told(own, text, accepted, whole)  # type: ignore[method-assign]
            step, written = seconds(writes(Mode.VERIFY, 2 * most, made), rounds)
            assert written == text[: (accepted + 1) * rounds], "another text than that of ar"
            name = f"{accepted} of a whole block" if whole else f"{accepted} of {accepted}"
            print(f"{'accepted: ' + name:<40} {(accepted + 1) / step:7.2f} tokens per second")


@torch.inference_mode()
def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("name", nargs="?", default="qwen3-4b-dspark", choices=drafters())
    asked.add_argument("--dtype", default="int8", choices=("int8", "bfloat16", "float32"))
    asked.add_argument("--rounds", type=int, default=4)
    asked.add_argument("--tiny", action="store_true", help="a tiny shape, to try the script")
    options = asked.parse_args()
    dtype, entry = getattr(torch, options.dtype), drafters()[options.name]
    tiny = _TINY if options.tiny else {}
    theirs = {**published()[entry.target].config, **_QWEN3, **tiny}
    own = {**entry.config, **_QWEN3, **_HEADS[entry.family], **tiny}
    process = psutil.Process()
    base, ends = target(config_from_hf(theirs, entry.target), dtype)
    made = drafter(own, base, ends, dtype)
    del ends
    whole, both = weight_bytes(base), weight_bytes(torch.nn.ModuleList([base, made]))
    print(f"{entry.name}, {options.dtype}, {torch.get_num_threads()} threads")
    print(f"target {whole / 1e9:.2f} GB, drafter {(both - whole) / 1e9:.2f} GB beside it")
    cache = BlockCache(base.config, dtype=base.dtype, companion=made.cache())
    bare = BlockCache(base.config, dtype=base.dtype)
    for one, by in ((cache, made), (bare, None)):
        for start in range(0, CONTEXT, 128):
            run(base, [causal(one, start, 128, None)], by)
            one.commit(128)
    forwards(base, made, cache, bare)
    cache.truncate(0)
    speeds(base, made, cache, options.rounds)
    print(f"resident {process.memory_info().rss / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
