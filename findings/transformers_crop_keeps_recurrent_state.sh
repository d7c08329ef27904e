#!/usr/bin/env bash
# Cropping the cache of a hybrid model takes drafts out of the attention and leaves them in the recurrence.
#
# `Cache.crop(-n)` takes back the last n tokens, and in transformers 5 it wants `activate_past_recording()` before
# they are written. Its text speaks of linear attention layers too. Where a state cannot be taken back one
# expects an error, as there is for a sliding window without that recording. For layers with a recurrent state the
# keys, the convolution and the length are cropped, the recurrent state keeps the drafts, and the next
# logits are off by something like their own spread. The cache does know: its `is_croppable` is False.
#
# Seen on 2026-11-28 with transformers 5.23.0 and torch 2.13.0 on a CPU, tiny models of random weights.
#
# Why it matters here: a rejected draft has to leave no trace, or greedy output depends on what was guessed. The
# length is right and nothing is raised, so only a comparison of logits finds it. A hybrid model would need
# copies of its state.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import torch
from transformers import AutoModelForCausalLM, OlmoHybridConfig, Qwen3_5TextConfig, Qwen3Config

sizes = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
linear = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
CONFIGS = [
    (Qwen3Config(**sizes), False),
    (Qwen3_5TextConfig(**sizes, **linear), True),
    (OlmoHybridConfig(**sizes, **linear), True),
]


@torch.no_grad()
def difference(config, count):
    """Of the logits after `count` drafts were written and cropped, in standard deviations."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    tokens, drafts = torch.randint(3, 97, (1, 20)), torch.randint(3, 97, (1, 3))[:, :count]
    right = model(input_ids=tokens, use_cache=False).logits[0, 12:]
    cache = model(input_ids=tokens[:, :12], use_cache=True).past_key_values
    if count:
        cache.activate_past_recording()
        model(input_ids=drafts, past_key_values=cache)
        cache.crop(-count)
    length = cache.get_seq_length()
    seen = model(input_ids=tokens[:, 12:], past_key_values=cache).logits[0]
    return length, ((seen - right).abs().max() / right.std()).item()


changed = False
for config, recurrent in CONFIGS:
    (length, without), (cropped, after) = difference(config, 0), difference(config, 3)
    print(f"{config.model_type:13} length {length} and {cropped}; off by {without:.4f} with no draft, {after:.4f} after")
    changed |= length != cropped or without > 1e-3 or (after > 0.05) != recurrent
sys.exit(changed)
PY
