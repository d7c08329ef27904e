"""How far the logits of a family's tiny checkpoint are from those of its reference.

The reference is a stored output of the published code (`references/`, see
`make_family_references`), or, where transformers has the body, that body with the family's mask.

    python -m tests.parity.family_parity    # writes results.json, from which docs are made
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from blockdiff.config import DecodingConfig, Mode
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.hub_config import kind_of
from blockdiff.model.load.kinds import AttentionPattern, Body, DiffusionKind
from blockdiff.model.transformer import Transformer
from tests.parity.family_checkpoints import (
    CHECKPOINTS,
    LENGTH,
    PADDING,
    VOCABULARY,
    Tiny,
    tokens,
)
from tests.parity.plain_llada2 import PlainLLaDA2
from tests.unit.tiny import last, sampler

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
TOLERANCE = 1e-4
Maker = Callable[[int, int], Tensor]
_BLOCK = 8  # a multiple of every block size here
_BODIES = {
    Body.LLAMA: ("llama", "LlamaForCausalLM"),
    Body.QWEN2: ("qwen2", "Qwen2ForCausalLM"),
    Body.QWEN3: ("qwen3", "Qwen3ForCausalLM"),
    Body.QWEN3_MOE: ("qwen3_moe", "Qwen3MoeForCausalLM"),
    Body.NEMOTRON: ("ministral3", "Ministral3ForCausalLM"),
    Body.STARCODER2: ("starcoder2", "Starcoder2ForCausalLM"),
}
POSITIONS = torch.stack(
    [torch.arange(LENGTH), (torch.arange(LENGTH) - PADDING).clamp(min=0)]
)  # of a row without padding and of one with it


def measure(tiny: Tiny, folder: Path) -> dict[str, float]:
    """Largest deviation of any logit: `logits`, `padded` and, where there is a cache, `cached`."""
    tiny.write(folder / "ours")
    kind = kind_of(folder / "ours")
    model = load_transformer(folder / "ours", dtype=torch.float32)
    found = _deviations(tiny, kind, model, folder / "theirs")
    if kind.attention is AttentionPattern.CAUSAL_BLOCK:  # and as it verifies
        causal = replace(kind, attention=AttentionPattern.CAUSAL, block_size=1)
        for name, value in _deviations(tiny, causal, model, folder / "theirs").items():
            found[name] = max(found[name], value)
    return found


def _deviations(
    tiny: Tiny, kind: DiffusionKind, model: Transformer, folder: Path
) -> dict[str, float]:
    if model.config.experts is not None and model.config.experts.capacity:
        theirs = routed_by_blocks(tiny, kind)
    else:
        theirs = stored(tiny) if tiny.stored else live(tiny, kind, folder)
    ids, build = tokens(tiny.family), builder(kind)
    with torch.no_grad():
        full = model(ids, torch.arange(LENGTH)[None], build(0, LENGTH))
        positions = _places(model, 0, LENGTH, [0, PADDING])
        padded = model(ids, positions, padded_mask(build, 0, LENGTH, [0, PADDING]))
        found = {
            "logits": _distance(full, theirs["full"]),
            "padded": _distance(padded, theirs["padded"], PADDING),
        }
        if "cached" in theirs:
            found["cached"] = max(
                _distance(cached(model, ids[:1], build, size), theirs["cached"])
                for size in (kind.block_size or 1, _BLOCK)
            )
            if kind.attention is not AttentionPattern.CAUSAL_BLOCK:  # its last block is another
                again = _padded_cached(model, ids, build, theirs["full"])
                found["padded"] = max(found["padded"], again)
    assert full.std() > 0.3, "logits too alike to compare"
    return found


def builder(kind: DiffusionKind) -> Maker:
    """The mask of the family by (past, new)."""
    if kind.attention is AttentionPattern.BLOCK:
        assert kind.block_size is not None
        return partial(_blocks, kind.block_size)
    if kind.attention is AttentionPattern.CAUSAL_BLOCK:
        assert kind.block_size is not None
        return partial(_opening, kind.block_size)
    return masks.causal if kind.attention is AttentionPattern.CAUSAL else masks.full


def _places(model: Transformer, past: int, new: int, padding: Sequence[int]) -> Tensor:
    """Positions (batch, new) of rows that begin with padding.

    Padding is at 0, but where positions decide which tokens are routed together: it is below there.
    """
    places = torch.arange(past, past + new) - torch.tensor(padding)[:, None]
    experts = model.config.experts
    return places if experts is not None and experts.capacity else places.clamp(min=0)


def _opening(size: int, past: int, new: int) -> Tensor:
    """Causal, but for the last block of all."""
    if past + new not in (LENGTH, LENGTH - PADDING):
        return masks.causal(past, new)
    return masks.opening(past, new - size, size)


def padded_mask(build: Maker, past: int, new: int, padding: Sequence[int]) -> Tensor:
    """The mask of a batch of rows that begin with padding.

    Each row has the mask of its tokens alone: nothing sees padding, and blocks count from the first
    token. A padding position sees itself only, so that its attention is defined.

    Args:
        build: the mask of a row by (past, new).
        padding: of each row, how many of its past + new positions are padding.

    Returns:
        (batch, 1, new, past + new)
    """
    rows = []
    for count in padding:
        skipped = min(max(count - past, 0), new)  # padding among the new positions
        row = torch.zeros(new, past + new, dtype=torch.bool)
        row[:, past:].fill_diagonal_(True)
        if skipped < new:
            row[skipped:, count:] = build(max(past - count, 0), new - skipped)
        rows.append(row)
    return torch.stack(rows)[:, None]


def _blocks(size: int, past: int, new: int) -> Tensor:
    return masks.block(past, new, size)


def cached(
    model: Transformer, ids: Tensor, build: Maker, size: int, padding: tuple[int, ...] = (0,)
) -> Tensor:
    """Logits of a pass that commits `size` positions at a time; rows begin with padding."""
    cache, parts = BlockCache(model.config, batch=len(ids), capacity=4), []
    for start in range(0, LENGTH, size):
        mask = padded_mask(build, start, size, padding)
        positions = _places(model, start, size, padding)
        parts.append(model(ids[:, start : start + size], positions, mask, cache))
        cache.commit(size)
    return torch.cat(parts, dim=1)


def _padded_cached(model: Transformer, ids: Tensor, build: Maker, full: Tensor) -> float:
    """Of a batch whose second row begins with a block of padding, block by block."""
    moved = ids.clone()
    moved[1, _BLOCK:] = ids[1, :-_BLOCK]
    found = cached(model, moved, build, _BLOCK, (0, _BLOCK))
    found[1] = found[1].roll(-_BLOCK, dims=0)
    found[1, -_BLOCK:] = full[1, -_BLOCK:]  # what moved out of the row
    return _distance(found, full)


def stored(tiny: Tiny) -> dict[str, Tensor]:
    with np.load(HERE / "references" / f"{tiny.family}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def live(tiny: Tiny, kind: DiffusionKind, folder: Path) -> dict[str, Tensor]:
    """The same weights in the body of transformers, with the family's mask spelled out."""
    model = body(tiny, kind, folder)
    ids = tokens(tiny.family)
    causal = kind.attention is AttentionPattern.CAUSAL  # theirs, its sliding window included
    real = torch.ones(2, LENGTH, dtype=torch.long)
    real[1, :PADDING] = 0
    rows = torch.stack([oracle(kind, 0), oracle(kind, PADDING)])[:, None]
    with torch.no_grad():
        found = {
            "full": model(ids, attention_mask=None if causal else additive(rows[:1])).logits,
            "padded": model(
                ids, attention_mask=real if causal else additive(rows), position_ids=POSITIONS
            ).logits,
        }
        if kind.block_size is not None:
            cache, parts = DynamicCache(config=model.config), []
            for start in range(0, LENGTH, kind.block_size):
                end = start + kind.block_size
                mask = None if causal else additive(rows[:1, :, start:end, :end])
                out = model(ids[:1, start:end], attention_mask=mask, past_key_values=cache)
                parts.append(out.logits)
            found["cached"] = torch.cat(parts, dim=1)
    return found


def body(tiny: Tiny, kind: DiffusionKind, folder: Path) -> PreTrainedModel:
    model_type, name = _BODIES[kind.body]
    tiny.write(folder)
    if kind.body is Body.NEMOTRON:  # named otherwise
        names = {name: name.replace("encoder.", "model.") for name in tiny.shapes}
        names["diffusion_head.weight"] = "lm_head.weight"
        save_file(
            {names[name]: tensor for name, tensor in tiny.weights().items()},
            folder / "model.safetensors",
        )
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    config = {k: v for k, v in tiny.config.items() if k not in ("auto_map", "block_size")}
    config |= {"architectures": [name], "model_type": model_type}
    if tiny.family == "coda":
        config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    loaded: PreTrainedModel = getattr(transformers, name).from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    return loaded.eval()


def oracle(kind: DiffusionKind, padding: int) -> Tensor:
    """(LENGTH, LENGTH): who sees whom, entry by entry."""
    size = LENGTH if kind.block_size is None else kind.block_size
    seen = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    for query in range(LENGTH):
        for key in range(LENGTH):
            before = (key - padding) // size <= (query - padding) // size
            if kind.attention is AttentionPattern.CAUSAL_BLOCK:
                before = key <= query or query >= LENGTH - size
            within = key >= padding and before
            seen[query, key] = key == query if query < padding else within
    return seen


def routed_by_blocks(tiny: Tiny, kind: DiffusionKind) -> dict[str, Tensor]:
    """What `plain_llada2` says, each row by itself."""
    ids, size = tokens(tiny.family), kind.block_size
    assert size is not None
    plain = PlainLLaDA2(tiny.config, tiny.weights())
    full = torch.stack([plain.logits(row, masks.block(0, LENGTH, size)) for row in ids])
    padded = torch.zeros_like(full)
    padded[0] = full[0]
    padded[1, PADDING:] = plain.logits(ids[1, PADDING:], masks.block(0, LENGTH - PADDING, size))
    return {"full": full, "padded": padded, "cached": full[:1]}


def additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def _distance(ours: Tensor, theirs: Tensor, padding: int = 0) -> float:
    """Largest absolute difference; the second row begins with padding, which counts for nothing."""
    difference = (ours - theirs).abs()
    difference[1:, :padding] = 0
    return float(difference.max())


def generation() -> dict[str, list[int]]:
    """Of each published loop, how many prompts end in its very text, and of how many."""
    from tests.parity import test_generation_parity as loops

    found = {}
    for name, case in loops.CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = load_transformer(case.write(Path(folder)), dtype=torch.float32)
        prompts = case.prompts()
        if name in loops.PUBLISHED:
            rows = loops.references()[name]
            theirs = [[int(token) for token in row if token >= 0] for row in rows]
        else:
            theirs = [loops.plain(case, model, before) for before, _ in prompts]
        ours = [loops.written(case, model, *prompt) for prompt in prompts]
        found[name] = [sum(a == b for a, b in zip(ours, theirs, strict=True)), len(prompts)]
    for family, tiny in CHECKPOINTS.items():
        if family.startswith("ar "):
            with tempfile.TemporaryDirectory() as folder:
                found[family] = greedy(tiny, Path(folder))
    return found


def drafters() -> dict[str, Any]:
    """Of each drafter, how far its logits are from the published ones, and how many of how many
    blocks are those."""
    from tests.parity import test_drafter_parity as blocks

    found = {}
    for name in blocks.DRAFTERS:
        with tempfile.TemporaryDirectory() as folder:
            logits, _, same = blocks.measure(name, Path(folder))
        found[name] = {"logits": float(f"{logits:.0e}"), "blocks": same}
    return found


def greedy(tiny: Tiny, folder: Path, prompts: int = 20, length: int = 16) -> list[int]:
    """As `generation`, of the mode `ar` and what transformers generates."""
    tiny.write(folder / "ours")
    model = load_transformer(folder / "ours", dtype=torch.float32)
    theirs = body(tiny, kind_of(folder / "ours"), folder / "theirs")
    decoding, stream = DecodingConfig(mode=Mode.AR, max_tokens=length), np.random.RandomState(7)
    same = 0
    for _ in range(prompts):
        prompt = stream.randint(0, VOCABULARY, stream.randint(1, 20)).tolist()
        ours = last(sampler(model, None, decoding).run(prompt)).tokens
        given = torch.tensor([prompt])
        expected = theirs.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, eos_token_id=None,
            max_new_tokens=length, pad_token_id=0,
        )  # fmt: skip
        same += list(ours) == expected[0, len(prompt) :].tolist()
    return [same, prompts]


def main() -> None:
    logits: dict[str, Any] = {}
    for family, tiny in CHECKPOINTS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measure(tiny, Path(folder))
        reference = "published code" if tiny.stored else f"transformers {transformers.__version__}"
        if "expert_capacity" in tiny.config:
            reference = "a plain loop of the published routing"
        logits[family] = {k: float(f"{v:.0e}") for k, v in found.items()}
        logits[family]["reference"] = reference
        print(family, logits[family])
    results = {"logits": logits, "generation": generation(), "drafters": drafters()}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
