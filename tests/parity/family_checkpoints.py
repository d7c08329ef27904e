"""A tiny random checkpoint of every family, in the layout of the hub.

Names and shapes are written down here as they are published, apart from what the loader knows;
weights come from a generator whose stream numpy keeps, so that none have to be stored.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, FFN = 96, 32, 3, 4, 2, 8, 52
MASK, BLOCK, LENGTH, PADDING = 90, 4, 24, 5
Shapes = dict[str, tuple[int, ...]]

_SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": FFN,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 50_000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": 91, "pad_token_id": 92,
    "auto_map": {"AutoModel": "modeling_remote.Remote"},
}  # fmt: skip
_MASKED = {"mask_token_id": MASK}


@dataclass(frozen=True)
class Tiny:
    """A checkpoint of `family`; `stored`: a reference output lies in `references/`."""

    family: str
    config: dict[str, Any]
    shapes: Shapes
    stored: bool = False

    def weights(self) -> dict[str, Tensor]:
        return {name: _random(name, shape) for name, shape in self.shapes.items()}

    def write(self, folder: Path) -> Path:
        """Two shards with an index, as large models are published."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        weights, index = self.weights(), {}
        names = sorted(weights)
        for part, chosen in enumerate((names[::2], names[1::2]), start=1):
            file = f"model-{part:05}-of-00002.safetensors"
            save_file({name: weights[name] for name in chosen}, folder / file)
            index.update(dict.fromkeys(chosen, file))
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
        return folder

    def write_one(
        self, folder: Path, weights: dict[str, Tensor] | None = None, **changes: Any
    ) -> Path:
        """A single file, its weights replaced, its configuration changed; None takes a key away."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config | changes
        config = {k: v for k, v in config.items() if k not in changes or v is not None}
        (folder / "config.json").write_text(json.dumps(config))
        save_file(self.weights() if weights is None else weights, folder / "model.safetensors")
        return folder


def tokens(family: str) -> Tensor:
    """(2, LENGTH) ids, masks among them."""
    stream = np.random.RandomState(zlib.crc32(family.encode()))
    ids = stream.randint(0, VOCABULARY, (2, LENGTH))
    ids[:, -6:-2] = MASK
    return torch.from_numpy(ids)


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) == 1 and "norm" in name or name.endswith("ln_f.weight"):
        values = stream.uniform(0.5, 1.5, shape)
    elif name.endswith("expert_bias"):
        values = stream.normal(size=shape) * 0.05
    else:
        values = stream.normal(size=shape) * 0.15
    return torch.from_numpy(values.astype(np.float32))


def _attention(prefix: str, bias: bool = False, norm: bool = False, o_bias: bool = False) -> Shapes:
    q, kv = HEADS * HEAD, KV_HEADS * HEAD
    found: Shapes = {}
    for part, rows in (("q", q), ("k", kv), ("v", kv)):
        found[f"{prefix}self_attn.{part}_proj.weight"] = (rows, WIDTH)
        if bias:
            found[f"{prefix}self_attn.{part}_proj.bias"] = (rows,)
    found[f"{prefix}self_attn.o_proj.weight"] = (WIDTH, q)
    if o_bias:
        found[f"{prefix}self_attn.o_proj.bias"] = (WIDTH,)
    if norm:
        found |= {f"{prefix}self_attn.{part}_norm.weight": (HEAD,) for part in "qk"}
    return found


def _swiglu(prefix: str, size: int = FFN) -> Shapes:
    return {
        f"{prefix}gate_proj.weight": (size, WIDTH),
        f"{prefix}up_proj.weight": (size, WIDTH),
        f"{prefix}down_proj.weight": (WIDTH, size),
    }


def _ends(embedding: str = "model.embed_tokens", tied: bool = False) -> Shapes:
    found = {f"{embedding}.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    return found if tied else found | {"lm_head.weight": (VOCABULARY, WIDTH)}


def _layers(make: Any) -> Shapes:
    found: Shapes = {}
    for i in range(LAYERS):
        prefix = f"model.layers.{i}."
        found[f"{prefix}input_layernorm.weight"] = (WIDTH,)
        found[f"{prefix}post_attention_layernorm.weight"] = (WIDTH,)
        found |= make(i, prefix)
    return found


def _plain(bias: bool = False, norm: bool = False, tied: bool = False) -> Shapes:
    return _ends(tied=tied) | _layers(
        lambda i, prefix: _attention(prefix, bias, norm) | _swiglu(f"{prefix}mlp.")
    )


def _qwen3_moe() -> Shapes:
    def layer(i: int, prefix: str) -> Shapes:
        found = _attention(prefix, norm=True) | {f"{prefix}mlp.gate.weight": (8, WIDTH)}
        for expert in range(8):
            found |= _swiglu(f"{prefix}mlp.experts.{expert}.", 20)
        return found

    return _ends() | _layers(layer)


def _llada2() -> Shapes:
    def layer(i: int, prefix: str) -> Shapes:
        rows = (HEADS + 2 * KV_HEADS) * HEAD
        found = {
            f"{prefix}attention.query_key_value.weight": (rows, WIDTH),
            f"{prefix}attention.dense.weight": (WIDTH, HEADS * HEAD),
            f"{prefix}attention.query_layernorm.weight": (HEAD,),
            f"{prefix}attention.key_layernorm.weight": (HEAD,),
        }
        if i == 0:
            return found | _swiglu(f"{prefix}mlp.")
        found[f"{prefix}mlp.gate.weight"] = (8, WIDTH)
        found[f"{prefix}mlp.gate.expert_bias"] = (8,)
        for expert in range(8):
            found |= _swiglu(f"{prefix}mlp.experts.{expert}.", 20)
        return found | _swiglu(f"{prefix}mlp.shared_experts.", 20)

    return _ends("model.word_embeddings") | _layers(layer)


def _nemotron() -> Shapes:
    renamed = {"lm_head.weight": "diffusion_head.weight"}
    return {renamed.get(n, n.replace("model.", "encoder.", 1)): s for n, s in _plain().items()}


def _llada() -> Shapes:
    found: Shapes = {
        "model.transformer.wte.weight": (VOCABULARY, WIDTH),
        "model.transformer.ln_f.weight": (WIDTH,),
        "model.transformer.ff_out.weight": (VOCABULARY, WIDTH),
    }
    for i in range(LAYERS):
        prefix = f"model.transformer.blocks.{i}."
        found |= {
            f"{prefix}attn_norm.weight": (WIDTH,),
            f"{prefix}ff_norm.weight": (WIDTH,),
            f"{prefix}q_proj.weight": (HEADS * HEAD, WIDTH),
            f"{prefix}k_proj.weight": (KV_HEADS * HEAD, WIDTH),
            f"{prefix}v_proj.weight": (KV_HEADS * HEAD, WIDTH),
            f"{prefix}attn_out.weight": (WIDTH, WIDTH),
            f"{prefix}ff_proj.weight": (FFN, WIDTH),
            f"{prefix}up_proj.weight": (FFN, WIDTH),
            f"{prefix}ff_out.weight": (WIDTH, FFN),
        }
    return found


def _starcoder2() -> Shapes:
    def layer(i: int, prefix: str) -> Shapes:
        return _attention(prefix, bias=True, o_bias=True) | {
            f"{prefix}input_layernorm.bias": (WIDTH,),
            f"{prefix}post_attention_layernorm.bias": (WIDTH,),
            f"{prefix}mlp.c_fc.weight": (FFN, WIDTH),
            f"{prefix}mlp.c_fc.bias": (FFN,),
            f"{prefix}mlp.c_proj.weight": (WIDTH, FFN),
            f"{prefix}mlp.c_proj.bias": (WIDTH,),
        }

    return _ends(tied=True) | {"model.norm.bias": (WIDTH,)} | _layers(layer)


def _config(architecture: str, model_type: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, **_SHAPE, **more}


def _checkpoints() -> list[Tiny]:
    head = {"head_dim": HEAD}
    experts = {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
        "norm_topk_prob": True,
    }  # fmt: skip
    llada = {
        "d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS,
        "mlp_hidden_size": FFN, "vocab_size": VOCABULARY, "embedding_size": VOCABULARY,
        "max_sequence_length": 128, "rms_norm_eps": 1e-5, "rope_theta": 50_000.0, "rope": True,
        "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms",
        "weight_tying": False, "include_bias": False, "include_qkv_bias": False, "alibi": False,
        "eos_token_id": 91, "pad_token_id": 92, **_MASKED,
    }  # fmt: skip
    llada2 = experts | {
        "num_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 2.5, "partial_rotary_factor": 0.5, "use_bias": False,
        "use_qkv_bias": False, "use_qk_norm": True, "score_function": "sigmoid",
    }  # fmt: skip
    by_block = llada2 | {"expert_capacity": 3, "delete_token_id": 88, "split_token_id": 89}
    yarn = {
        "rope_type": "yarn", "rope_theta": 50_000.0, "factor": 4.0, "beta_fast": 2.0,
        "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 0.5, "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    starcoder = {
        "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "use_bias": True,
        "sliding_window": 7, "tie_word_embeddings": True,
    }  # fmt: skip
    block = {"block_size": BLOCK}
    return [
        Tiny("dream", _config("DreamModel", "Dream", **_MASKED), _plain(bias=True), stored=True),
        Tiny(
            "dreamon",
            _config("DreamModel", "Dream", expand_token_id=93, **_MASKED),
            _plain(bias=True),
        ),
        Tiny("open-dcoder", _config("Qwen2ForCausalLM", "qwen2", **_MASKED), _plain(bias=True)),
        Tiny(
            "llada",
            {"architectures": ["LLaDAModelLM"], "model_type": "llada", **llada},
            _llada(),
            stored=True,
        ),
        Tiny(
            "coda",
            _config("CoDALanguageModel", "CoDA", **head, **_MASKED),
            _plain(norm=True),
            stored=True,
        ),
        Tiny(
            "sdar",
            _config("SDARForCausalLM", "sdar", **head, **block, **_MASKED),
            _plain(norm=True),
            stored=True,
        ),
        Tiny(
            "sdar-moe",
            _config("SDARMoeForCausalLM", "sdar_moe", **head, **block, **experts, **_MASKED),
            _qwen3_moe(),
        ),
        Tiny(
            "llada2",
            _config("LLaDA2MoeModelLM", "llada2_moe", **head, **block, **llada2, **_MASKED),
            _llada2(),
            stored=True,
        ),
        Tiny(
            "llada2 (2.2)",
            _config("LLaDA2MoeModelLM", "llada2_moe", **head, **block, **by_block, **_MASKED),
            _llada2(),
        ),
        Tiny("rnd1", _config("RND1LM", "rnd1", **head, **experts, **_MASKED), _qwen3_moe()),
        Tiny(
            "nemotron",
            _config(
                "NemotronLabsDiffusionModel", "nemotron_labs_diffusion", rope_parameters=yarn,
                dlm_paradigm="bidirectional", **head, **block, **_MASKED,
            ),
            _nemotron(),
        ),
        Tiny(
            "stable-diffcoder",
            _config("StableDiffcoderForCausalLM", "llama", **_MASKED),
            _plain(),
        ),
        Tiny(
            "fast-dllm",
            _config("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen", bd_size=8, **_MASKED)
            | {"tie_word_embeddings": True},
            _plain(bias=True, tied=True),
        ),
        Tiny(
            "a2d (qwen2)",
            _config("A2DQwen2LMHeadModel", "a2d-qwen2", **block, **_MASKED)
            | {"tie_word_embeddings": True},
            _plain(bias=True, tied=True),
        ),
        Tiny(
            "a2d (qwen3)",
            _config("A2DQwen3LMHeadModel", "a2d-qwen3", **head, **block, **_MASKED),
            _plain(norm=True),
        ),
        Tiny("ar (llama)", _config("LlamaForCausalLM", "llama"), _plain()),
        Tiny("ar (qwen2)", _config("Qwen2ForCausalLM", "qwen2"), _plain(bias=True)),
        Tiny("ar (qwen3)", _config("Qwen3ForCausalLM", "qwen3", **head), _plain(norm=True)),
        Tiny(
            "ar (starcoder2)",
            _config("Starcoder2ForCausalLM", "starcoder2") | starcoder,
            _starcoder2(),
        ),
    ]


CHECKPOINTS = {tiny.family: tiny for tiny in _checkpoints()}
