"""The laboratory's questions: each a small experiment with a seed, its answer a table."""

from __future__ import annotations

import textwrap
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from blockdiff.eval.infilling import parses
from blockdiff.eval.results import share_interval
from blockdiff.lab.autoregressive import BlockDiffusion
from blockdiff.lab.families import Setting, create
from blockdiff.lab.family import LabFamily, SamplerSettings
from blockdiff.lab.training import Figures, Lab, bits_per_byte, update
from blockdiff.lab.uniform import uniform_noise
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache


@dataclass(frozen=True)
class Asked:
    """Trained families by name, and how many windows, samples or questions a row has."""

    lab: Lab
    names: Sequence[str]
    count: int = 32

    @cached_property
    def judge(self) -> LabFamily:
        return self.lab.trained("ar")

    def windows(self) -> Tensor:
        return self.lab.windows(self.count)

    def free(self, batch: int = 0, length: int = 0) -> Tensor:
        """Templates of which nothing is known, (count, length) unless said."""
        shape = (batch or self.count, length or self.lab.preset.length)
        return torch.full(shape, self.lab.preset.vocab_size)

    def how(self, steps: int, sampler: str = "") -> SamplerSettings:
        return SamplerSettings(steps, torch.Generator().manual_seed(self.lab.seed), sampler)

    @torch.no_grad()
    def described(self, tokens: Tensor) -> Figures:
        """Of texts (batch, length): bits per byte by `ar`, and since text that repeats itself is
        likely, too, the share of distinct tokens; how many have whole lines that are Python."""
        data, g = self.lab.data, torch.Generator()
        texts = [data.text(row) for row in tokens]
        whole = [textwrap.dedent(t[t.find("\n") + 1 : t.rfind("\n") + 1]) for t in texts]
        good = sum(bool(lines.strip()) and parses(lines) for lines in whole)
        return {
            **bits_per_byte(self.judge.bound(tokens, g), data.nbytes(tokens)),
            "distinct": sum(len(row.unique()) for row in tokens) / tokens.numel(),
            **share("parses", good, len(texts)),
        }  # fmt: skip


def share(name: str, count: int | Tensor, of: int | Tensor) -> Figures:
    """A share with its 95% interval, as columns of a row."""
    count, of = int(count), int(of)
    low, high = share_interval(count, of)
    return {name: count / max(of, 1), f"{name}_low": low, f"{name}_high": high, f"{name}_of": of}


def steps(asked: Asked) -> Iterator[Figures]:
    """Samples by each sampler against steps; by the usual one also against batch and length."""
    length, count = asked.lab.preset.length, asked.count
    yield {"family": "real text", **asked.described(asked.windows())}
    for name in asked.names:
        family = asked.lab.trained(name)
        counts = [2**i for i in range(9) if 2**i <= 2 * length]
        plan = [(sampler, n, count, length) for sampler in family.samplers for n in counts]
        plan += [(family.samplers[0], 16, batch, size) for batch, size in
                 ((1, length), (max(1, count // 4), length), (count, length // 2))]  # fmt: skip
        for sampler, n, batch, size in plan if name != "ar" else plan[-4:]:
            began = time.perf_counter()
            tokens = family.sample(asked.free(batch, size), asked.how(n, sampler))
            each = 1e3 * (time.perf_counter() - began) / tokens.numel()
            row = {"family": name, "sampler": sampler, "steps": n, "batch": batch, "length": size}
            yield row | {"ms_per_token": each} | asked.described(tokens)


def revision(asked: Asked) -> Iterator[Figures]:
    """Does a uniform model mend held-out windows of which a tenth is drawn anew? Of changes:
    mending, breaking, round trips; and `ar`'s bits of its own samples before and after."""
    family, clean, free = asked.lab.trained("uniform"), asked.windows(), asked.free()
    tenth, g = torch.tensor(0.1), torch.Generator().manual_seed(asked.lab.seed)
    noisy = uniform_noise(clean, tenth, family.vocab_size, g)
    wrong = noisy != clean
    for n in (1, 4, 16):
        seen: list[Tensor] = [noisy]
        how = SamplerSettings(n, g, watch=seen.append)
        after = family.denoise(noisy, free, how, 0.1)
        moves = torch.stack([a != b for a, b in zip(seen, seen[1:], strict=False)]).sum(0)
        yield {
            "text": "a tenth wrong", "steps": n,
            **share("mended", (wrong & (after == clean)).sum(), wrong.sum()),
            **share("broken", (~wrong & (after != clean)).sum(), (~wrong).sum()),
            **share("round_trips", ((moves > 1) & (after == noisy)).sum(), (moves > 0).sum()),
        }  # fmt: skip
    own = family.sample(free, asked.how(asked.lab.preset.length))
    for noise in (0.0, 0.1, 0.3):
        text = family.denoise(own, free, asked.how(16), noise) if noise else own
        row = {"text": f"own sample, noise {noise}", "steps": 16, **asked.described(text)}
        yield row | share("changed", (text != own).sum(), own.numel())


def infill(asked: Asked) -> Iterator[Figures]:
    """Exact matches of a hole in the middle, at known length and at that of 1 to 4 tokens where the
    filled window has the least bound. `ar` and `bd3lm` do not see what stands behind the block."""
    length = asked.lab.preset.length
    texts, start = asked.lab.data.heldout(length + 4, asked.count), length // 2
    for name in asked.names:
        family = asked.lab.trained(name)
        for hole in (1, 2, 4):
            right, bounds = {}, []
            for guess in (1, 2, 3, 4):
                gap = asked.free(len(texts), guess)
                parts = [texts[:, :start], gap, texts[:, start + hole :]]
                filled = family.sample(torch.cat(parts, 1)[:, :length], asked.how(length))
                there = slice(start, start + hole)
                right[guess] = (filled[:, there] == texts[:, there]).all(1)
                with torch.no_grad():
                    four = filled.repeat(4, 1)
                    nats = family.bound(four, torch.Generator().manual_seed(asked.lab.seed))
                bounds.append(nats.view(4, -1).mean(0))
            chosen = torch.stack(bounds).argmin(0) + 1 == hole
            yield {
                "family": name, "hole": hole,
                **share("known_length", right[hole].sum(), len(texts)),
                **share("unknown_length", (right[hole] & chosen).sum(), len(texts)),
            }  # fmt: skip


def anchors(asked: Asked) -> Iterator[Figures]:
    """A quarter of the tokens of held-out text stand where they are: are they kept, and what does
    that cost in likelihood, against free samples and the text itself?"""
    clean, free, n = asked.windows(), asked.free(), asked.lab.preset.length
    known = torch.rand(clean.shape, generator=torch.Generator().manual_seed(asked.lab.seed)) < 0.25
    yield {"family": "real text", **asked.described(clean)}
    for name in asked.names:
        family = asked.lab.trained(name)
        made = family.sample(torch.where(known, clean, free), asked.how(n))
        unbound = family.sample(free, asked.how(n))
        yield {
            "family": name, **share("kept", (made == clean)[known].sum(), known.sum()),
            **asked.described(made), "free_bits": asked.described(unbound)["bits"],
        }  # fmt: skip


@torch.no_grad()
def blocks(asked: Asked) -> Iterator[Figures]:
    """BD3-LM: what a forward of one block costs by how many are finished, with the cache and
    without. The bound by block size is in the table of the comparison."""
    for name in asked.names:
        family = asked.lab.trained(name)
        if not isinstance(family, BlockDiffusion) or not family.block_size:
            continue
        finished = torch.split(asked.windows()[:1], family.block_size, dim=1)
        cache = BlockCache(family.network.config, capacity=2 * asked.lab.preset.length)
        block = asked.free(1, family.block_size)
        for done, last in enumerate(finished, start=1):
            family.finish(last, cache)
            if not done & (done - 1):
                both = torch.cat([*finished[:done], block], dim=1)
                mask = masks.block(0, both.shape[1], family.block_size)
                yield {
                    "family": name, "finished": done,
                    "cached_ms": _ms(partial(family.cached, block, cache)),
                    "uncached_ms": _ms(partial(family.network, both, mask)),
                }  # fmt: skip


def _ms(work: Callable[[], object]) -> float:
    """Least milliseconds of a call."""
    return 1e3 * min(timeit.repeat(work, number=1, repeat=10))


def reversal(
    names: Sequence[str], seed: int, people: int = 16, rounds: int = 1500
) -> Iterator[Figures]:
    """The reversal curse (arXiv 2309.12288) on made-up facts, "A parent B" and "B child A", names
    of two tokens. Half of the pairs are told in both directions, so that the inverse is learnt. Of
    the others is asked: B as told, A in the other sentence, and A in the sentence told."""
    g, parts, half = torch.Generator().manual_seed(seed), 2 * people, people // 2
    picked = torch.randperm(parts * parts, generator=g)[: 2 * people]
    a, b = torch.split(torch.stack([picked // parts, picked % parts], dim=1), people)
    parent, child = torch.tensor([[parts], [parts + 1]]).expand(-1, people)[..., None]
    told, inverse = torch.cat([a, parent, b], dim=1), torch.cat([b, child, a], dim=1)
    train = torch.cat([told, inverse[:half]])
    for name in names:
        family = _taught(name, train, parts + 2, seed, rounds)
        for question, text, hole in (
            ("B, as told", told[half:], slice(3, 5)),
            ("A, by the inverse", inverse[half:], slice(3, 5)),
            ("A, in the sentence told", told[half:], slice(0, 2)),
        ):
            template = text.clone()
            template[:, hole] = family.vocab_size
            how = SamplerSettings(2, torch.Generator().manual_seed(seed))
            right = (family.sample(template, how) == text).all(1)
            yield {"family": name, "question": question, **share("right", right.sum(), len(right))}


def _taught(name: str, texts: Tensor, vocab: int, seed: int, rounds: int) -> LabFamily:
    frequencies = torch.bincount(texts.flatten(), minlength=vocab) + 1.0
    setting = Setting(64, 2, frequencies / frequencies.sum(), torch.arange(vocab)[:, None])
    family = create(name, setting, seed)
    optimizer = torch.optim.AdamW(family.parameters(), weight_decay=0.0)
    g = torch.Generator().manual_seed(seed)
    for done in range(rounds):
        batch = texts[torch.randint(0, len(texts), (32,), generator=g)]
        update(family, optimizer, batch, g, 3e-3 * min(1, 3 * (1 - done / rounds)))
    return family.eval()


QUESTIONS: dict[str, Callable[[Asked], Iterator[Figures]]] = {
    "steps": steps, "revision": revision, "infill": infill, "anchors": anchors, "blocks": blocks,
}  # fmt: skip
