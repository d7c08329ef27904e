#!/usr/bin/env bash
# In transformers, guidance takes rejected drafts for text, so that prompt lookup changes what greedy decoding gives.
#
# Drafts are verified by the model, so greedy decoding gives the same tokens with `prompt_lookup_num_tokens` or an
# assistant as without, also under logits processors: a penalty for repetition is computed for each drafted
# position from the tokens before it. One expects the same of `guidance_scale`, or a refusal as other settings meet
# ("assisted generate requires use_cache=True"). But its processor runs the model a second time, on the negative
# prompt, with a cache of its own that grows by one token whenever it is asked. It is asked for every drafted
# position, and nothing takes a rejected draft out of that cache. From the first rejection on the text is
# guided away from another text than the one there is. Nothing is raised.
#
# Seen on 2026-11-28 with transformers 5.23.0 and torch 2.13.0 on a CPU, a tiny model of random weights.
#
# Why it matters here: verified drafts must leave the output as it is, and the library serves as the oracle for
# that. What keeps state between tokens has to be rolled back with the cache, and here the oracle does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, head_dim=8, pad_token_id=0,
)  # fmt: skip
LENGTH, SCALE = 24, 1.5
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(CONFIG).eval()
for weight in model.parameters():
    if weight.dim() > 1:
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)


@torch.no_grad()
def generated(prompt, **settings):
    tokens = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=LENGTH, do_sample=False,
        eos_token_id=None, **settings,
    )  # fmt: skip
    return tokens[0, prompt.shape[1] :].tolist()


@torch.no_grad()
def by_definition(prompt, negative):
    """Greedy and guided, without any cache."""
    text = prompt[:, :0]
    for _ in range(LENGTH):
        sides = (torch.cat([before, text], 1) for before in (prompt, negative))
        with_, without = (model(side, use_cache=False).logits[0, -1].log_softmax(-1) for side in sides)
        token = (without + SCALE * (with_ - without)).argmax()
        text = torch.cat([text, token.view(1, 1)], 1)
    return text[0].tolist()


COUNT = 6
same = {"plain": 0, "penalty": 0, "guided, no drafts": 0, "guided": 0}
for _ in range(COUNT):
    prompt = torch.randint(1, 97, (1, 8)).repeat(1, 3)  # so that there is something to look up
    negative = torch.randint(1, 97, (1, 6))
    guided, drafts = {"guidance_scale": SCALE, "negative_prompt_ids": negative}, {"prompt_lookup_num_tokens": 4}
    right = by_definition(prompt, negative)
    for name, settings in (("plain", {}), ("penalty", {"repetition_penalty": 1.2})):
        same[name] += generated(prompt, **settings, **drafts) == generated(prompt, **settings)
    same["guided, no drafts"] += generated(prompt, **guided) == right
    same["guided"] += generated(prompt, **guided, **drafts) == right
print(f"texts as they should be, of {COUNT}: {same}")
sys.exit(same != {"plain": COUNT, "penalty": COUNT, "guided, no drafts": COUNT, "guided": 0})
PY
