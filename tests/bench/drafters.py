"""What a drafter costs beside its target, on a CPU in int8: true shapes, random weights.

    python -m tests.bench.drafters

The target has the shape of Qwen3-4B, the drafter that of its DFlash. Printed are bytes, and
milliseconds behind 512 tokens of context, each the least of a few tries, taken in turn.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.config import TransformerConfig
from blockdiff.model import masks
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, run
from blockdiff.model.int8.packing import Packed, pack
from blockdiff.model.int8.quantized import QuantizedLinear
from blockdiff.model.load.drafters import load_drafter
from blockdiff.model.load.from_folder import build, parameter_shapes
from blockdiff.model.transformer import Transformer

CONTEXT, TRIES = 512, 6
SHAPE = TransformerConfig(
    vocab_size=151_936, hidden_size=2560, n_layers=36, n_heads=32, n_kv_heads=8, head_dim=128,
    ffn_size=9728, qk_norm=True, tied_embeddings=True, max_positions=40_960, rope_base=1e6,
)  # fmt: skip
WIDTH, FFN, LAYERS, READ = 2560, 9728, 5, [1, 9, 17, 25, 33]
CONFIG: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "vocab_size": 151_936,
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "intermediate_size": FFN,
    "rope_theta": 1e6, "num_target_layers": 36, "block_size": 16,
    "dflash_config": {"mask_token_id": 151_669, "target_layer_ids": READ},
}  # fmt: skip
MATRICES = {
    "self_attn.q_proj": (4096, WIDTH), "self_attn.k_proj": (1024, WIDTH),
    "self_attn.v_proj": (1024, WIDTH), "self_attn.o_proj": (WIDTH, 4096),
    "mlp.gate_proj": (FFN, WIDTH), "mlp.up_proj": (FFN, WIDTH), "mlp.down_proj": (WIDTH, FFN),
}  # fmt: skip
NORMS = {
    "input_layernorm": WIDTH, "post_attention_layernorm": WIDTH, "self_attn.q_norm": 128,
    "self_attn.k_norm": 128,
}  # fmt: skip


def target() -> Transformer:
    """Every layer has the same random numbers, each a copy of its own in memory."""
    torch.manual_seed(0)
    known: dict[tuple[int, ...], Packed] = {}
    state: dict[str, Tensor] = {}
    packed: dict[str, list[Packed]] = {}
    for name, shape in parameter_shapes(SHAPE).items():
        if len(shape) == 1:
            state[name] = torch.ones(shape)
            continue
        if shape not in known:
            known[shape] = pack(torch.randn(shape) * shape[1] ** -0.5)
        packed[name] = [known[shape]]
    return build(SHAPE, state, "random", packed)


def drafter(base: Transformer) -> BlockDrafter:
    """By way of a file, as a published one."""
    weights = {"norm.weight": torch.ones(WIDTH), "hidden_norm.weight": torch.ones(WIDTH)}
    weights["fc.weight"] = torch.randn(WIDTH, len(READ) * WIDTH).mul_(0.02)
    for index in range(LAYERS):
        for name, size in MATRICES.items():
            weights[f"layers.{index}.{name}.weight"] = torch.randn(size).mul_(0.02)
        for name, width in NORMS.items():
            weights[f"layers.{index}.{name}.weight"] = torch.ones(width)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        save_file({n: w.bfloat16() for n, w in weights.items()}, f"{folder}/model.safetensors")
        return load_drafter(Path(folder), base, "random", dtype=torch.int8)


def packed_bytes(module: torch.nn.Module) -> int:
    """Of the matrices in a module, each once."""
    found = {id(m): m.nbytes for m in module.modules() if isinstance(m, QuantizedLinear)}
    return sum(found.values())


def least(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TRIES):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: min(some) for name, some in times.items()}


@torch.inference_mode()
def main() -> None:
    base = target()
    made = drafter(base)
    ends = packed_bytes(base.embedding)
    own = packed_bytes(made) - ends
    print(f"target {packed_bytes(base) / 1e9:.2f} GB, drafter {own / 1e9:.2f} GB beside it")
    cache = BlockCache(SHAPE, capacity=CONTEXT + 64, companion=made.cache())
    bare = BlockCache(SHAPE, capacity=CONTEXT + 64)
    for one, by in ((cache, made), (bare, None)):
        for start in range(0, CONTEXT, 128):
            run(base, [causal(one, start, 128, None)], by)
            one.commit(128)
    assert cache.companion is not None
    kept = cache.companion
    ways: dict[str, Callable[[], object]] = {}
    for rows in (1, 8, 16):
        ways[f"target, {rows} rows"] = lambda n=rows: run(base, [causal(bare, CONTEXT, n)])
        ways[f"the same, read by the drafter, {rows} rows"] = lambda n=rows: run(
            base, [causal(cache, CONTEXT, n)], made
        )
    for rows in (7, 16):
        block = Forward(
            torch.zeros(1, rows, dtype=torch.long), torch.arange(CONTEXT, CONTEXT + rows)[None],
            masks.full(CONTEXT, rows), kept, drafts=True,
        )  # fmt: skip
        ways[f"drafter, block of {rows}"] = lambda one=block: run(base, [one], made)
    for name, milliseconds in least(ways).items():
        print(f"{name:<40} {milliseconds:7.1f} ms")


def causal(cache: BlockCache, past: int, rows: int, wanted: int | None = 0) -> Forward:
    ids, positions = torch.zeros(1, rows, dtype=torch.long), torch.arange(past, past + rows)[None]
    return Forward(ids, positions, masks.causal(past, rows), cache, wanted=wanted)


if __name__ == "__main__":
    main()
