"""What approximate caches change, and whether a searched length is the true one.

    python -m tests.bench.reuse

A small bidirectional model learns a toy language (`tests/unit/tiny.py`) on the spot, in less than a
minute, and fills holes of known length in lines it has not seen. Printed for every cache: how many
tokens are those of the exact one, how many are right, and how far a probability is off when half
of a hole has settled. Last, how often the calibrated search finds the true length, though its bias
was fitted to code. No published checkpoint is needed, and none is spoken for.
"""

from __future__ import annotations

import random

import torch
from torch.nn import functional as F

from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.readers import CanvasReader, KeptReader
from blockdiff.diffusion.dllm.sampler import AbsorbingSampler
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.load.kinds import AttentionPattern, Body, DiffusionKind, Family
from blockdiff.model.transformer import Transformer
from tests.unit import tiny

MASK, HOLES, STEPS = 21, 60, 600
KIND = DiffusionKind(Family.LLADA, Body.QWEN2, AttentionPattern.FULL, False, MASK, None)


def trained(steps: int) -> Transformer:
    """Masked diffusion as in LLaDA: a share t of the tokens is masked, weighted by 1 / t."""
    torch.manual_seed(0)
    model = Transformer(tiny.TOY_SHAPE)
    with torch.no_grad():
        model.embedding.weight.mul_(0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    encode, rng = tiny.Letters().encode, random.Random(0)
    positions = torch.arange(48)[None]
    for _ in range(steps):
        lines = ["\n".join(tiny.toy_line(rng, 24) for _ in range(2))[:48] for _ in range(16)]
        tokens = torch.tensor([encode(line) for line in lines])
        share = torch.rand(len(tokens), 1) * 0.9 + 0.1
        masked = torch.rand(tokens.shape) < share
        logits = model(tokens.masked_fill(masked, MASK), positions, masks.full(0, 48))
        loss = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
        loss = (loss * masked / share).sum() / masked.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def filled(
    model: Transformer, before: list[int], after: list[int], reuse: Reuse, length: int | None
) -> list[int]:
    config = DecodingConfig(
        mode=Mode.DIFFUSION, rule=Rule.SCHEDULE, block_size=4, max_tokens=24, cache=reuse
    )
    sampler = AbsorbingSampler(
        model=model, kind=KIND, cache=BlockCache(model.config, capacity=1),
        chooser=Chooser([MASK]), stop=frozenset(), config=config, cancelled=lambda: False,
        after=after, length=length,
    )  # fmt: skip
    return list(tiny.last(sampler.run(before)).tokens)


def shifted_probability(model: Transformer, before: list[int], hole: list[int], after: list[int],
                        both: bool) -> float:  # fmt: skip
    """The largest change of a probability when half of a hole has settled since the first step."""
    kept, exact = KeptReader(model, False, both), CanvasReader(model, False)
    window = (len(before), len(before) + len(hole))
    kept.logits([*before, *[MASK] * len(hole), *after], *window)
    half = [token if i % 2 else MASK for i, token in enumerate(hole)]
    sequence = [*before, *half, *after]
    one, other = kept.logits(sequence, *window), exact.logits(sequence, *window)
    return float((one.softmax(-1) - other.softmax(-1)).abs().max())


def main() -> None:
    torch.manual_seed(0)
    model, rng = trained(STEPS), random.Random(99)
    encode = tiny.Letters().encode
    holes = []
    for _ in range(HOLES):
        line, length = encode(tiny.toy_line(rng, 40)), rng.choice((4, 8, 12))
        start = rng.randrange(6, 40 - length - 6)
        holes.append((line[:start], line[start : start + length], line[start + length :]))
    with torch.inference_mode():
        texts = {
            reuse: [filled(model, b, a, reuse, len(hole)) for b, hole, a in holes]
            for reuse in Reuse
        }
        total = sum(len(hole) for _, hole, _ in holes)
        for reuse, found in texts.items():
            same = sum(x == y for r, e in zip(found, texts[Reuse.EXACT], strict=True)
                       for x, y in zip(r, e, strict=True))  # fmt: skip
            right = sum(x == y for r, (_, hole, _) in zip(found, holes, strict=True)
                        for x, y in zip(r, hole, strict=True))  # fmt: skip
            line = f"{reuse.value:<20} as exact {same / total:6.1%}  right {right / total:6.1%}"
            if reuse is not Reuse.EXACT:
                apart = [shifted_probability(model, *h, reuse is Reuse.DUAL) for h in holes]
                middle = sorted(apart)[len(apart) // 2]
                line += f"  probability apart: median {middle:.3f}, most {max(apart):.3f}"
            print(line)
        searched = [len(filled(model, b, a, Reuse.EXACT, None)) for b, _, a in holes]
    hits = sum(n == len(hole) for n, (_, hole, _) in zip(searched, holes, strict=True))
    near = sum(abs(n - len(h)) <= 2 for n, (_, h, _) in zip(searched, holes, strict=True))
    print(f"searched length      exact {hits / HOLES:6.1%}  within two {near / HOLES:6.1%}")


if __name__ == "__main__":
    main()
