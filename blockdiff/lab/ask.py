"""The laboratory's questions: each a small experiment with a seed, its answer a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blockdiff.errors import InvalidRequest
from blockdiff.eval.results import share_interval
from blockdiff.lab.bd3lm import BlockDiffusion
from blockdiff.lab.compare import Figures
from blockdiff.lab.data import LabData
from blockdiff.lab.families import Setting, create
from blockdiff.lab.family import LabFamily, SamplerSettings, Template
from blockdiff.lab.samples import Judge, described, judged, lab_judge
from blockdiff.lab.sedd import uniform_noise
from blockdiff.lab.training import Preset, opened
from blockdiff.lab.uniform import Uniform
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache


@dataclass(frozen=True)
class Bench:
    """What an experiment works with.

    Attributes:
        folder: of a comparison, whose trained families are asked.
        names: families to ask.
        count: windows, samples or questions of each row.
    """

    folder: Path
    data: LabData
    preset: Preset
    names: Sequence[str]
    seed: int = 0
    count: int = 32

    def family(self, name: str) -> LabFamily:
        return opened(name, self.data, self.preset, self.folder, self.seed).family

    def how(self, steps: int, sampler: str = "") -> SamplerSettings:
        return SamplerSettings(steps, torch.Generator().manual_seed(self.seed), sampler)

    def judges(self) -> Judge:
        return lab_judge(self.family("ar"))

    def windows(self) -> Tensor:
        return self.data.heldout(self.preset.length, self.count)


def share(name: str, count: int, of: int) -> Figures:
    """A share with its 95% interval, as columns of a row."""
    low, high = share_interval(count, of)
    return {name: count / max(of, 1), f"{name}_low": low, f"{name}_high": high, f"{name}_of": of}


def steps(bench: Bench) -> Iterator[Figures]:
    """Likelihood, diversity and syntax of samples by each sampler against the number of steps."""
    judge, length = bench.judges(), bench.preset.length
    real = bench.windows()
    yield {"family": "real text", **asdict(described(real, bench.data, judge, "", 0, 0.0))}
    for name in bench.names:
        family = bench.family(name)
        for sampler in family.samplers:
            counts = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n <= 2 * length]
            for n in counts if name != "ar" else counts[:1]:
                template = Template.empty(bench.count, length)
                row = judged(family, bench.data, judge, bench.how(n, sampler), template)
                yield {"family": name, **asdict(row)}


def revision(bench: Bench) -> Iterator[Figures]:
    """Does a uniform model mend what it is given? Of changes: mending, breaking, round trips.

    A tenth of the tokens of held-out windows is drawn anew, and the sampler goes from that noise to
    none. Its own samples are revised, too: the judge's bits per byte before and after.
    """
    family, g = bench.family("uniform"), torch.Generator().manual_seed(bench.seed)
    assert isinstance(family, Uniform)
    clean = bench.windows()
    noisy = uniform_noise(clean, torch.tensor(0.1), bench.data.vocab_size, g)
    everywhere = Template.empty(*clean.shape)
    for n in (1, 4, 16):
        seen: list[Tensor] = [noisy]
        how = SamplerSettings(n, g, watch=seen.append)
        after = family.revise(noisy, everywhere, 0.1, how)
        moves = torch.stack([a != b for a, b in zip(seen, seen[1:], strict=False)]).sum(0)
        wrong = noisy != clean
        yield {
            "text": "a tenth wrong", "steps": n,
            **share("mended", int((wrong & (after == clean)).sum()), int(wrong.sum())),
            **share("broken", int((~wrong & (after != clean)).sum()), int((~wrong).sum())),
            **share("round_trips", int(((moves > 1) & (after == noisy)).sum()),
                    int((moves > 0).sum())),
        }  # fmt: skip
    judge = bench.judges()
    own = family.sample(everywhere, bench.how(bench.preset.length))
    for noise in (0.0, 0.1, 0.3):
        text = family.revise(own, everywhere, noise, bench.how(16)) if noise else own
        row = asdict(described(text, bench.data, judge, "", 16, 0.0))
        changed = share("changed", int((text != own).sum()), own.numel())
        yield {"text": f"own sample, noise {noise}", **row, **changed}


def infill(bench: Bench) -> Iterator[Figures]:
    """Exact matches of a hole in the middle, at known length and at the likeliest of 1 to 4 tokens.

    `ar` and `bd3lm` do not see what stands behind the block they write. The length of unknown holes
    is that of the filled window with the least bound per token.
    """
    texts, length = bench.data.heldout(bench.preset.length + 4, bench.count), bench.preset.length
    start = length // 2
    for name in bench.names:
        family = bench.family(name)
        for hole in (1, 2, 4):
            right = texts[:, start : start + hole]
            filled = {n: _filled(family, texts, length, hole, n, bench) for n in (1, 2, 3, 4)}
            known = (filled[hole][:, start : start + hole] == right).all(1)
            g = torch.Generator().manual_seed(bench.seed)
            with torch.no_grad():
                bounds = torch.stack(
                    [sum((family.bound(text, g) for _ in range(4)), torch.zeros(()))
                     for text in filled.values()]
                )  # fmt: skip
            chosen = bounds.argmin(0) + 1
            unknown = known & (chosen == hole)
            yield {
                "family": name, "hole": hole,
                **share("known_length", int(known.sum()), len(texts)),
                **share("unknown_length", int(unknown.sum()), len(texts)),
            }  # fmt: skip


def _filled(
    family: LabFamily, texts: Tensor, length: int, hole: int, guess: int, bench: Bench
) -> Tensor:
    """Windows (n, length): prefix, `guess` new tokens, and what stood behind the hole."""
    start = length // 2
    gap = torch.zeros(len(texts), guess, dtype=torch.int64)
    tokens = torch.cat([texts[:, :start], gap, texts[:, start + hole :]], dim=1)[:, :length]
    known = torch.ones_like(tokens, dtype=torch.bool)
    known[:, start : start + guess] = False
    return family.sample(Template(tokens, known), bench.how(length))


def anchors(bench: Bench) -> Iterator[Figures]:
    """A quarter of the tokens stand at fixed places, taken from held-out text: are they kept, and
    what does that cost in likelihood, against free samples and the text itself?"""
    judge, clean = bench.judges(), bench.windows()
    g = torch.Generator().manual_seed(bench.seed)
    known = torch.rand(clean.shape, generator=g) < 0.25
    real = described(clean, bench.data, judge, "", 0, 0.0)
    yield {"family": "real text", "anchored_bits": real.bits, "free_bits": real.bits}
    n = bench.preset.length
    for name in bench.names:
        family = bench.family(name)
        made = family.sample(Template(clean, known), bench.how(n))
        free = family.sample(Template.empty(*clean.shape), bench.how(n))
        rows = [described(text, bench.data, judge, "", n, 0.0) for text in (made, free)]
        yield {
            "family": name,
            **share("kept", int((made == clean)[known].sum()), int(known.sum())),
            "anchored_bits": rows[0].bits, "low": rows[0].low, "high": rows[0].high,
            "free_bits": rows[1].bits,
        }  # fmt: skip


@torch.no_grad()
def blocks(bench: Bench) -> Iterator[Figures]:
    """BD3-LM: what a forward of one block costs by how many are finished, with the cache and
    without. The bound by block size is in the table of the comparison."""
    for name in bench.names:
        family = bench.family(name)
        if not isinstance(family, BlockDiffusion) or not family.block_size:
            continue
        size = family.block_size
        finished = bench.windows()[:1]
        cache = BlockCache(family.network.config, capacity=2 * finished.shape[1])
        block = torch.full((1, size), bench.data.vocab_size)
        for done in range(0, finished.shape[1] // size + 1):
            text = finished[:, : done * size]
            if done and not done & (done - 1):
                cached = _ms(partial(family.cached, block, cache))
                both = torch.cat([text, block], dim=1)
                uncached = _ms(partial(family.network, both, masks.block(0, both.shape[1], size)))
                yield {"family": name, "finished": done, "cached_ms": cached,
                       "uncached_ms": uncached}  # fmt: skip
            if done < finished.shape[1] // size:
                family.finish(finished[:, done * size : (done + 1) * size], cache)


def _ms(work: Callable[[], object], times: int = 10) -> float:
    """Least milliseconds of a call."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return 1e3 * best


def reversal(
    names: Sequence[str], seed: int, people: int = 16, rounds: int = 1500
) -> Iterator[Figures]:
    """The reversal curse (arXiv 2309.12288) on made-up facts, "A parent B" and "B child A".

    Names have two tokens. Half of the pairs are told in both directions, so that the inverse is
    learnt; the others in one only. Of these is asked: B in the direction told, A in the other
    sentence, and A in the very sentence that was told, from behind.
    """
    g = torch.Generator().manual_seed(seed)
    parts = 2 * people
    parent, child = parts, parts + 1
    picked = torch.randperm(parts * parts, generator=g)[: 2 * people]
    people_of = torch.stack([picked // parts, picked % parts], dim=1)
    a, b = people_of[:people], people_of[people:]
    told = torch.cat([a, torch.full((people, 1), parent), b], dim=1)
    inverse = torch.cat([b, torch.full((people, 1), child), a], dim=1)
    half = people // 2
    train = torch.cat([told, inverse[:half]])
    for name in names:
        family = _taught(name, train, parts + 2, seed, rounds)
        once, other = told[half:], inverse[half:]
        for question, text, hole in (
            ("B, as told", once, slice(3, 5)),
            ("A, by the inverse", other, slice(3, 5)),
            ("A, in the sentence told", once, slice(0, 2)),
        ):
            known = torch.ones_like(text, dtype=torch.bool)
            known[:, hole] = False
            how = SamplerSettings(2, torch.Generator().manual_seed(seed))
            answer = family.sample(Template(text, known), how)[:, hole]
            right = (answer == text[:, hole]).all(1)
            yield {"family": name, "question": question,
                   **share("right", int(right.sum()), len(right))}  # fmt: skip


def _taught(name: str, train: Tensor, vocab: int, seed: int, rounds: int) -> LabFamily:
    frequencies = torch.bincount(train.flatten(), minlength=vocab) + 1.0
    groups = torch.arange(vocab)[:, None]
    family = create(name, Setting(64, 2, frequencies / frequencies.sum(), groups), seed)
    optimizer = torch.optim.AdamW(family.parameters(), lr=3e-3, weight_decay=0.0)
    g = torch.Generator().manual_seed(seed)
    for done in range(rounds):
        batch = train[torch.randint(0, len(train), (32,), generator=g)]
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, 3 * (1 - done / rounds))
        optimizer.zero_grad()
        family.loss(batch, g).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return family.eval()


QUESTIONS: dict[str, Callable[[Bench], Iterator[Figures]]] = {
    "steps": steps,
    "revision": revision,
    "infill": infill,
    "anchors": anchors,
    "blocks": blocks,
}
"""Those asked of trained families; `reversal` trains its own."""


def ask(question: str, bench: Bench) -> Iterator[Figures]:
    """Raises InvalidRequest for a question that is not known."""
    if question not in QUESTIONS:
        known = ", ".join([*QUESTIONS, "reversal"])
        raise InvalidRequest(f"no question {question!r}", f"known: {known}")
    return QUESTIONS[question](bench)
