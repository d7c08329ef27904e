"""Whether the rule `edit` mends code: wrong tokens in held-out code, fixed, broken, or missed.

A few lines of a file become a canvas of which every token but the first may change; one to three
of them are wrong. Text before and after is laid out as for an infill, so the block sees both sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blockdiff.config import DecodingConfig
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.sampler import Sampler, Snapshot
from blockdiff.engine.engine import Engine
from blockdiff.errors import ModelUnsupported
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import resampled_ratio

_TOKENS = (12, 40)  # of the lines that are revised
_AROUND = 160  # tokens of context on each side
_MOST_WRONG = 3
NOISES = ("vocabulary", "nearby")
"""Where a wrong token comes from: any of the vocabulary, or one that the file holds."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Lines with wrong tokens: `tokens` are `original` but at `wrong`."""

    prompt: tuple[int, ...]
    original: tuple[int, ...]
    tokens: tuple[int, ...]
    wrong: tuple[int, ...]
    noise: str


@dataclass(frozen=True, slots=True)
class Revised:
    """What became of one file's lines.

    Attributes:
        wrong: tokens that were made wrong.
        fixed: of these, how many are what they were before.
        changed: of these, how many are something else again.
        broken: tokens that were right and are no more.
        edits: replacements made on the way.
        returns: positions that wanted a token back that they had held: A, B, A.
        whole: whether the text is as it was before.
    """

    task_id: str
    language: str
    noise: str
    tokens: int = 0
    wrong: int = 0
    fixed: int = 0
    changed: int = 0
    broken: int = 0
    edits: int = 0
    returns: int = 0
    forwards: int = 0
    whole: bool = False


def damage(file: HeldOutFile, engine: Engine, noise: str, seed: int) -> Damaged | None:
    """Choose lines of a file and spoil them; None where the file has no such lines."""
    tokenizer, rng = engine.tokenizer, random.Random(f"{seed}/{file.id}")
    special = tokenizer.special
    lines = file.text.splitlines(keepends=True)
    for _ in range(20):
        first = rng.randrange(len(lines))
        text = ""
        for line in lines[first : first + 6]:
            text += line
            original = tokenizer.encode(text)
            if len(original) >= _TOKENS[0]:
                break
        if text.strip() and _TOKENS[0] <= len(original) <= _TOKENS[1]:
            break
    else:
        return None
    before = tokenizer.encode("".join(lines[:first])[-8 * _AROUND :])[-_AROUND:]
    after = "".join(lines[first:])[len(text) :]
    behind = tokenizer.encode(after[: 8 * _AROUND])[:_AROUND]
    prompt = [special.fim_prefix, *before, special.fim_suffix, *behind, special.fim_middle]
    places = sorted(rng.sample(range(1, len(original)), rng.randint(1, _MOST_WRONG)))
    pool = range(min(special.stop)) if noise == "vocabulary" else (*before, *behind, *original)
    tokens = list(original)
    for place in places:
        others = [token for token in rng.choices(pool, k=64) if token != original[place]]
        tokens[place] = others[0] if others else 0
    return Damaged(tuple(prompt), tuple(original), tuple(tokens), tuple(places), noise)


def revise(engine: Engine, file: HeldOutFile, decoding: DecodingConfig, seed: int) -> Revised:
    """Damage a file's lines and let the sampler revise them; files take the noises in turn."""
    noise = random.Random(f"noise/{seed}/{file.id}").choice(NOISES)
    spoilt = damage(file, engine, noise, seed)
    if spoilt is None:
        return Revised(file.id, file.language, noise)
    size = len(spoilt.tokens)
    canvas = Canvas(
        spoilt.tokens,
        (False,) * size,
        (1.0,) * size,
        editable=(False, *[True] * (size - 1)),
    )
    last = Snapshot(spoilt.tokens, (), (), 0, False)
    with engine.behind(spoilt.prompt, decoding) as sampler:
        if not isinstance(sampler, Sampler):
            raise ModelUnsupported(
                "this model has no gated adapter to revise with", "name a model that has one"
            )
        for snapshot in sampler.run(spoilt.prompt, canvas):
            last = snapshot
        edits, returns, forwards = sampler.edits, sampler.returns, sampler.forwards
    return score(file, spoilt, last.tokens, edits, returns, forwards)


def score(
    file: HeldOutFile,
    spoilt: Damaged,
    tokens: Sequence[int],
    edits: int,
    returns: int,
    forwards: int,
) -> Revised:
    """Compare what came out with what was there before. A text may end early; that breaks it."""
    found = [*tokens, *[-1] * (len(spoilt.original) - len(tokens))]
    right = [a == b for a, b in zip(found, spoilt.original, strict=True)]
    same = [a == b for a, b in zip(found, spoilt.tokens, strict=True)]
    return Revised(
        file.id,
        file.language,
        spoilt.noise,
        tokens=len(right),
        wrong=len(spoilt.wrong),
        fixed=sum(right[i] for i in spoilt.wrong),
        changed=sum(not right[i] and not same[i] for i in spoilt.wrong),
        broken=sum(not right[i] for i in range(len(right)) if i not in spoilt.wrong),
        edits=edits,
        returns=returns,
        forwards=forwards,
        whole=all(right),
    )


def summarise(rows: Sequence[Revised]) -> dict[str, Any]:
    """Fixed, broken and round trips over all texts, and by where the wrong tokens came from."""
    counted = [row for row in rows if row.wrong]
    low, high = resampled_ratio(
        [row.task_id for row in counted],
        [float(row.fixed) for row in counted],
        [float(row.wrong) for row in counted],
    )
    return _figures(counted) | {
        "fixed_share_ci95": [round(low, 4), round(high, 4)],
        "by_noise": {
            noise: _figures([row for row in counted if row.noise == noise]) for noise in NOISES
        },
    }


def _figures(rows: Sequence[Revised]) -> dict[str, Any]:
    def total(name: str) -> int:
        return sum(getattr(row, name) for row in rows)

    names = ("tokens", "wrong", "fixed", "changed", "broken", "edits", "returns", "forwards")
    counts = {name: total(name) for name in names}
    return {
        "texts": len(rows),
        **counts,
        "whole": total("whole"),
        "fixed_share": round(counts["fixed"] / max(counts["wrong"], 1), 4),
        "fixed_per_broken": round(counts["fixed"] / max(counts["broken"], 1), 2),
        "round_trips": round(counts["returns"] / max(counts["edits"], 1), 4),
    }
