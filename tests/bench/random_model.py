"""Models of true shapes with random weights, forwards of them, and ways timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import AdapterConfig, TransformerConfig
from blockdiff.model.forward import Forward
from blockdiff.model.layer import Gate
from blockdiff.model.transformer import Transformer

_SHAPE = TransformerConfig(
    vocab_size=151_936, hidden_size=1536, n_layers=28, n_heads=12, n_kv_heads=2, head_dim=128,
    ffn_size=8960, qkv_bias=True, tied_embeddings=True, max_positions=32_768, rope_base=1e6,
)  # fmt: skip
_RANKS = AdapterConfig({"qkv": 18, "o": 20, "gate_up": 6, "down": 5}, scale=2.0)
SHAPES = {
    "1.5B": _SHAPE,
    "7B": replace(
        _SHAPE, vocab_size=152_064, hidden_size=3584, n_heads=28, n_kv_heads=4, ffn_size=18_944,
        tied_embeddings=False,
    ),
}  # fmt: skip
TINY = {
    "tiny": replace(
        _SHAPE, vocab_size=96, hidden_size=64, n_layers=2, n_heads=4, head_dim=16, ffn_size=96,
        max_positions=512,
    ),
}  # fmt: skip
Times = dict[str, list[float]]


def build(
    shape: TransformerConfig, dtype: torch.dtype, device: torch.device
) -> tuple[Transformer, GatedAdapter]:
    """Random weights that keep activations within bounds, made on the device."""
    torch.manual_seed(0)
    with torch.device("meta"):
        outline = Transformer(shape), GatedAdapter(shape, _RANKS)
    model, adapter = (part.to(dtype).to_empty(device=device) for part in outline)
    if shape.tied_embeddings:
        model.head.weight = model.embedding.weight
    for name, parameter in [*model.named_parameters(), *adapter.named_parameters()]:
        if parameter.dim() > 1:
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
        else:
            parameter.data.fill_(1.0 if "norm" in name else 0.0)
    adapter.mask_embedding.data.normal_(std=0.02)
    return model.eval().requires_grad_(False), adapter.eval().requires_grad_(False)


def weight_bytes(model: Transformer) -> int:
    """What a forward reads: all but an embedding that is no head."""
    parts = [*model.blocks.parameters(), *model.blocks.buffers()]
    parts += [*model.head.parameters(), *model.head.buffers()]
    return sum(part.nbytes for part in parts)


def filled(model: Transformer, past: int) -> BlockCache:
    """With so many random keys and values."""
    c = model.config
    torch.manual_seed(1)
    cache = BlockCache(c, dtype=model.dtype, device=model.device)
    cache.append_all(torch.randn(c.n_layers, 2, 1, c.n_kv_heads, past, c.head_dim).to(model.dtype))
    cache.commit(past)
    return cache


def forward_of(kind: str, rows: int, cache: BlockCache, adapter: GatedAdapter) -> Forward:
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


def as_transformers(model: Transformer) -> Any:
    """The same weights in the class that transformers has for them."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    c = model.config
    config = Qwen2Config(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads, head_dim=c.head_dim,
        intermediate_size=c.ffn_size, max_position_embeddings=c.max_positions,
        rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tied_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = Qwen2ForCausalLM(config).to(model.dtype)
    theirs.load_state_dict(dict(_their_names(model)), assign=True, strict=False)
    theirs.tie_weights()
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config).to(model.device)
    return theirs.eval()


def _their_names(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Views of our weights under the names of Qwen2."""
    c = model.config
    heads = [c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim, c.n_kv_heads * c.head_dim]
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "model.norm.weight", model.norm.weight
    yield "lm_head.weight", model.head.weight
    for index, block in enumerate(model.blocks):
        start = f"model.layers.{index}"
        for kind in ("weight", "bias"):
            split = getattr(block.attention.qkv, kind).split(heads)
            for name, part in zip("qkv", split, strict=True):
                yield f"{start}.self_attn.{name}_proj.{kind}", part
        gate, up = block.ffn.gate_up.weight.chunk(2)
        yield f"{start}.self_attn.o_proj.weight", block.attention.o.weight
        yield f"{start}.mlp.gate_proj.weight", gate
        yield f"{start}.mlp.up_proj.weight", up
        yield f"{start}.mlp.down_proj.weight", block.ffn.down.weight
        yield f"{start}.input_layernorm.weight", block.attention_norm.weight
        yield f"{start}.post_attention_layernorm.weight", block.ffn_norm.weight
