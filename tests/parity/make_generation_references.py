"""Write `references/generation.npz`: what published generation loops write for twenty prompts each.

Their code is fetched by hand into one folder and stays outside the repository:

    llada_generate.py       ML-GSAI/LLaDA b7e6c3565f194352da44b38dd12b6970597309f3: generate.py
    dream_generation.py     ZHZisZZ/dllm ca176752fbceec49c6b4777a2c18ae88e4eb10ed:
                            dllm/pipelines/dream/models/generation_utils.py
    dreamon_generator.py    DreamLM/DreamOn 8a0a54918412eda9402a327646f7f067f7160ec8:
                            eval/generator.py
    sdar_generate.py        JetAstra/SDAR c2041a8333333d685f6e15122c84f60f51f85ebd: generate.py
    llada2_sampler.py       ZHZisZZ/dllm (as above): dllm/pipelines/llada2/sampler.py
    bd3lm.py                ZHZisZZ/dllm (as above): dllm/core/samplers/bd3lm.py
    samplers_utils.py       ZHZisZZ/dllm (as above): dllm/core/samplers/utils.py
    alpha.py                ZHZisZZ/dllm (as above): dllm/core/schedulers/alpha.py
    fastllada_generate.py   NVlabs/Fast-dLLM 24cc59e75f20a6384bae8c905965bb090b96388e:
                            llada/generate.py
    llada_cal.py            NiuHechang/Calibrated_Adaptive_Length
                            741e8418a88a732b4c92812424d4f03cab1f7b1f: llada_cal/llada_cal.py

    llada21_sampler.py      ZHZisZZ/dllm (as above): dllm/pipelines/llada21/sampler.py
    indel.py                SGLang 0.5.23 (PyPI): sglang/srt/dllm/algorithm/joint_threshold_indel.py
    rnd_sampling.py         RadicalNumerics/RND1 87d5f465259c221465c3d1b44c385496e28d4c18:
                            rnd/sampling.py

    PYTHONPATH=. python -m tests.parity.make_generation_references FOLDER [CASE ...]

With names of cases the others stay as they are. The models behind them are those of transformers
5.23.0 with the tiny weights of `generation_cases`, and `plain_llada2` where LLaDA2 edits; float32
on the CPU, torch 2.13.0, without any cache: every call is a forward of the whole sequence under the
family's mask; but for Fast-dLLM's loop for LLaDA, which is about a cache. Packages that the files
import and do not need here (omegaconf, dllm, model) are stood in for by empty modules. SDAR's file
can only sample: the one function that draws a token is replaced by the most likely token and its
probability.
DreamOn's loop is that
of its evaluation settings (entropy, delete_eos_token, pad_eos_to_right) at temperature 0.

SGLang's algorithm is given block after block by hand.

Fast-dLLM v2 and Nemotron-Labs-Diffusion are not among them, their loops being files of the
checkpoint on the hub: the test has their published algorithms as plain loops.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from tests.parity.family_checkpoints import CHECKPOINTS, HEAD, MASK
from tests.parity.generation_cases import (
    CASES,
    DELETE,
    END,
    EXPAND,
    FOLDER,
    SPLIT,
    Case,
    weights,
)
from tests.parity.plain_llada2 import PlainLLaDA2

_LLADA = {
    "attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj", "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}  # fmt: skip


_EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")


def stacked(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Experts as transformers 5 keeps them in memory: those of a layer in two tensors."""
    made = {name: tensor for name, tensor in found.items() if ".experts." not in name}
    layers = sorted({name.split(".experts.")[0] for name in found if ".experts." in name})
    for layer in layers:
        count = len({n.split(".")[5] for n in found if n.startswith(f"{layer}.experts.")})
        each = [f"{layer}.experts.{i}." for i in range(count)]
        made[f"{layer}.experts.gate_up_proj"] = torch.stack(
            [torch.cat([found[f"{e}{p}_proj.weight"] for p in ("gate", "up")]) for e in each]
        )
        made[f"{layer}.experts.down_proj"] = torch.stack(
            [found[f"{e}down_proj.weight"] for e in each]
        )
    return made


def body(family: str) -> torch.nn.Module:
    """The family's body as transformers has it."""
    config, found = CHECKPOINTS[family].config, weights(family)
    shape = dict(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=52, max_position_embeddings=128,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        tie_word_embeddings=bool(config.get("tie_word_embeddings")), attn_implementation="eager",
        head_dim=HEAD,
    )  # fmt: skip
    if family == "llada":
        renamed = {}
        for name, tensor in found.items():
            short = name.removeprefix("model.transformer.")
            if short.startswith("blocks."):
                _, index, part, _ = short.split(".")
                renamed[f"model.layers.{index}.{_LLADA[part]}.weight"] = tensor
            else:
                ends = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
                renamed[f"{ends[short.removesuffix('.weight')]}.weight"] = tensor
        found = renamed
        model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    elif any("mlp.experts" in name for name in found):
        shape |= {key: config[key] for key in _EXPERTS}
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**shape))
        found = stacked(found)
    elif any("q_norm" in name for name in found):
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape))
    else:
        del shape["head_dim"]
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape))
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


class Whole:
    """A model as the loops call it; no cache, whatever they ask for."""

    device = torch.device("cpu")

    def __init__(self, case: Case) -> None:
        self._plain = None
        if case.family.startswith("llada2"):
            config = CHECKPOINTS[case.family].config
            self._plain = PlainLLaDA2(config, weights(case.family))
        else:
            self._body = body(case.family)
        self._size = case.kind.block_size

    def eval(self) -> None:
        pass

    def full(self, x: Tensor) -> Tensor:
        """Logits (1, length, vocab) of a sequence, with the mask at minus infinity."""
        length = x.shape[1]
        block = torch.arange(length) // (self._size or length)
        seen = block[:, None] >= block[None, :]
        if self._plain is not None:
            logits = self._plain.logits(x[0], seen)[None]
            logits[..., MASK] = -torch.inf
            return logits
        bias = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        logits = self._body(input_ids=x, attention_mask=bias[None, None], use_cache=False).logits
        logits[..., MASK] = -torch.inf
        return logits

    def __call__(
        self,
        x: Tensor | None = None,
        attention_mask: Any = None,
        tok_idx: Any = None,
        **more: Any,
    ) -> SimpleNamespace:
        x = more["input_ids"] if x is None else x
        cache = more.get("past_key_values")
        if cache is None and not more.get("use_cache"):
            if isinstance(attention_mask, Tensor) and attention_mask.dtype is torch.bool:
                length = int(attention_mask[0, 0, 0].sum())  # of DreamOn, whose rest is padding
                logits = self.full(x[:, :length])
                rest = torch.zeros(1, x.shape[1] - length, logits.shape[-1])
                return SimpleNamespace(logits=torch.cat([logits, rest], dim=1))
            return SimpleNamespace(logits=self.full(x))
        if cache is None:  # bd3lm: the sequence so far, as its own cache
            return SimpleNamespace(logits=self.full(x), past_key_values=Past(x))
        before = cache.tokens if isinstance(cache, Past) else getattr(cache, "tokens", x[:, :0])
        whole = torch.cat([before, x], dim=1)
        if more.get("store_kv"):  # SDAR
            cache.tokens = whole
        return SimpleNamespace(logits=self.full(whole)[:, before.shape[1] :])


class Past:
    """A cache that remembers what was read."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


class Replacing(transformers.DynamicCache):  # type: ignore[misc]
    """Keys and values of a whole sequence, of which some positions are written anew."""

    def __init__(self, kept: list[tuple[Tensor, Tensor]], at: Tensor) -> None:
        super().__init__()
        self._kept, self._at = kept, at

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *more: Any
    ) -> tuple[Tensor, Tensor]:
        for old, new in zip(self._kept[layer], (keys, values), strict=True):
            old[:, :, self._at] = new
        return self._kept[layer]


class Cached(Whole):
    """A bidirectional model with the caches that Fast-dLLM's loop for LLaDA hands around."""

    def __call__(self, x: Tensor, *_: Any, **more: Any) -> SimpleNamespace:
        past, at = more.get("past_key_values"), more.get("replace_position")
        if past is None:
            cache, start = transformers.DynamicCache(), 0
        elif at is None:  # what stands before the block
            cache, start = transformers.DynamicCache(), past[0][0].shape[2]
            for layer, (keys, values) in enumerate(past):
                cache.update(keys, values, layer)
        else:
            rows = at[0].nonzero()[:, 0]
            cache, start = Replacing(past, rows), int(rows[0])
        keys = past[0][0].shape[2] if at is not None else start + x.shape[1]
        found = self._body(
            input_ids=x, attention_mask=torch.zeros(1, 1, x.shape[1], keys), use_cache=True,
            past_key_values=cache, position_ids=torch.arange(start, start + x.shape[1])[None],
        )  # fmt: skip
        found.logits[..., MASK] = -torch.inf
        kept = past if at is not None else [(layer.keys, layer.values) for layer in cache.layers]
        return SimpleNamespace(logits=found.logits, past_key_values=kept)


def published(folder: Path, file: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"published_{file}", folder / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def stand_in(folder: Path) -> None:
    """What the files import of packages that are not needed here."""

    def add(name: str, **content: Any) -> ModuleType:
        module = ModuleType(name)
        module.__dict__.update(content)
        sys.modules[name] = module
        return module

    add("omegaconf", OmegaConf=object)
    add("model")
    add("model.modeling_llada", LLaDAModelLM=object)
    for name in ("dllm", "dllm.core", "dllm.core.samplers"):
        add(name)

    class Base:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)

    add(
        "dllm.core.samplers.base", BaseSampler=Base,
        BaseSamplerConfig=type("BaseSamplerConfig", (), {"return_dict": False}),
        BaseSamplerOutput=SimpleNamespace,
    )  # fmt: skip

    class Algorithm:
        def __init__(self, config: Any) -> None:
            self.block_size, self.mask_id = config.block_size, config.mask_id

    for name in ("", ".srt", ".srt.dllm", ".srt.dllm.algorithm", ".srt.model_executor"):
        add(f"sglang{name}")
    add("sglang.srt.dllm.algorithm.base", DllmAlgorithm=Algorithm)
    add("sglang.srt.dllm.config", DllmConfig=object)
    add("sglang.srt.model_executor.forward_batch_info", ForwardBatch=object)
    if not (folder / "alpha.py").is_file():  # of a2d, which is not asked for
        return
    alpha = published(folder, "alpha")
    add("dllm.core.schedulers", BaseAlphaScheduler=alpha.BaseAlphaScheduler)
    sys.modules["dllm.core.samplers.utils"] = published(folder, "samplers_utils")
    transformers.utils.is_torchdynamo_compiling = lambda: False


@torch.no_grad()
def run(case: Case, folder: Path) -> list[list[int]]:
    """The hole of every prompt."""
    named = {"llada2-edit": _llada21, "llada2 (2.2)-edit": _llada22}
    loop = named.get(case.name) or globals()["_" + case.name.split("-")[0]]
    return [loop(case, Whole(case), folder, *prompt) for prompt in case.prompts()]


def _llada(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    c = case.config
    if after:  # the published loop of CAL is LLaDA's with a suffix; without its search
        x, _ = published(folder, "llada_cal").generate(
            model, torch.tensor([before]), torch.tensor([after]), gen_length=c.max_tokens,
            mask_id=MASK, dstep=-1,
        )  # fmt: skip
        return list(x[0, len(before) : len(before) + c.max_tokens].tolist())
    blocks = c.max_tokens // c.block_size
    x = published(folder, "llada_generate").generate(
        model, torch.tensor([before]), steps=c.denoising_steps * blocks, gen_length=c.max_tokens,
        block_length=c.block_size, mask_id=MASK,
    )  # fmt: skip
    return list(x[0, len(before) :].tolist())


def _fastllada(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    c, module = case.config, published(folder, "fastllada_generate")
    loop = getattr(module, f"generate_with_{case.name.split('-')[1]}_cache")
    x, _ = loop(
        Cached(case), torch.tensor([before]), gen_length=c.max_tokens, block_length=c.block_size,
        steps=c.denoising_steps * (c.max_tokens // c.block_size), mask_id=MASK,
    )  # fmt: skip
    return list(x[0, len(before) :].tolist())


def _cal(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    x, _ = published(folder, "llada_cal").generate(
        model, torch.tensor([before]), torch.tensor([after]), mask_id=MASK,
        max_gen_length=case.config.max_tokens,
    )  # fmt: skip
    return list(x[0, len(before) : x.shape[1] - len(after)].tolist())


def _dream(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    module = published(folder, "dream_generation")
    alg = "maskgit_plus" if case.by_entropy is False else "entropy"
    config = module.DreamGenerationConfig(
        max_length=len(before) + case.config.max_tokens, steps=case.config.denoising_steps,
        mask_token_id=MASK, alg=alg, temperature=0.0, _from_model_config=True,
    )  # fmt: skip

    class Model(Whole):
        _sample = module.DreamGenerationMixin._sample

    mixed = Model(case)
    x = mixed._sample(
        torch.tensor([before]), None, config, lambda s, x, lo: x, lambda s, x, lo: lo
    )
    return list(x[0, len(before) :].tolist())


def _dreamon(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    module = published(folder, "dreamon_generator")
    least, most = 8, case.config.max_tokens
    own = SimpleNamespace(
        model=model, tokenizer=SimpleNamespace(eos_id=END), mask_id=MASK, expand_id=EXPAND,
        max_tokens=2048, min_gen_len=least, max_gen_len=most, expand_budget=most, steps=400,
        alg="entropy", alg_temp=0.0, temperature=0.0, top_p=None, top_k=None,
        pad_eos_to_right=True, delete_eos_token=True, show_progress=False, device="cpu",
    )  # fmt: skip
    ids = torch.tensor([[*before, *[MASK] * least, *after]])
    x, length = module.MDMGenerator.batch_generate_with_expand_as_token(own, ids)
    return list(x[0, len(before) : len(before) + length].tolist())


def _sdar(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    module = published(folder, "sdar_generate")

    def most_likely(logits: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        best = logits.softmax(-1).max(-1)
        return best.indices, best.values

    module.sample_with_temperature_topk_topp = most_likely
    c, static = case.config, case.name.endswith("static")
    x = module.block_diffusion_generate(
        model, {"input_ids": torch.tensor([before])}, MASK, gen_length=c.max_tokens,
        block_length=4, denoising_steps=c.denoising_steps or 4,
        remasking_strategy="low_confidence_static" if static else "low_confidence_dynamic",
        confidence_threshold=c.threshold,
    )  # fmt: skip
    return list(x[0, len(before) : len(before) + c.max_tokens].tolist())


def _llada2(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    sampler = published(folder, "llada2_sampler").LLaDA2Sampler()
    sampler.model = model
    sampler.tokenizer = SimpleNamespace(mask_token_id=MASK, eos_token_id=END)
    most = case.config.max_tokens
    x = sampler.sample(
        [torch.tensor(before)], block_size=4, steps_per_block=4, max_new_tokens=most,
        threshold=case.config.threshold, return_dict=False,
    )  # fmt: skip
    return list(x[0, len(before) : len(before) + most].tolist())


def _llada21(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    sampler = published(folder, "llada21_sampler").LLaDA21Sampler()
    sampler.model = model
    sampler.tokenizer = SimpleNamespace(mask_token_id=MASK, eos_token_id=END)
    c = case.config
    x = sampler.sample(
        [torch.tensor(before)], block_size=4, max_new_tokens=c.max_tokens, threshold=c.threshold,
        editing_threshold=c.edit_threshold, return_dict=False,
    )  # fmt: skip
    return list(x[0, len(before) : len(before) + c.max_tokens].tolist())


def _llada22(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    c, size = case.config, 4
    settings = {"threshold": c.threshold, "edit_threshold": c.edit_threshold}
    algorithm = published(folder, "indel").JointThresholdInDel(
        SimpleNamespace(
            algorithm_config=settings, block_size=size, mask_id=MASK, delete_token_id=DELETE,
            split_token_id=SPLIT, first_done_first_out_mode=False,
        )
    )  # fmt: skip
    tokens = list(before)
    while len(tokens) < len(before) + c.max_tokens:
        start = len(tokens) // size * size
        block = torch.tensor([*tokens[start:], *[MASK] * (start + size - len(tokens))])
        batch = SimpleNamespace(batch_size=1, input_ids=block, dllm_prompt_mask=None)
        states = algorithm.init_step_state(batch)
        while not states[0]["finished"]:
            whole = torch.cat([torch.tensor(tokens[:start], dtype=torch.int64), batch.input_ids])
            algorithm.step(batch, model.full(whole[None])[0, start:], states)
        tokens[start:] = batch.input_ids.tolist()
    return tokens[len(before) : len(before) + c.max_tokens]


class Finite(Whole):
    """With the mask so unlikely that it counts for nothing: entropies are of all tokens."""

    def full(self, x: Tensor) -> Tensor:
        return super().full(x).clamp(min=-1e9)


def _rnd1(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    c = case.config
    x = published(folder, "rnd_sampling").diffusion_sample(
        Finite(case), seq_len=len(before) + c.max_tokens, num_steps=c.denoising_steps,
        mask_token_id=MASK, prefix_ids=torch.tensor([before]), infill_length=c.max_tokens,
        eos_token_id=None, pad_token_id=-1, device="cpu",
    )  # fmt: skip
    return list(x[0, len(before) : len(before) + c.max_tokens].tolist())


def _a2d(case: Case, model: Whole, folder: Path, before: Any, after: Any) -> list[int]:
    sampler = published(folder, "bd3lm").BD3LMSampler()
    sampler.model = model
    sampler.scheduler = sys.modules["published_alpha"].LinearAlphaScheduler()
    sampler.tokenizer = SimpleNamespace(
        mask_token_id=MASK, eos_token_id=None, pad_token_id=92, bos_token_id=None
    )
    x = sampler.sample(
        [torch.tensor(before)], block_size=4, steps_per_block=case.config.denoising_steps,
        max_new_tokens=case.config.max_tokens, return_dict=False,
    )  # fmt: skip
    return list(x[0, len(before) :].tolist())


def main() -> None:
    folder = Path(sys.argv[1])
    stand_in(folder)
    found: dict[str, np.ndarray] = {}
    if chosen := set(sys.argv[2:]):
        with np.load(FOLDER / "generation.npz") as stored:
            found = dict(stored)
    for case in CASES.values():
        if case.name == "fast-dllm" or case.family == "nemotron":
            continue
        if chosen and case.name not in chosen:
            continue
        rows = run(case, folder)
        table = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int16)
        for row, tokens in zip(table, rows, strict=True):
            row[: len(tokens)] = tokens
        found[case.name] = table
        print(case.name, table.shape, sorted({len(row) for row in rows}))
    np.savez_compressed(FOLDER / "generation.npz", **found)


if __name__ == "__main__":
    main()
