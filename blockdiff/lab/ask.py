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

from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.devices import choose_device, choose_dtype
from blockdiff.eval import bits
from blockdiff.eval.infilling import parses
from blockdiff.eval.results import share_interval
from blockdiff.lab.autoregressive import BlockDiffusion, behind
from blockdiff.lab.compare import read_json, write_json
from blockdiff.lab.data import END
from blockdiff.lab.families import Setting, create
from blockdiff.lab.family import LabFamily, SamplerSettings
from blockdiff.lab.training import Figures, Lab, Lesson, bounds, saved, train, update
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.types import no_op
from blockdiff.weights.catalog import DEFAULT_MODEL


@dataclass(frozen=True)
class Asked:
    """A laboratory, how many windows, samples or facts a row has, and the model that judges them
    where the question is `base`."""

    lab: Lab
    count: int = 32
    model: str = DEFAULT_MODEL

    @property
    def text(self) -> Tensor:
        """Held-out windows, (count, length)."""
        return self.lab.windows(self.count)

    @property
    def g(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.lab.seed)

    def sampled(self, family: LabFamily, steps: int, known: Tensor | None = None) -> Tensor:
        """By its usual sampler, around what is `known`; nothing unless given."""
        template = self.free(self.text.shape) if known is None else known
        return family.sample(template, SamplerSettings(steps, self.g))

    def free(self, shape: Sequence[int]) -> Tensor:
        """A template of which nothing is known."""
        return torch.full(tuple(shape), self.lab.preset.vocab_size)

    @torch.no_grad()
    def described(self, tokens: Tensor) -> Figures:
        """Of texts (batch, length): bits per byte by `ar`; how many have whole lines that are
        Python."""
        texts = [self.lab.data.text(row) for row in tokens]
        whole = [textwrap.dedent(t[t.find("\n") + 1 : t.rfind("\n") + 1]) for t in texts]
        good = sum(bool(lines.strip()) and parses(lines) for lines in whole)
        return {
            **self.per_byte(self.judge.bound(tokens, self.g), tokens),
            **share("parses", good, len(texts)),
        }  # fmt: skip

    @cached_property
    def judge(self) -> LabFamily:
        return self.lab.trained("ar")

    def per_byte(self, nats: Tensor, tokens: Tensor) -> Figures:
        """Bits per byte of texts (batch, length), with their interval; and since text that repeats
        itself is likely, too, the share of distinct tokens."""
        found = bounds(nats, self.lab.data.nbytes(tokens))
        distinct = sum(len(row.unique()) for row in tokens) / tokens.numel()
        kept = {key: found[key] for key in ("bits", "low", "high", "windows")}
        return kept | {"distinct": distinct}

    @cached_property
    def base(self) -> Checkpoint:
        """Raises ModelNotFound and what else loading raises."""
        device = choose_device("auto")
        return Checkpoint.load_base(self.model, device, choose_dtype("auto", device), no_op)

    def by_base(self, tokens: Tensor) -> Figures:
        """Bits per byte of texts (batch, length) by `base`, from left to right behind a line end,
        in tokens of its own."""
        texts = ["\n" + self.lab.data.text(row).replace(END, "\n") for row in tokens]
        ids = [torch.tensor(self.base.tokenizer.encode(text)) for text in texts]
        nats = [bits.nll(self.base.transformer, one, 1)[0].sum() for one in ids]
        return self.per_byte(torch.stack(nats), tokens)


def answer(
    asked: Asked, question: str, names: Sequence[str], on_row: Callable[[Figures], None]
) -> list[Figures]:
    """Every row that the families gave, now or before if they were not trained further since.

    Raises InputFileError, ModelNotFound.
    """
    path = asked.lab.folder / "asks" / f"{question}.json"
    made: Figures = {"count": asked.count, "seed": asked.lab.seed}
    made |= {"model": asked.model} if question == "base" else {}
    kept: Figures = read_json(path, {})
    if "families" not in kept or any(kept.get(key) != value for key, value in made.items()):
        kept = made | {"families": {}}
    for name in names:
        tokens = saved(asked.lab.folder / name).tokens
        if kept["families"].get(name, {}).get("tokens") != tokens:
            rows = []
            for figures in QUESTIONS[question](asked, name):
                rows.append({"family": name} | figures)
                on_row(rows[-1])
            kept["families"][name] = {"tokens": tokens, "rows": rows}
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
        how = SamplerSettings(n, asked.g, sampler)
        tokens = family.sample(asked.free((batch, size)), how)
        each = 1e3 * (time.perf_counter() - began) / tokens.numel()
        row = {"sampler": sampler, "steps": n, "batch": batch, "length": size, "ms_per_token": each}
        yield row | asked.described(tokens)
    if name == "ar":
        yield {"family": "real text"} | asked.described(asked.text)


def base(asked: Asked, name: str) -> Iterator[Figures]:
    """Samples by the usual sampler against steps, judged by a model that knows far more of code
    than any of these: the product's, and held-out text beside them."""
    family, length = asked.lab.trained(name), asked.lab.preset.length
    for n in (length,) if name == "ar" else (4, 16, length):
        yield {"steps": n} | asked.by_base(asked.sampled(family, n))
    if name == "ar":
        yield {"family": "real text"} | asked.by_base(asked.text)


def revision(asked: Asked, name: str) -> Iterator[Figures]:
    """Does a family whose noise is tokens mend held-out windows of which a tenth is drawn anew? Of
    changes: mending, breaking, round trips; and `ar`'s bits of its samples before and after."""
    family, clean, g = asked.lab.trained(name), asked.text, asked.g
    if not family.mixes:
        return
    free = asked.free(clean.shape)
    noisy = family.corrupted(clean, torch.tensor(0.1), g)
    wrong = noisy != clean
    for n in (1, 4, 16):
        seen: list[Tensor] = [noisy]
        after = family.denoise(noisy, free, SamplerSettings(n, g, watch=seen.append), 0.1)
        moves = torch.stack(seen).diff(dim=0).ne(0).sum(0)
        yield {
            "text": "a tenth wrong", "steps": n,
            **share("mended", (wrong & (after == clean)).sum(), wrong.sum()),
            **share("broken", (~wrong & (after != clean)).sum(), (~wrong).sum()),
            **share("round_trips", ((moves > 1) & (after == noisy)).sum(), (moves > 0).sum()),
        }  # fmt: skip
    own = asked.sampled(family, asked.lab.preset.length)
    for noise in (0.0, 0.1, 0.3):
        how = SamplerSettings(16, asked.g)
        text = family.denoise(own, free, how, noise) if noise else own
        row = {"text": f"own sample, noise {noise}", "steps": 16} | asked.described(text)
        yield row | share("changed", (text != own).sum(), own.numel())


@torch.no_grad()
def infill(asked: Asked, name: str) -> Iterator[Figures]:
    """Exact matches of a hole in the middle, at known length and at that of 1 to 4 tokens where the
    filled window has the least bound. `ar` and `bd3lm` do not see what stands behind the block."""
    length, family = asked.lab.preset.length, asked.lab.trained(name)
    texts, start = asked.lab.data.heldout(length + 4, asked.count), length // 2
    for hole in (1, 2, 4):
        right, nats = {}, []
        there = slice(start, start + hole)
        for guess in (1, 2, 3, 4):
            gap = asked.free((len(texts), guess))
            window = torch.cat([texts[:, :start], gap, texts[:, start + hole :]], 1)[:, :length]
            filled = asked.sampled(family, length, window)
            right[guess] = (filled[:, there] == texts[:, there]).all(1)
            nats.append(family.bound(filled.repeat(4, 1), asked.g).view(4, -1).mean(0))
        chosen = torch.stack(nats).argmin(0) + 1 == hole
        yield {
            "hole": hole,
            **share("known_length", right[hole].sum(), len(texts)),
            **share("unknown_length", (right[hole] & chosen).sum(), len(texts)),
        }  # fmt: skip


def anchors(asked: Asked, name: str) -> Iterator[Figures]:
    """A quarter of the tokens of held-out text stand where they are: are they kept, and what does
    that cost in likelihood, against free samples and the text itself?"""
    clean, n, family = asked.text, asked.lab.preset.length, asked.lab.trained(name)
    known = torch.rand(clean.shape, generator=asked.g) < 0.25
    made = asked.sampled(family, n, torch.where(known, clean, asked.free(clean.shape)))
    unbound = asked.described(asked.sampled(family, n))
    price = {f"free_{key}": unbound[key] for key in ("bits", "low", "high")}
    row = share("kept", (made == clean)[known].sum(), known.sum())
    yield row | asked.described(made) | price
    if name == "ar":
        yield {"family": "real text"} | asked.described(clean)


@torch.no_grad()
def blocks(asked: Asked, name: str) -> Iterator[Figures]:
    """BD3-LM: what a forward of one block costs by how many are finished, with the cache and
    without, median milliseconds of ten (the second and the ninth are its 98% interval). The bound
    by block size is in the table of the comparison."""
    family = asked.lab.trained(name)
    if not isinstance(family, BlockDiffusion) or not family.block_size:
        return
    finished = torch.split(asked.text[:1], family.block_size, dim=1)
    cache = BlockCache(family.network.config, capacity=2 * asked.lab.preset.length)
    block = asked.free((1, family.block_size))
    for done, last in enumerate(finished, start=1):
        family.finish(last, cache)
        if not done & (done - 1):
            both = torch.cat([*finished[:done], block], dim=1)
            mask = masks.block(0, both.shape[1], family.block_size)
            row: Figures = {"finished": done}
            for key, work in (("cached_ms", partial(behind, family.network, block, cache)),
                              ("uncached_ms", partial(family.network, both, mask))):  # fmt: skip
                ms = sorted(1e3 * seconds for seconds in timeit.repeat(work, number=1, repeat=10))
                row |= {key: (ms[4] + ms[5]) / 2, f"{key}_low": ms[1], f"{key}_high": ms[8]}
            yield row


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
            yield {"epochs": passes} | shown


def reversal(asked: Asked, name: str) -> Iterator[Figures]:
    """The reversal curse (arXiv 2309.12288) on `count` made-up facts, "A parent B" and "B child A",
    names of two tokens. Half of the pairs are told in both directions, so that the inverse is
    learnt. Of the others is asked: B as told, A in the other sentence, and A in the sentence told.
    Trains a model of its own, 100 steps for each fact."""
    people, g = asked.count, asked.g
    parts, half, rounds = 2 * people, people // 2, 100 * people
    picked = torch.randperm(parts * parts, generator=g)[: 2 * people]
    a, b = torch.split(torch.stack([picked // parts, picked % parts], dim=1), people)
    parent, child = torch.tensor([[parts], [parts + 1]]).expand(-1, people)[..., None]
    told, inverse = torch.cat([a, parent, b], dim=1), torch.cat([b, child, a], dim=1)
    texts, g = torch.cat([told, inverse[:half]]), asked.g
    frequencies = torch.bincount(texts.flatten(), minlength=parts + 2) + 1.0
    groups = torch.arange(parts + 2)[:, None]
    setting = Setting(64, 2, frequencies / frequencies.sum(), groups)
    family = create(name, setting, asked.lab.seed)
    optimizer = torch.optim.AdamW(family.parameters(), weight_decay=0.0)
    for done in range(rounds):
        batch = texts[torch.randint(0, len(texts), (32,), generator=g)]
        update(family, optimizer, batch, g, 3e-3 * min(1, 3 * (1 - done / rounds)))
    for question, text, hole in (
        ("B, as told", told[half:], slice(3, 5)),
        ("A, by the inverse", inverse[half:], slice(3, 5)),
        ("A, in the sentence told", told[half:], slice(0, 2)),
    ):
        template = text.clone()
        template[:, hole] = family.vocab_size
        right = (asked.sampled(family.eval(), 2, template) == text).all(1)
        yield {"question": question, **share("right", right.sum(), len(right))}


QUESTIONS: dict[str, Callable[[Asked, str], Iterator[Figures]]] = {
    "steps": steps, "base": base, "revision": revision, "infill": infill, "anchors": anchors,
    "blocks": blocks, "epochs": epochs, "reversal": reversal,
}  # fmt: skip
OWN_MODELS = ("epochs", "reversal")
"""Questions that train models of their own."""
