"""What shape a `config.json` says that the decoder stack has, in the keys of every family of them.

A configuration file is believed in nothing: every number has a type and a limit here, because it
decides how much memory is asked for before the first tensor is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from reprlib import repr  # a value may be a list of millions
from typing import Any

from blockdiff.errors import InvalidRequest, ModelCorrupt, ModelUnsupported
from blockdiff.model.config import ExpertsConfig, RopeScaling, TransformerConfig
from blockdiff.model.load.kinds import MOST_TOKENS, Body, published

MOST_SIZE = 1 << 17  # of a width or count without a limit of its own; the largest known: 53,248
MOST_LAYERS = 1024
MOST_POSITIONS = 1 << 27
MOST_BASE, MOST_EPS = 1e12, 1.0  # of RoPE and of a norm


class CheckedKeys:
    """Values of a configuration, checked one by one; every error names the file and the key.

    Attributes:
        where: the file, as errors name it.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def size(self, key: str, default: int | None = None, most: int = MOST_SIZE) -> int:
        """A count from 1 to `most`. Null is as good as absent."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ModelCorrupt(f"{self.where}: {key} is {repr(value)}, not 1..{most}")
        return value

    def number(self, key: str, default: float | None = None, most: float = math.inf) -> float:
        """A finite number above 0, at most `most`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ModelCorrupt(f"{self.where}: {key} is {repr(value)}, not a number")
        if not 0 < value < math.inf:
            raise ModelCorrupt(f"{self.where}: {key} is {repr(value)}, not above 0")
        if value > most:
            raise ModelCorrupt(f"{self.where}: {key} is {repr(value)}, more than {most}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ModelCorrupt(f"{self.where}: {key} is {repr(value)}, not true or false")
        return value

    def _value(self, key: str, default: Any) -> Any:
        value = self.config.get(key)
        value = default if value is None else value
        if value is None:
            raise ModelCorrupt(f"{self.where} lacks the key {key!r}")
        return value

    def expect(self, key: str, *known: Any) -> None:
        """Refuse a value that changes the computation into one we do not have; absent is fine."""
        if key in self.config and self.config[key] not in known:
            raise ModelUnsupported(f"{self.where}: {key} {repr(self.config[key])} is not supported")


def config_from_prepared(values: object, source: str) -> TransformerConfig:
    """Shape from what `prepare` wrote. Raises ModelCorrupt for anything it would not have written.

    Any folder can claim to be prepared, so this is believed no more than other configurations.
    """
    if not isinstance(values, Mapping):
        raise ModelCorrupt(f"{source}: config.json lacks the key 'transformer'")
    keys = CheckedKeys(values, f"{source}: config.json")
    most = {"n_layers": MOST_LAYERS, "vocab_size": MOST_TOKENS, "max_positions": MOST_POSITIONS}
    known = {field.name: str(field.type) for field in fields(TransformerConfig)}
    if unknown := values.keys() - known.keys():
        raise ModelCorrupt(f"{keys.where}: unknown keys {sorted(unknown)}")
    given: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or (value == 0 and name in ("rotary_dim", "sliding_window")):
            continue
        if known[name] == "int":
            given[name] = keys.size(name, most=most.get(name, MOST_SIZE))
        elif known[name] == "float":
            given[name] = keys.number(name)
        elif known[name] == "bool":
            given[name] = keys.flag(name)
        elif name == "rope_scaling":
            given[name] = _prepared_scaling(value, f"{keys.where}: {name}")
        else:
            raise ModelUnsupported(f"{keys.where}: a prepared folder has no {name}")
    try:
        return TransformerConfig(**given)
    except (TypeError, InvalidRequest) as error:
        raise ModelCorrupt(f"{keys.where}: {error}") from error


def _prepared_scaling(values: object, where: str) -> RopeScaling:
    if not isinstance(values, Mapping):
        raise ModelCorrupt(f"{where} is no object")
    keys = CheckedKeys(values, where)
    known = {field.name: field.type for field in fields(RopeScaling)}
    if unknown := values.keys() - known.keys():
        raise ModelCorrupt(f"{where}: unknown keys {sorted(unknown)}")
    given: dict[str, Any] = {}
    for name in values:
        if known[name] == "bool":
            given[name] = keys.flag(name)
        elif values[name] != 0 or name == "factor":
            given[name] = (
                keys.size(name, most=MOST_POSITIONS)
                if known[name] == "int"
                else keys.number(name, most=MOST_BASE)
            )
    try:
        return RopeScaling(**given)
    except (TypeError, InvalidRequest) as error:
        raise ModelCorrupt(f"{where}: {error}") from error


def config_from_hf(config: Mapping[str, Any], source: str) -> TransformerConfig:
    """Shape from the `config.json` of a published checkpoint.

    Raises ModelUnsupported for a family, rotary scaling, activation or attention window that this
    stack does not have, ModelCorrupt for a key that is missing or holds an impossible value.
    """
    body = published(config, source).body
    keys = CheckedKeys(config, f"{source}: config.json")
    if body is Body.DIFFUSION_GEMMA:
        raise ModelUnsupported(f"{keys.where}: this family runs by the transformers library alone")
    if config.get("quantization_config") is not None:
        raise ModelUnsupported(
            f"{keys.where}: quantization_config is not supported", "take the unquantized files"
        )
    try:
        return _llada(keys) if body is Body.LLADA else _transformers(keys, body)
    except InvalidRequest as error:
        raise ModelCorrupt(f"{keys.where}: {error.message}") from error


def _transformers(keys: CheckedKeys, body: Body) -> TransformerConfig:
    """The keys of transformers, which all bodies but LLaDA's share."""
    starcoder, llada2 = body is Body.STARCODER2, body is Body.LLADA2
    keys.expect("hidden_act", "gelu_pytorch_tanh" if starcoder else "silu")
    keys.expect("use_sliding_window", False, None)
    keys.expect("norm_type", "layer_norm")  # these two are StarCoder2's
    keys.expect("mlp_type", "default")
    keys.expect("dlm_paradigm", "bidirectional", "block_diff")  # Nemotron-Labs-Diffusion's
    if not starcoder:
        kinds = keys.config.get("layer_types") or []
        if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            raise ModelUnsupported(f"{keys.where}: layer_types {kinds!r} is not supported")
    rope = _rope(keys)
    heads, width = keys.size("num_attention_heads"), keys.size("hidden_size")
    head_dim = keys.size("head_dim", max(width // heads, 1))
    share = rope.number("partial_rotary_factor", 0.5 if llada2 else 1.0)
    o_bias = keys.flag("use_bias" if starcoder or llada2 else "attention_bias", starcoder)
    qkv_bias = keys.flag("use_qkv_bias") if llada2 else o_bias
    if body is Body.QWEN2:
        qkv_bias, o_bias = True, False
    experts = _experts(keys, body)
    return TransformerConfig(
        vocab_size=keys.size("vocab_size", most=MOST_TOKENS),
        hidden_size=width,
        n_layers=keys.size("num_hidden_layers", most=MOST_LAYERS),
        n_heads=heads,
        n_kv_heads=keys.size("num_key_value_heads", heads),
        head_dim=head_dim,
        ffn_size=keys.size("intermediate_size", experts.size if experts else None),
        rope_base=rope.number("rope_theta", 10_000.0, MOST_BASE),
        norm_eps=keys.number("norm_epsilon" if starcoder else "rms_norm_eps", None, MOST_EPS),
        qkv_bias=qkv_bias,
        qk_norm=body in (Body.QWEN3, Body.QWEN3_MOE) or llada2 and keys.flag("use_qk_norm", True),
        # CoDA's own class never ties, though its configuration would.
        tied_embeddings=str(keys.config.get("model_type")).lower() != "coda"
        and keys.flag("tie_word_embeddings", starcoder),
        max_positions=keys.size("max_position_embeddings", 32_768, MOST_POSITIONS),
        rotary_dim=0 if share == 1.0 else int(head_dim * share),
        rope_scaling=_scaling(rope),
        o_bias=o_bias,
        ffn_bias=o_bias
        if starcoder
        else body in (Body.LLAMA, Body.NEMOTRON) and keys.flag("mlp_bias"),
        gated_ffn=not starcoder,
        layer_norm=starcoder,
        sliding_window=_window(keys) if starcoder else 0,
        experts=experts,
    )


def _rope(keys: CheckedKeys) -> CheckedKeys:
    """Where rotary settings are: in an object of their own, or among all others.

    As in the transformers library (5.23), which writes `rope_parameters`, the older `rope_scaling`
    wins where both are given, and takes nothing from the other.
    """
    key = "rope_scaling" if keys.config.get("rope_scaling") else "rope_parameters"
    own = keys.config.get(key) or {}
    if not isinstance(own, Mapping):
        raise ModelCorrupt(f"{keys.where}: {key} is no object")
    if any(isinstance(value, Mapping) for value in own.values()):
        raise ModelUnsupported(f"{keys.where}: {key} with settings for each kind of layer")
    return CheckedKeys({**keys.config, **own}, keys.where)


def _scaling(rope: CheckedKeys) -> RopeScaling | None:
    kind = rope.config.get("rope_type", rope.config.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(rope.number("factor"))
    if kind == "yarn":
        return _yarn(rope)
    if kind != "llama3":
        raise ModelUnsupported(f"{rope.where}: rotary scaling {kind!r} is not supported")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise ModelCorrupt(f"{rope.where}: high_freq_factor {high} is not above {low}")
    trained = rope.size("original_max_position_embeddings", most=MOST_POSITIONS)
    return RopeScaling(rope.number("factor"), trained, low, high)


def _yarn(rope: CheckedKeys) -> RopeScaling:
    """As the transformers library (5.23) reads it; Ministral 3 lets queries grow besides."""
    factor = rope.number("factor", most=MOST_BASE)
    low, high = rope.number("beta_slow", 1.0), rope.number("beta_fast", 32.0, MOST_BASE)
    stretch = 0.1 * math.log(max(factor, 1.0))
    amplitude = stretch + 1.0
    if rope.config.get("mscale") and rope.config.get("mscale_all_dim"):
        one, all_dim = (rope.number(key, most=MOST_BASE) for key in ("mscale", "mscale_all_dim"))
        amplitude = (stretch * one + 1.0) / (stretch * all_dim + 1.0)
    positions = rope.size("max_position_embeddings", 32_768, MOST_POSITIONS)
    growth = "llama_4_scaling_beta"
    return RopeScaling(
        factor=factor,
        trained=rope.size("original_max_position_embeddings", positions, MOST_POSITIONS),
        low=low,
        high=high,
        yarn=True,
        whole=rope.flag("truncate", True),
        amplitude=rope.number("attention_factor", amplitude, MOST_BASE),
        query_growth=rope.number(growth, most=MOST_BASE) if rope.config.get(growth) else 0.0,
    )


def _window(keys: CheckedKeys) -> int:
    value = keys.config.get("sliding_window")
    return 0 if value is None else keys.size("sliding_window", most=MOST_POSITIONS)


def _experts(keys: CheckedKeys, body: Body) -> ExpertsConfig | None:
    if body is Body.QWEN3_MOE:
        keys.expect("decoder_sparse_step", 1)
        dense = keys.config.get("mlp_only_layers") or []
        if dense != list(range(len(dense) if isinstance(dense, list) else 0)):
            raise ModelUnsupported(f"{keys.where}: mlp_only_layers {dense!r} is not supported")
        return ExpertsConfig(
            count=keys.size("num_experts"),
            active=keys.size("num_experts_per_tok"),
            size=keys.size("moe_intermediate_size"),
            first_layer=len(dense),
            normalized=keys.flag("norm_topk_prob"),
        )
    if body is not Body.LLADA2:
        return None
    keys.expect("score_function", "sigmoid")
    keys.expect("norm_topk_prob", True)
    keys.expect("moe_router_enable_expert_bias", True)
    keys.expect("norm_head", False, None)
    active, size = keys.size("num_experts_per_tok"), keys.size("moe_intermediate_size")
    shared, dense = keys.config.get("num_shared_experts"), keys.config.get("first_k_dense_replace")
    # With a capacity (LLaDA2.2) experts are chosen by blocks, and in no groups.
    capacity = 0 if keys.config.get("expert_capacity") is None else keys.size("expert_capacity")
    return ExpertsConfig(
        count=keys.size("num_experts"),
        active=active,
        size=size,
        shared_size=keys.size("num_shared_experts") * size if shared else 0,
        first_layer=keys.size("first_k_dense_replace") if dense else 0,
        groups=1 if capacity else keys.size("n_group", 8),
        active_groups=1 if capacity else keys.size("topk_group", 4),
        capacity=capacity,
        block=keys.size("block_size", 32, 1024),
        sigmoid=True,
        normalized=active > 1,
        scale=keys.number("routed_scaling_factor", 2.5),
    )


def _llada(keys: CheckedKeys) -> TransformerConfig:
    """The keys of OLMo, which LLaDA kept; of its many shapes the one that was published."""
    for key, known in {
        "block_type": ("llama",), "activation_type": ("silu",), "layer_norm_type": ("rms",),
        "rope": (True,), "alibi": (False,), "attention_layer_norm": (False,),
        "input_emb_norm": (False,), "scale_logits": (False,), "block_group_size": (1,),
        "multi_query_attention": (None, False), "bias_for_layer_norm": (None, False),
        "include_bias": (False,),
    }.items():  # fmt: skip
        keys.expect(key, *known)
    heads, width = keys.size("n_heads"), keys.size("d_model")
    return TransformerConfig(
        vocab_size=keys.size(
            "embedding_size", keys.size("vocab_size", most=MOST_TOKENS), MOST_TOKENS
        ),
        hidden_size=width,
        n_layers=keys.size("n_layers", most=MOST_LAYERS),
        n_heads=heads,
        n_kv_heads=keys.size("n_kv_heads", heads),
        head_dim=max(width // heads, 1),
        ffn_size=keys.size("mlp_hidden_size", keys.size("mlp_ratio", 4) * width),
        rope_base=keys.number("rope_theta", 10_000.0, MOST_BASE),
        norm_eps=keys.number("rms_norm_eps", 1e-5, MOST_EPS),
        qkv_bias=keys.flag("include_qkv_bias"),
        tied_embeddings=keys.flag("weight_tying", True),
        max_positions=keys.size("max_sequence_length", 1024, MOST_POSITIONS),
    )
