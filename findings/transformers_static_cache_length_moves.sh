#!/usr/bin/env bash
# The length of a static cache, asked for before a forward of transformers, is the length after it.
#
# `Cache.get_seq_length()` is annotated as an int and is one for the dynamic cache. For full attention layers of
# a static cache it is the cache's own counter, a tensor that the next update counts up in place. One expects a number
# that stays what it was when it was asked for. `before = cache.get_seq_length()`, a forward of six tokens, and `before`
# has become `after`; the difference of the two is 0 whatever was written. The library's Inkling, a model of 2026, falls
# for it: it takes note of the length, updates the cache, and then computes from the note how far each key is
# away. With a static cache its logits are right for the first forward and off by more than their own
# spread from the second on, greedy decoding gives another text, and nothing is raised. Inkling 2 does its sum
# before the update, and is right.
#
# Guessed before: static and dynamic caches agree for every architecture. Seen on 2026-11-29 with transformers 5.23.0
# and torch 2.13.0 on a CPU, tiny models of random weights.
#
# Why it matters here: static buffers for keys are what compiled forwards want, and the length before a forward says
# where its positions begin, and what to take back when drafts are rejected. It has to be copied by `int()` when
# it is read. An oracle with a static cache is none until it was compared with one without any cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Inkling2TextConfig,
    InklingTextConfig,
    Qwen3Config,
    StaticCache,
)

sizes = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
inkling = sizes | {
    "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "rel_extent": 64,
    "layer_types": ["hybrid"] * 4,
}  # fmt: skip
CONFIGS = [
    (Qwen3Config(**sizes), False),
    (InklingTextConfig(**inkling), True),
    (Inkling2TextConfig(**inkling), False),
]
PARTS = (12, 6, 6)


def made(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            inputs = weight.shape[0] if "rel_logits" in name else weight.shape[-1]
            torch.nn.init.normal_(weight, std=inputs**-0.5)
    return model


@torch.no_grad()
def differences(model, tokens, cache):
    """Of the logits of each part from those without a cache, in standard deviations."""
    right = model(input_ids=tokens, use_cache=False).logits[0]
    parts = [model(input_ids=p, past_key_values=cache).logits[0] for p in tokens.split(PARTS, 1)]
    both = zip(parts, right.split(PARTS), strict=True)
    return [round(((seen - wanted).abs().max() / right.std()).item(), 4) for seen, wanted in both]


@torch.no_grad()
def lengths(model, tokens, cache):
    """What was said before the second part, once it is written, and what is said then."""
    model(input_ids=tokens[:, :12], past_key_values=cache)
    before = cache.get_seq_length()
    model(input_ids=tokens[:, 12:18], past_key_values=cache)
    return int(before), int(cache.get_seq_length())


changed = False
for config, wrong in CONFIGS:
    model, tokens = made(config), torch.randint(3, 97, (1, 24))
    caches = [lambda c=config: DynamicCache(config=c), lambda c=config: StaticCache(config=c, max_cache_len=24)]
    moved = [lengths(model, tokens, cache()) for cache in caches]
    dynamic, static = (differences(model, tokens, cache()) for cache in caches)
    wish = {"max_new_tokens": 30, "do_sample": False}
    texts = [model.generate(tokens, **wish, **k) for k in ({}, {"cache_implementation": "static"})]
    same = torch.equal(*texts)
    print(f"{config.model_type:13} length before and after 6 tokens: dynamic {moved[0]}, static {moved[1]}")
    print(f"{'':13} off by, part by part: dynamic {dynamic}, static {static}; same text: {same}")
    changed |= moved != [(12, 18), (18, 18)] or max(dynamic) > 1e-3 or static[0] > 1e-3
    changed |= (min(static[1:]) > 0.5) != wrong or same == wrong
sys.exit(changed)
PY
