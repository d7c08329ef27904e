"""DiffusionGemma: its own loop is the special case without text behind the hole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from blockdiff.config import DecodingConfig, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma, load_diffusion_gemma
from blockdiff.diffusion.dllm.uniform import UniformConfig, denoise, within_bound
from blockdiff.diffusion.dllm.uniform_sampler import UniformSampler
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.errors import Cancelled, InvalidRequest, ModelCorrupt, ModelUnsupported
from blockdiff.model.cache import BlockCache
from tests.unit import gemma_folder

CANVAS, VOCABULARY = 12, 64
PROMPT = [5, 9, 33, 7, 21, 40, 3, 18, 11, 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    return gemma_folder.write(folder, canvas=CANVAS, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusionGemma:
    return load_diffusion_gemma(folder, dtype=torch.float32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("bound", "steps"), [(2.0, 8), (1000.0, 24)])
def test_a_canvas_is_denoised_as_transformers_does_it(
    bound: float, steps: int, folder: Path, model: DiffusionGemma
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
        read = model.read(PROMPT)
        snapshots = list(denoise(model, read, CANVAS, [], config=config, random=seeded(seed)))
        assert list(snapshots[-1].tokens) == expected.tolist()
        assert all(snapshots[-1].settled) and snapshots[-1].ended
        assert not any(any(snapshot.settled) for snapshot in snapshots[:-1])
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


def test_an_answer_of_several_canvases_is_written_as_transformers_does_it(
    folder: Path, model: DiffusionGemma
) -> None:
    """Each canvas is read before the next; the ends of a text are theirs, too."""
    theirs = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=torch.float32).eval()
    lengths = set()
    for seed in range(4):
        for stop in ((), (7, 20)):
            torch.manual_seed(seed)
            expected = theirs.generate(
                torch.tensor([PROMPT]), max_new_tokens=3 * CANVAS, max_denoising_steps=6,
                sampler_config=EntropyBoundSamplerConfig(2.0), t_min=0.4, t_max=0.8,
                stability_threshold=1, confidence_threshold=0.005,
                eos_token_id=list(stop) or None, pad_token_id=None,
            ).sequences[0, len(PROMPT) :].tolist()  # fmt: skip
            ends = [at for at, token in enumerate(expected) if token in stop]
            *_, last = answer(model, seed=seed, stop=stop, max_tokens=3 * CANVAS)
            assert list(last.tokens) == expected[: min(ends, default=None)]
            assert all(last.settled) and last.ended == bool(ends)
            lengths.add(len(last.tokens))
    assert len(lengths) > 2 and max(lengths) == 3 * CANVAS


def answer(
    model: DiffusionGemma, stop: Sequence[int] = (), after: Sequence[int] = (), **config: Any
) -> Iterator[Snapshot]:
    cancelled = config.pop("cancelled", lambda: False)
    config = {"max_tokens": CANVAS, **config}
    cache = BlockCache(model.config)
    sampler = UniformSampler(
        model, cache, Chooser([]), frozenset(stop), DecodingConfig(**config), cancelled, after
    )
    yield from sampler.run(PROMPT)
    assert cache.length == 0


def test_text_behind_the_hole_is_pinned_and_read(model: DiffusionGemma) -> None:
    """It never changes, it changes what is written, and no step takes it for noise."""
    canvases: list[torch.Tensor] = []

    class Watched(DiffusionGemma):
        def logits(
            self, read: Any, canvas: torch.Tensor, conditioning: torch.Tensor | None
        ) -> torch.Tensor:
            canvases.append(canvas.clone())
            if conditioning is not None:
                shares = conditioning.softmax(-1)[0, 4 : 4 + len(after)]
                assert shares.argmax(-1).tolist() == after
                assert torch.equal(shares.amax(-1), torch.ones(len(after)))
            return super().logits(read, canvas, conditioning)

    texts = set()
    watched = Watched(model._model, model.config, model.settings)
    read = watched.read(PROMPT)
    for after in ([1, 2, 3, 4, 5], [50, 51, 52, 53, 54]):
        canvases.clear()
        config = UniformConfig(steps=6, sure=0.0)
        snapshots = list(denoise(watched, read, 4, after, config=config, random=seeded(0)))
        assert len(snapshots) == len(canvases) == 6
        assert all(canvas[0, 4:9].tolist() == after for canvas in canvases)
        assert all(len(snapshot.tokens) == 4 for snapshot in snapshots)
        texts.add(tuple(snapshot.tokens for snapshot in snapshots))
    assert len(texts) == 2


def test_a_canvas_reads_the_cache_and_does_not_write_it(model: DiffusionGemma) -> None:
    read, canvas = model.read(PROMPT), torch.zeros(1, CANVAS, dtype=torch.long)
    first = model.logits(read, canvas, None)
    model.logits(read, canvas + 1, first)
    assert torch.equal(model.logits(read, canvas, None), first)
    other = model.logits(model.read(PROMPT[:4]), canvas, None)
    assert not torch.equal(other, first)
    rest = model.read(PROMPT[4:], model.read(PROMPT[:4]))  # beyond the window of some layers
    assert torch.allclose(model.logits(rest, canvas, None), first, atol=1e-4)


@pytest.mark.parametrize("behind", [0, 1, 5, 2 * CANVAS])
def test_a_hole_and_what_stands_behind_it_share_a_canvas(
    behind: int, model: DiffusionGemma
) -> None:
    """However much is asked for; a part of the canvas is for the text behind the hole."""
    after = [11] * behind or [9]
    *_, last = answer(model, after=after, stop=(1, 2, 3), max_tokens=500)
    assert 1 <= len(last.tokens) <= CANVAS - min(len(after), CANVAS // 4)
    assert last.ended and not {1, 2, 3} & set(last.tokens)


@pytest.mark.parametrize("after", [(), (4, 5)])
def test_a_request_can_be_given_up_between_any_two_forwards(
    after: tuple[int, ...], model: DiffusionGemma
) -> None:
    for forwards in range(8):
        flags = map(forwards.__le__, range(100))
        with pytest.raises(Cancelled):
            list(answer(model, after=after, denoising_steps=9, cancelled=flags.__next__))


def test_what_a_request_says_of_sampling_counts(model: DiffusionGemma) -> None:
    """Against the checkpoint's own settings: steps, the bound, a temperature, a nucleus."""
    texts = {}
    for name, config in {
        "own": {}, "steps": {"denoising_steps": 3}, "hot": {"temperature": 5.0},
        "bound": {"rule": Rule.ENTROPY_BOUND, "entropy_bound": 1e-6},
        "nucleus": {"temperature": 5.0, "top_p": 0.05},
    }.items():  # fmt: skip
        found = list(answer(model, seed=3, **config))
        assert found[-1].forwards <= config.get("denoising_steps", model.settings.steps)
        texts[name] = tuple(snapshot.tokens for snapshot in found)
    assert len(set(texts.values())) == len(texts)
    for rule in (Rule.SCHEDULE, Rule.EDIT, Rule.SYNTAX):
        with pytest.raises(InvalidRequest, match="settles masks"):
            next(answer(model, max_tokens=4, rule=rule))
    with pytest.raises(InvalidRequest, match=f"canvases of {CANVAS}"):
        next(answer(model, max_tokens=4, block_size=4))


def damaged(source: Path, folder: Path, **changes: Any) -> Path:
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    for name in ("model.safetensors", "generation_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
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
    kind = ModelUnsupported if damage == "unexpected" else ModelCorrupt
    with pytest.raises(kind) as caught:
        load_diffusion_gemma(tmp_path, dtype=torch.float32)
    assert str(tmp_path) in caught.value.message
    assert name in caught.value.message


def changed(source: Path, folder: Path, part: str, **changes: Any) -> Path:
    inner = json.loads((source / "config.json").read_text())[part]
    return damaged(source, folder, **{part: inner | changes})


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("text_config", {"vocab_size": 10**9}, "vocab_size is 1000000000"),
        ("text_config", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ("text_config", {"num_experts": True}, "num_experts is True"),
        ("text_config", {"hidden_size": "32"}, "hidden_size is '32'"),
        ("text_config", {"num_hidden_layers": 400}, "but 90 tensors are there"),
        ("text_config", {"num_hidden_layers": 4}, "must be equal to the number"),
        ("text_config", {"hidden_size": 30_000}, "do not make a tensor of shape"),
        ("text_config", {"vocab_size": 65}, "do not make a tensor of shape"),
        ("text_config", {"layer_types": ["none"] * 3}, "layer_types"),
        ("text_config", {"rope_parameters": 5}, "rope_parameters"),
        ("text_config", {"per_layer_config": [1]}, "config.json: "),
        ("vision_config", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ("vision_config", {"hidden_size": 2000}, "do not make a tensor of shape"),
    ],
)
def test_a_configuration_that_lies_is_refused_before_weights_are_read(
    part: str, change: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelCorrupt, match=says) as caught:
        load_diffusion_gemma(changed(folder, tmp_path, part, **change), dtype=torch.float32)
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_denoising_steps": 10**9}, "max_denoising_steps is 1000000000"),
        ({"max_denoising_steps": 2.5}, "max_denoising_steps is 2.5"),
        ({"t_min": -1}, "t_min is -1"),
        ({"stability_threshold": -1}, "stability_threshold is -1"),
        ({"confidence_threshold": "x"}, "confidence_threshold is 'x'"),
        ({"sampler_config": {"entropy_bound": 0}}, "entropy_bound is 0"),
    ],
)
def test_settings_that_cannot_be_are_named(
    settings: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    damaged(folder, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelCorrupt, match=says):
        load_diffusion_gemma(tmp_path, dtype=torch.float32)


def test_the_published_settings_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    damaged(folder, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert load_diffusion_gemma(tmp_path, dtype=torch.float32).settings == UniformConfig()
    own = load_diffusion_gemma(folder, dtype=torch.float32).settings
    assert (own.steps, own.entropy_bound) == (6, 2.0)


def test_other_families_images_eight_bits_and_remote_code_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnsupported, match="qwen2"):
        load_diffusion_gemma(damaged(folder, tmp_path, model_type="qwen2"), dtype=torch.float32)
    with pytest.raises(ModelUnsupported, match="of the type 'llava'"):
        other = changed(folder, tmp_path, "vision_config", model_type="llava")
        load_diffusion_gemma(other, dtype=torch.float32)
    for part in ("text_config", "vision_config"):
        with pytest.raises(ModelCorrupt, match=f"lacks the key '{part}'"):
            load_diffusion_gemma(damaged(folder, tmp_path, **{part: None}), dtype=torch.float32)
    with pytest.raises(ModelUnsupported, match="int8 does not cover"):
        load_diffusion_gemma(folder, dtype=torch.int8)
    trap = tmp_path / "trap"
    damaged(folder, tmp_path, auto_map={"AutoModel": "modeling_remote.Remote"})
    (tmp_path / "modeling_remote.py").write_text(f"open({str(trap)!r}, 'w')\n")
    load_diffusion_gemma(tmp_path, dtype=torch.float32)
    assert not trap.exists()
