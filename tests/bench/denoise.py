"""A denoising step beside the reference: `python -m tests.bench.denoise`.

Random weights in the shape of Open-dCoder 0.5B (Qwen2.5-0.5B), read by both from one folder. The
reference is transformers' Qwen2 with full attention under the loop that is published with the
model: logits of the whole canvas, shifted, the masks ranked by entropy, so many settled in a step.
Ours is the sampler as it serves requests. Both fill the same hole in turn, and a step is a fill
divided by its steps; what is printed are medians and their ratio, and both texts have to be equal
in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.sampler import AbsorbingSampler
from blockdiff.model.cache import BlockCache
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.hub_config import kind_of
from blockdiff.model.transformer import Transformer
from tests.unit.tiny import last

MASK = 151_665
SHAPE = {
    "vocab_size": 151_936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "initializer_range": 0.05,
}  # fmt: skip
Fill = Callable[[], list[int]]


def write(folder: Path, shape: dict[str, object], mask: int) -> Path:
    """A checkpoint in bfloat16 whose logits are far enough apart to be chosen from."""
    torch.manual_seed(0)
    config = Qwen2Config(**shape, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"mask_token_id": mask}))
    return folder


@torch.inference_mode()
def reference(
    model: PreTrainedModel, before: list[int], after: list[int], length: int, steps: int, mask: int
) -> list[int]:
    """The published loop: a forward over everything, then the share of a step settles."""
    ids = torch.tensor([[*before, *[mask] * length, *after]])
    sees_all = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
    times = torch.linspace(1, 1e-3, steps + 1).tolist()
    for step in range(steps):
        masked = ids[0] == mask
        logits = model(ids, attention_mask=sees_all, use_cache=False).logits
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)[0, masked].float()
        logits[:, mask] = -torch.inf
        shares = logits.softmax(dim=-1)
        best = shares.argmax(dim=-1)
        sure = (shares * (shares + 1e-10).log()).sum(dim=-1)
        left = int(masked.sum())
        count = int(left * (1 - times[step + 1] / times[step])) if step < steps - 1 else left
        chosen = sure.topk(count).indices
        places = masked.nonzero()[:, 0][chosen]
        ids[0, places] = best[chosen]
    return ids[0, len(before) : len(before) + length].tolist()


def ours(
    model: Transformer, folder: Path, before: list[int], after: list[int], length: int, steps: int
) -> list[int]:
    kind = kind_of(folder)
    assert kind.mask_token_id is not None
    sampler = AbsorbingSampler(
        model=model,
        kind=kind,
        cache=BlockCache(model.config, capacity=4),
        chooser=Chooser([kind.mask_token_id]),
        stop=frozenset(),
        config=DecodingConfig(
            mode=Mode.DIFFUSION, rule=Rule.SCHEDULE, denoising_steps=steps, block_size=length,
            max_tokens=length,
        ),  # fmt: skip
        cancelled=lambda: False,
        after=after,
        by_entropy=True,
        length=length,
    )
    return list(last(sampler.run(before)).tokens)


def in_turn(ways: dict[str, Fill], rounds: int) -> dict[str, list[float]]:
    """Seconds of every fill; each round has one of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in ways:
        ways[name]()  # memory is mapped, libraries are compiled
    for _ in range(rounds):
        for name, fill in ways.items():
            began = time.perf_counter()
            fill()
            times[name].append(time.perf_counter() - began)
    return times


def main(arguments: list[str] | None = None, shape: dict[str, object] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canvas", type=int, default=256, help="tokens, the hole among them")
    parser.add_argument("--hole", type=int, default=32, help="tokens, 64 at most")
    parser.add_argument("--steps", type=int, default=4, help="of one fill")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    shape = shape or dict(SHAPE)
    mask = min(MASK, int(str(shape["vocab_size"])) - 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(Path(scratch), shape, mask)
        report(folder, mask, options)


def report(folder: Path, mask: int, options: argparse.Namespace) -> None:
    text = torch.randint(0, mask, (options.canvas - options.hole,)).tolist()
    before, after = text[: len(text) * 2 // 3], text[len(text) * 2 // 3 :]
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads, {vars(options)}")
    for dtype in (torch.float32, torch.bfloat16):
        theirs = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        models = {"ours": load_transformer(folder, dtype=dtype)}
        if dtype is torch.bfloat16:
            models["ours, int8"] = load_transformer(folder, dtype=torch.int8)
        ways: dict[str, Fill] = {
            "reference": lambda theirs=theirs: reference(
                theirs.eval(), before, after, options.hole, options.steps, mask
            )
        } | {
            name: lambda model=model: ours(
                model, folder, before, after, options.hole, options.steps
            )
            for name, model in models.items()
        }
        if dtype is torch.float32:
            assert ways["ours"]() == ways["reference"](), "the texts differ"
        times = in_turn(ways, options.rounds)
        medians = {name: statistics.median(found) for name, found in times.items()}
        for name, found in times.items():
            step = [1000 * seconds / options.steps for seconds in found]
            ratio = statistics.median(
                a / b for a, b in zip(found, times["reference"], strict=True)
            )
            print(
                f"{str(dtype).removeprefix('torch.'):9} {name:11} "
                f"{1000 * medians[name] / options.steps:8.0f} ms a step "
                f"({min(step):.0f} to {max(step):.0f}), ratio {ratio:.2f}"
            )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
