"""DiffusionGemma: its own loop is the special case without text behind the hole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma, load_diffusion_gemma
from blockdiff.diffusion.dllm.uniform import UniformConfig, denoise, within_bound
from blockdiff.errors import Cancelled, InvalidRequest, ModelCorrupt, ModelUnsupported

CANVAS, VOCABULARY = 12, 64
PROMPT = [5, 9, 33, 7, 21, 40, 3, 18, 11, 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of every kind of layer that the published checkpoint has."""
    text = DiffusionGemmaTextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, global_head_dim=16,
        num_global_key_value_heads=1, sliding_window=8, num_experts=4, top_k_experts=2,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        moe_intermediate_size=16, max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip
    vision = Gemma4VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, global_head_dim=8,
    )  # fmt: skip
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=CANVAS)
    torch.manual_seed(0)
    model = DiffusionGemmaForBlockDiffusion(config)
    with torch.no_grad():
        model.model.decoder.norm.weight.mul_(20.0)  # so that it is sure of some tokens
    folder = tmp_path_factory.mktemp("gemma")
    model.save_pretrained(folder)
    return folder


def read(folder: Path) -> DiffusionGemma:
    model = load_diffusion_gemma(folder, dtype=torch.float32)
    model.read(PROMPT)
    return model


@pytest.mark.parametrize(("bound", "steps"), [(2.0, 8), (1000.0, 24)])
def test_a_canvas_is_denoised_as_transformers_does_it(
    bound: float, steps: int, folder: Path
) -> None:
    """The first bound accepts some tokens of a step; under the second, which accepts all, random
    weights come to rest, and the loop stops early."""
    theirs = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=torch.float32).eval()
    lengths = set()
    config = UniformConfig(steps=steps, entropy_bound=bound, sure=4.0)
    for seed in range(6):
        torch.manual_seed(seed)
        expected = theirs.generate(
            torch.tensor([PROMPT]), max_new_tokens=CANVAS, max_denoising_steps=steps,
            sampler_config=EntropyBoundSamplerConfig(bound),
            t_min=0.4, t_max=0.8, stability_threshold=1, confidence_threshold=4.0,
            eos_token_id=None, pad_token_id=None,
        ).sequences[0, len(PROMPT) :]  # fmt: skip
        snapshots = list(denoise(read(folder), CANVAS, [], config=config, seed=seed))
        assert list(snapshots[-1].tokens) == expected.tolist()
        assert all(snapshots[-1].settled) and snapshots[-1].ended
        lengths.add(len(snapshots))
    assert (min(lengths) < steps) == (bound > 100)


def test_the_surest_are_accepted_while_those_before_them_are_within_the_bound() -> None:
    entropy = torch.tensor([[0.5, 0.0, 0.3, 2.0, 0.1]])
    for bound in (0.0, 0.05, 0.1, 0.3, 0.41, 0.9, 5.0):
        expected, spent = set(), 0.0
        for at in sorted(range(5), key=lambda at: float(entropy[0, at])):
            if spent <= bound + 1e-7:
                expected.add(at)
            spent += float(entropy[0, at])
        found = within_bound(entropy, bound + 1e-7)[0]
        assert set(found.nonzero()[:, 0].tolist()) == expected, bound


def test_text_behind_the_hole_is_pinned_and_read(folder: Path) -> None:
    """It never changes, it changes what is written, and no step takes it for noise."""
    canvases: list[torch.Tensor] = []

    class Watched(DiffusionGemma):
        def logits(
            self, canvas: torch.Tensor, conditioning: torch.Tensor | None
        ) -> torch.Tensor:
            canvases.append(canvas.clone())
            if conditioning is not None:
                shares = conditioning.softmax(-1)[0, 4 : 4 + len(after)]
                assert shares.argmax(-1).tolist() == after
                assert torch.equal(shares.amax(-1), torch.ones(len(after)))
            return super().logits(canvas, conditioning)

    texts = set()
    for after in ([1, 2, 3, 4, 5], [50, 51, 52, 53, 54]):
        model = Watched(read(folder)._model)
        model.read(PROMPT)
        canvases.clear()
        snapshots = list(denoise(model, 4, after, config=UniformConfig(steps=6, sure=0.0)))
        assert len(snapshots) == len(canvases) == 6
        assert all(canvas[0, 4:9].tolist() == after for canvas in canvases)
        assert all(len(snapshot.tokens) == 4 for snapshot in snapshots)
        texts.add(tuple(snapshot.tokens for snapshot in snapshots))
    assert len(texts) == 2


def test_the_cache_is_read_and_not_written(folder: Path) -> None:
    model = read(folder)
    canvas = torch.zeros(1, CANVAS, dtype=torch.long)
    first = model.logits(canvas, None)
    model.logits(canvas + 1, first)
    assert model.length == len(PROMPT)
    assert torch.equal(model.logits(canvas, None), first)
    model.read(PROMPT[:4])
    assert model.length == 4
    assert not torch.equal(model.logits(canvas, None), first)


def test_a_hole_has_to_fit_and_can_be_given_up(folder: Path) -> None:
    model = read(folder)
    for hole, after in ((CANVAS + 1, 0), (CANVAS, 1), (0, 3)):
        with pytest.raises(InvalidRequest, match=f"do not fit into {CANVAS}"):
            next(denoise(model, hole, [1] * after))
    flags = iter([False, False, True])
    run = denoise(model, 4, [], cancelled=lambda: next(flags))
    next(run)
    next(run)
    with pytest.raises(Cancelled):
        next(run)


def damaged(source: Path, folder: Path, **changes: Any) -> Path:
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize("damage", ["missing", "unexpected", "mismatched", "NaN"])
def test_a_damaged_tensor_is_named(damage: str, folder: Path, tmp_path: Path) -> None:
    damaged(folder, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.decoder.layers.1.self_attn.o_proj.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "unexpected":
        name = "model.decoder.layers.1.sinks"
        weights[name] = torch.ones(3)
    elif damage == "mismatched":
        weights[name] = weights[name][:-1].contiguous()
    else:
        weights[name][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelCorrupt) as caught:
        load_diffusion_gemma(tmp_path, dtype=torch.float32)
    assert str(tmp_path) in caught.value.message
    assert name in caught.value.message


def test_absurd_sizes_other_families_and_remote_code_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    for key in ("vocab_size", "num_hidden_layers", "num_experts"):
        with pytest.raises(ModelCorrupt, match=f"{key} is 1000000000"):
            changed = damaged(folder, tmp_path, text_config=text | {key: 10**9})
            load_diffusion_gemma(changed, dtype=torch.float32)
    with pytest.raises(ModelUnsupported, match="qwen2"):
        changed = damaged(folder, tmp_path, model_type="qwen2")
        load_diffusion_gemma(changed, dtype=torch.float32)
    trap = tmp_path / "trap"
    damaged(folder, tmp_path, auto_map={"AutoModel": "modeling_remote.Remote"})
    (tmp_path / "modeling_remote.py").write_text(f"open({str(trap)!r}, 'w')\n")
    load_diffusion_gemma(tmp_path, dtype=torch.float32)
    assert not trap.exists()
