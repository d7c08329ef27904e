"""The laboratory's questions: each a small experiment with a seed, its answer a table.

A question is asked of one family after the other; the rows of each are kept in `asks/QUESTION.json`
when it has answered, so that one that was interrupted goes on.
"""

from __future__ import annotations

import textwrap
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from blockdiff.eval.infilling import parses
from blockdiff.eval.results import share_interval
from blockdiff.lab.autoregressive import BlockDiffusion
from blockdiff.lab.compare import read_json, write_json
from blockdiff.lab.d3pm import D3pmMixing
from blockdiff.lab.families import Setting, create
from blockdiff.lab.family import LabFamily, SamplerSettings
from blockdiff.lab.training import Figures, Lab, Lesson, bits_per_byte, saved, train, update
from blockdiff.lab.uniform import UniformNoise, uniform_noise
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.types import no_op


@dataclass(frozen=True)
class Asked:
    """A laboratory, and how many windows, samples or facts a row has."""

    lab: Lab
    count: int = 32

    @cached_property
    def judge(self) -> LabFamily:
        return self.lab.trained("ar")

    def windows(self) -> Tensor:
        return self.lab.windows(self.count)

    def free(self, batch: int, length: int = 0) -> Tensor:
        """Templates of which nothing is known, of the length of windows unless said."""
        return torch.full((batch, length or self.lab.preset.length), self.lab.preset.vocab_size)

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


def answer(
    asked: Asked, question: str, names: Sequence[str], on_row: Callable[[Figures], None]
) -> list[Figures]:
    """Every row that the families gave, now or before if they were not trained further since.

    Raises InputFileError, ModelNotFound.
    """
    path = asked.lab.folder / "asks" / f"{question}.json"
    made: Figures = {"count": asked.count, "seed": asked.lab.seed}
    kept: Figures = read_json(path) if path.is_file() else {}
    if "families" not in kept or any(kept.get(key) != value for key, value in made.items()):
        kept = made | {"families": {}}
    for name in names:
        trained = {"tokens": saved(asked.lab.folder / name).tokens}
        before = kept["families"].get(name, {})
        if before.get("tokens") != trained["tokens"]:
            rows = []
            for row in QUESTIONS[question](asked, name):
                on_row(row)
                rows.append(row)
            kept["families"][name] = trained | {"rows": rows}
            write_json(path, kept)
    return rows_of(kept)


def rows_of(kept: Figures) -> list[Figures]:
    """The table of what `asks/QUESTION.json` holds; of one that is laid out otherwise, nothing."""
    return [row for family in kept.get("families", {}).values() for row in family["rows"]]


def share(name: str, count: int | Tensor, of: int | Tensor) -> Figures:
    """A share with its 95% interval, as columns of a row."""
    count, of = int(count), int(of)
    low, high = share_interval(count, of)
    return {name: count / max(of, 1), f"{name}_low": low, f"{name}_high": high, f"{name}_of": of}


def steps(asked: Asked, name: str) -> Iterator[Figures]:
    """Samples by each sampler against steps; by the usual one also against batch and length."""
    length, count, family = asked.lab.preset.length, asked.count, asked.lab.trained(name)
    usual, counts = family.samplers[0], [2**i for i in range(9) if 2**i <= 2 * length]
    counts = [16] if name == "ar" else counts  # it always takes one for each token
    plan = [(sampler, n, count, length) for sampler in family.samplers for n in counts]
    plan += [(usual, 16, 1, length), (usual, 16, max(1, count // 4), length),
             (usual, 16, count, length // 2)]  # fmt: skip
    for sampler, n, batch, size in plan:
        began = time.perf_counter()
        tokens = family.sample(asked.free(batch, size), asked.how(n, sampler))
        each = 1e3 * (time.perf_counter() - began) / tokens.numel()
        row = {"family": name, "sampler": sampler, "steps": n, "batch": batch, "length": size}
        yield row | {"ms_per_token": each} | asked.described(tokens)
    if name == "ar":
        yield {"family": "real text", **asked.described(asked.windows())}


def revision(asked: Asked, name: str) -> Iterator[Figures]:
    """Does a family whose noise is tokens mend held-out windows of which a tenth is drawn anew? Of
    changes: mending, breaking, round trips; and `ar`'s bits of its samples before and after."""
    family, clean = asked.lab.trained(name), asked.windows()
    if not isinstance(family, UniformNoise | D3pmMixing):
        return
    free, g = asked.free(len(clean)), torch.Generator().manual_seed(asked.lab.seed)
    noisy = uniform_noise(clean, torch.tensor(0.1), family.vocab_size, g)
    wrong = noisy != clean
    for n in (1, 4, 16):
        seen: list[Tensor] = [noisy]
        after = family.denoise(noisy, free, SamplerSettings(n, g, watch=seen.append), 0.1)
        moves = torch.stack([a != b for a, b in zip(seen, seen[1:], strict=False)]).sum(0)
        yield {
            "family": name, "text": "a tenth wrong", "steps": n,
            **share("mended", (wrong & (after == clean)).sum(), wrong.sum()),
            **share("broken", (~wrong & (after != clean)).sum(), (~wrong).sum()),
            **share("round_trips", ((moves > 1) & (after == noisy)).sum(), (moves > 0).sum()),
        }  # fmt: skip
    own = family.sample(free, asked.how(asked.lab.preset.length))
    for noise in (0.0, 0.1, 0.3):
        text = family.denoise(own, free, asked.how(16), noise) if noise else own
        row = {"family": name, "text": f"own sample, noise {noise}", "steps": 16}
        yield row | asked.described(text) | share("changed", (text != own).sum(), own.numel())


@torch.no_grad()
def infill(asked: Asked, name: str) -> Iterator[Figures]:
    """Exact matches of a hole in the middle, at known length and at that of 1 to 4 tokens where the
    filled window has the least bound. `ar` and `bd3lm` do not see what stands behind the block."""
    length, family = asked.lab.preset.length, asked.lab.trained(name)
    texts, start = asked.lab.data.heldout(length + 4, asked.count), length // 2
    for hole in (1, 2, 4):
        right, bounds = {}, []
        for guess in (1, 2, 3, 4):
            gap = asked.free(len(texts), guess)
            parts = [texts[:, :start], gap, texts[:, start + hole :]]
            filled = family.sample(torch.cat(parts, 1)[:, :length], asked.how(length))
            there = slice(start, start + hole)
            right[guess] = (filled[:, there] == texts[:, there]).all(1)
            nats = family.bound(filled.repeat(4, 1), asked.how(length).g)
            bounds.append(nats.view(4, -1).mean(0))
        chosen = torch.stack(bounds).argmin(0) + 1 == hole
        yield {
            "family": name, "hole": hole,
            **share("known_length", right[hole].sum(), len(texts)),
            **share("unknown_length", (right[hole] & chosen).sum(), len(texts)),
        }  # fmt: skip


def anchors(asked: Asked, name: str) -> Iterator[Figures]:
    """A quarter of the tokens of held-out text stand where they are: are they kept, and what does
    that cost in likelihood, against free samples and the text itself?"""
    clean, n, family = asked.windows(), asked.lab.preset.length, asked.lab.trained(name)
    free = asked.free(len(clean))
    known = torch.rand(clean.shape, generator=asked.how(n).g) < 0.25
    made = family.sample(torch.where(known, clean, free), asked.how(n))
    unbound = asked.described(family.sample(free, asked.how(n)))
    row = {"family": name, **share("kept", (made == clean)[known].sum(), known.sum())}
    price = {f"free_{key}": unbound[key] for key in ("bits", "low", "high")}
    yield row | asked.described(made) | price
    if name == "ar":
        yield {"family": "real text", **asked.described(clean)}


@torch.no_grad()
def blocks(asked: Asked, name: str) -> Iterator[Figures]:
    """BD3-LM: what a forward of one block costs by how many are finished, with the cache and
    without. The bound by block size is in the table of the comparison."""
    family = asked.lab.trained(name)
    if not isinstance(family, BlockDiffusion) or not family.block_size:
        return
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
                **timed("cached_ms", partial(family.cached, block, cache)),
                **timed("uncached_ms", partial(family.network, both, mask)),
            }  # fmt: skip


def timed(name: str, work: Callable[[], object]) -> Figures:
    """Median milliseconds of ten calls; the second and the ninth are its 98% interval."""
    taken = sorted(1e3 * seconds for seconds in timeit.repeat(work, number=1, repeat=10))
    return {name: (taken[4] + taken[5]) / 2, f"{name}_low": taken[1], f"{name}_high": taken[8]}


def epochs(asked: Asked, name: str) -> Iterator[Figures]:
    """Is the same text worth more to diffusion (arXiv 2507.15857)? The bound after 1, 2, 4 .. 32
    passes over 512 tokens per `count`, at one learning rate. Trains a model of its own."""
    train_on = asked.lab.data.tokens["train"]
    one = 1 << (min(len(train_on), 512 * asked.count).bit_length() - 1)
    text = replace(asked.lab.data, tokens=asked.lab.data.tokens | {"train": train_on[:one]})
    lesson = Lesson(replace(asked.lab, data=text, folder=asked.lab.folder / f"epochs-{one}"), name)
    train([lesson], lambda: float(lesson.state.tokens >= 32 * one), no_op, lambda: False)
    for row in lesson.state.curve:
        shown = {key: row[key] for key in ("bits", "low", "high", "windows", "tokens", "seconds")}
        if (passes := row["tokens"] // one) >= 1:
            yield {"family": name, "epochs": passes} | shown


def reversal(asked: Asked, name: str, rounds: int = 0) -> Iterator[Figures]:
    """The reversal curse (arXiv 2309.12288) on `count` made-up facts, "A parent B" and "B child A",
    names of two tokens. Half of the pairs are told in both directions, so that the inverse is
    learnt. Of the others is asked: B as told, A in the other sentence, and A in the sentence told.
    Trains a model of its own, 100 steps for each fact unless said."""
    people, g = asked.count, torch.Generator().manual_seed(asked.lab.seed)
    parts, half, rounds = 2 * people, people // 2, rounds or 100 * people
    picked = torch.randperm(parts * parts, generator=g)[: 2 * people]
    a, b = torch.split(torch.stack([picked // parts, picked % parts], dim=1), people)
    parent, child = torch.tensor([[parts], [parts + 1]]).expand(-1, people)[..., None]
    told, inverse = torch.cat([a, parent, b], dim=1), torch.cat([b, child, a], dim=1)
    family = _taught(name, torch.cat([told, inverse[:half]]), parts + 2, asked.lab.seed, rounds)
    for question, text, hole in (
        ("B, as told", told[half:], slice(3, 5)),
        ("A, by the inverse", inverse[half:], slice(3, 5)),
        ("A, in the sentence told", told[half:], slice(0, 2)),
    ):
        template = text.clone()
        template[:, hole] = family.vocab_size
        right = (family.sample(template, asked.how(2)) == text).all(1)
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


QUESTIONS: dict[str, Callable[[Asked, str], Iterator[Figures]]] = {
    "steps": steps, "revision": revision, "infill": infill, "anchors": anchors, "blocks": blocks,
    "epochs": epochs, "reversal": reversal,
}  # fmt: skip
OWN_MODELS = ("epochs", "reversal")
"""Questions that train models of their own."""
