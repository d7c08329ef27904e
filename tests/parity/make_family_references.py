"""Write `references/*.npz`: logits of the published implementations for the tiny checkpoints.

Their code is fetched by hand, one folder for each family of `SOURCES` with an empty `__init__.py`,
and stays outside the repository. Then

    pip install --no-deps --target ELSEWHERE transformers==4.52.4 tokenizers==0.21.4 \
        huggingface_hub==0.33.4 einops
    PYTHONPATH=ELSEWHERE:. python -m tests.parity.make_family_references CODE dream llada coda sdar

and, because LLaDA2 is younger, once more for `llada2` with transformers 4.57.1, tokenizers 0.22.1
and huggingface_hub 0.35.3.

Everything runs on the CPU in float32 (torch 2.13.0). Two kernels of SDAR that exist for GPUs only,
an RMSNorm and an attention without a mask, are replaced by the formulas they compute, and its
training loss by nothing. The seeds are those of `family_checkpoints`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.family_checkpoints import BLOCK, CHECKPOINTS, LENGTH, PADDING, tokens

FOLDER = Path(__file__).parent / "references"
# family: repository, commit, folder, files
SOURCES = {
    "dream": (
        "ZHZisZZ/dllm", "ca176752fbceec49c6b4777a2c18ae88e4eb10ed", "dllm/pipelines/dream/models",
        ("configuration_dream.py", "modeling_dream.py", "generation_utils.py"),
    ),
    "llada": (
        "ZHZisZZ/dllm", "ca176752fbceec49c6b4777a2c18ae88e4eb10ed", "dllm/pipelines/llada/models",
        ("configuration_llada.py", "modeling_llada.py"),
    ),
    "llada2": (
        "ZHZisZZ/dllm", "ca176752fbceec49c6b4777a2c18ae88e4eb10ed", "dllm/pipelines/llada2/models",
        ("configuration_llada2_moe.py", "modeling_llada2_moe.py"),
    ),
    "coda": (
        "SalesforceAIResearch/CoDA", "fa1d505008c6cd453ad3e8dbf86d5a8e3a1d8f92",
        "CoDALanguageModel",
        ("model_config.py", "modeling_coda.py", "attention.py", "modeling_utils.py",
         "generation_utils.py"),
    ),
    "sdar": (
        "JetAstra/SDAR", "c2041a8333333d685f6e15122c84f60f51f85ebd",
        "training/model/SDAR-4B-Chat",
        ("configuration_sdar.py", "modeling_sdar.py"),
    ),
}  # fmt: skip
Outputs = dict[str, Tensor]


def configured(family: str, kind: type) -> Any:
    """Their configuration from our `config.json`; nothing remote is to be looked for."""
    config = {k: v for k, v in CHECKPOINTS[family].config.items() if k != "auto_map"}
    return kind(**config)


def filled(family: str, model: torch.nn.Module) -> Any:
    """Their model with our weights, each of which it must know, and know no other."""
    model.load_state_dict(CHECKPOINTS[family].weights(), strict=True)
    return model.eval()


def block_mask(length: int, padding: int = 0) -> Tensor:
    """Block-causal, blocks counted behind the padding; padding sees itself only."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(length):
            within = key >= padding and (key - padding) // BLOCK <= (query - padding) // BLOCK
            seen[query, key] = key == query if query < padding else within
    return seen


def padded_positions() -> Tensor:
    """(2, LENGTH): no padding, and PADDING positions of it."""
    rows = torch.arange(LENGTH).repeat(2, 1)
    rows[1] = (rows[1] - PADDING).clamp(min=0)
    return rows


def real() -> Tensor:
    """(2, LENGTH) ones and zeros: which positions are no padding."""
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :PADDING] = 0
    return mask


def dream() -> Outputs:
    module = importlib.import_module("dream.modeling_dream")
    model = filled("dream", module.DreamModel(configured("dream", module.DreamConfig)))
    ids = tokens("dream")
    return {
        "full": model(ids).logits,
        "padded": model(ids, attention_mask=real(), position_ids=padded_positions()).logits,
    }


def llada() -> Outputs:
    module = importlib.import_module("llada.modeling_llada")
    config = configured("llada", module.LLaDAConfig)
    config.init_device = "cpu"
    inner = module.LLaDAModel(module.create_model_config_from_pretrained_config(config))
    inner.config.init_device = "cpu"
    model = filled("llada", module.LLaDAModelLM(config, model=inner))
    ids = tokens("llada")
    return {"full": model(ids).logits, "padded": model(ids, attention_mask=real()).logits}


def coda() -> Outputs:
    """It has no padding when it generates: its rows are computed one by one."""
    module = importlib.import_module("coda.modeling_coda")
    config = configured("coda", module.CoDAConfig)
    config.attention_kernel = "math"
    model = filled("coda", module.CoDALanguageModel(config))
    ids = tokens("coda")
    full = model(ids)[0]
    padded = full.clone()
    padded[1, PADDING:] = model(ids[1:, PADDING:])[0]
    return {"full": full, "padded": padded}


def llada2() -> Outputs:
    module = importlib.import_module("llada2.modeling_llada2_moe")
    config = configured("llada2", module.LLaDA2MoeConfig)
    config._attn_implementation = "sdpa"
    model = filled("llada2", module.LLaDA2MoeModelLM(config))
    ids = tokens("llada2")
    mask = block_mask(LENGTH)[None, None]
    both = torch.stack([block_mask(LENGTH), block_mask(LENGTH, PADDING)])[:, None]
    cache, parts = None, []
    for start in range(0, LENGTH, BLOCK):
        end = start + BLOCK
        out = model(
            ids[:1, start:end], attention_mask=mask[:, :, start:end, :end], use_cache=True,
            past_key_values=cache, position_ids=torch.arange(start, end)[None],
        )  # fmt: skip
        cache = out.past_key_values
        parts.append(out.logits)
    return {
        "full": model(ids, attention_mask=mask).logits,
        "padded": model(ids, attention_mask=both, position_ids=padded_positions()).logits,
        "cached": torch.cat(parts, dim=1),
    }


def sdar() -> Outputs:
    from transformers.cache_utils import DynamicCache

    _stand_in_for_kernels()
    module = importlib.import_module("sdar.modeling_sdar")
    config = configured("sdar", module.SDARConfig)
    config.fuse_cross_entropy = True  # as published; of training only
    model = filled("sdar", module.SDARForCausalLM(config))
    ids = tokens("sdar")
    both = torch.stack([block_mask(LENGTH), block_mask(LENGTH, PADDING)])[:, None]
    cache, parts = DynamicCache(), []
    for start in range(0, LENGTH, BLOCK):
        end = start + BLOCK
        sees_all = torch.ones(1, 1, BLOCK, end, dtype=torch.bool)
        out = model(
            ids[:1, start:end], attention_mask=sees_all, past_key_values=cache, use_cache=True,
            store_kv=True, position_ids=torch.arange(start, end)[None],
        )  # fmt: skip
        parts.append(out.logits)
    return {
        "full": model(ids, attention_mask=block_mask(LENGTH)[None, None]).logits,
        "padded": model(ids, attention_mask=both, position_ids=padded_positions()).logits,
        "cached": torch.cat(parts, dim=1),
    }


def _stand_in_for_kernels() -> None:
    def rms_norm_fn(x: Tensor, weight: Tensor, bias: None, eps: float) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float
    ) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    contents: dict[str, dict[str, Any]] = {
        "flash_attn": {"flash_attn_func": flash_attn_func, "flash_attn_varlen_func": None},
        "flash_attn.ops": {},
        "flash_attn.ops.triton": {},
        "flash_attn.ops.triton.layer_norm": {"rms_norm_fn": rms_norm_fn},
        "flash_attn.bert_padding": dict.fromkeys(("index_first_axis", "pad_input", "unpad_input")),
        "sdar.fused_linear_diffusion_cross_entropy": {
            "FusedLinearDiffusionCrossEntropyLoss": None
        },
    }
    for name, values in contents.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__.update(values)
        sys.modules[name] = module


MAKERS: dict[str, Callable[[], Outputs]] = {
    "dream": dream, "llada": llada, "llada2": llada2, "coda": coda, "sdar": sdar,
}  # fmt: skip


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    FOLDER.mkdir(exist_ok=True)
    for family in sys.argv[2:] or sorted(MAKERS):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs = MAKERS[family]()
        arrays = {name: logits.float().numpy() for name, logits in outputs.items()}
        assert all(np.isfinite(array).all() for array in arrays.values()), family
        np.savez_compressed(FOLDER / f"{family}.npz", **arrays)
        print(family, {name: (a.shape, round(float(a.std()), 3)) for name, a in arrays.items()})


if __name__ == "__main__":
    main()
