#!/usr/bin/env bash
# DeepSeek V4 in transformers answers otherwise when its prompt is padded on the left, mask or not.
#
# `generate` takes prompts of several lengths padded on the left with an attention mask, and for a decoder one
# expects each row to get the logits that it has alone, as Llama gives. This architecture of 2026 folds
# groups of 4 and of 128 keys into one, by place in the row. Padding shifts the groups, and the masked tokens are
# folded in with the others: the logits move even with which token the padding is made of. There is no warning.
#
# Seen on 2026-11-28 with transformers 5.23.0 and torch 2.13.0 on a CPU, a tiny model of random weights;
# with as little as one token of padding, and with 128, which shifts no group.
#
# Why it matters here: completions of several holes in one batch, and any comparison with the library as an
# oracle, are of padded rows. For such a model both have to go row by row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import torch
from transformers import AutoModelForCausalLM, DeepseekV4Config, LlamaConfig

sizes = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
LLAMA = LlamaConfig(**sizes, intermediate_size=48)
DEEPSEEK = DeepseekV4Config(
    **sizes, num_key_value_heads=1, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
    q_lora_rank=16, qk_rope_head_dim=8, index_n_heads=32, index_head_dim=16,
)  # fmt: skip


@torch.no_grad()
def first_logits(model, prompt, padding, filler):
    tokens = torch.cat([torch.full((1, padding), filler), prompt], 1)
    mask = torch.ones_like(tokens)
    mask[:, :padding] = 0
    return model.generate(
        tokens, attention_mask=mask, max_new_tokens=1, do_sample=False, eos_token_id=None,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    ).logits[0]  # fmt: skip


changed = False
for config, exact in ((LLAMA, True), (DEEPSEEK, False)):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    prompt = torch.randint(3, 97, (1, 200))
    alone = first_logits(model, prompt, 0, 0)
    for padding in (1, 8, 128):
        one, other = (first_logits(model, prompt, padding, filler) for filler in (0, 40))
        shift, content = (
            ((a - b).abs().max() / alone.std()).item() for a, b in ((one, alone), (one, other))
        )
        print(f"{config.model_type:11} {padding:3} of padding: off by {shift:.4f}, {content:.4f} by its content")
        changed |= ((shift < 1e-3) != exact) or ((content < 1e-3) != exact)
sys.exit(changed)
PY
