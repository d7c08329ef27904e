"""Whether a way of revising mends code: wrong tokens in held-out code, fixed, broken, or missed.

One to three tokens of a few lines of a file are wrong. `rewrite` writes the lines anew where they
stand, without an instruction, and the same lines as they were, which should stay so. For `edit`
they become a canvas of which every token but the first may change; text before and after is laid
out as for an infill, so the block sees both sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from blockdiff.config import DecodingConfig
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine.engine import Engine
from blockdiff.errors import ModelUnsupported
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import resampled_ratio, share_interval
from blockdiff.syntax.check import check_rewrite
from blockdiff.syntax.grammars import language_of
from blockdiff.types import Finished, Hole, RewriteRequest, SyntaxState

_TOKENS = (12, 40)  # of the lines that are revised
_AROUND = 160  # tokens of context on each side
_MOST_WRONG = 3
NOISES = ("vocabulary", "nearby")
"""Where a wrong token comes from: any of the vocabulary, or one that the file holds."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Lines with wrong tokens: `tokens` are `original` but at `wrong`; they begin at `start`."""

    prompt: tuple[int, ...]
    original: tuple[int, ...]
    tokens: tuple[int, ...]
    wrong: tuple[int, ...]
    noise: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class Revised:
    """What became of one file's lines.

    Attributes:
        wrong: tokens that were made wrong.
        fixed: of these, how many are what they were before.
        changed: of these, how many are something else again.
        broken: tokens that were right and are no more.
        edits: replacements made on the way.
        returns: `edit`: positions that wanted a token back that they had held: A, B, A; `rewrite`:
            replacements that are made when the result is rewritten once more.
        whole: whether the text is as it was before.
        parsed: of the texts that were rewritten, with and without wrong tokens, how many parse.
        parses: of these, how many do after it.
        clean_changed: whether the lines without wrong tokens were changed.
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
    parsed: int = 0
    parses: int = 0
    clean_changed: bool = False


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
    start = sum(map(len, lines[:first]))
    return Damaged(tuple(prompt), tuple(original), tuple(tokens), tuple(places), noise, start)


def noise_of(file: HeldOutFile, seed: int) -> str:
    """Files take the noises in turn."""
    return random.Random(f"noise/{seed}/{file.id}").choice(NOISES)


def rewrite(engine: Engine, file: HeldOutFile, context_tokens: int, seed: int) -> Revised:
    """Rewrite a file's lines with wrong tokens and without, and what became of the first again."""
    noise = noise_of(file, seed)
    spoilt = damage(file, engine, noise, seed)
    if spoilt is None:
        return Revised(file.id, file.language, noise)
    tokenizer = engine.tokenizer
    clean, wrong = (tokenizer.decode(ids) for ids in (spoilt.original, spoilt.tokens))
    before = file.text[: spoilt.start]
    after = file.text[spoilt.start + len(clean) :]

    def rewritten(text: str) -> tuple[Finished, SyntaxState]:
        document, span = before + text + after, Hole(len(before), len(before + text))
        language = language_of(file.path, file.language)
        state = check_rewrite(document, document, span.start, span.end, language)
        asked = RewriteRequest(
            document, span, path=file.path, language=language, context_tokens=context_tokens
        )
        *_, end = engine.rewrite(asked)
        assert isinstance(end, Finished)
        return end, state

    ends = [rewritten(wrong), rewritten(clean)]
    mended, kept = (end for end, _ in ends)
    again = rewritten(mended.text)[0].tokens if mended.tokens else 0
    parsed = [end for end, state in ends if state is SyntaxState.OK]
    return replace(
        compared(file, spoilt, *(tokenizer.encode(text) for text in (wrong, mended.text))),
        edits=mended.tokens,
        returns=again,
        forwards=mended.forwards,
        parsed=len(parsed),
        parses=sum(end.syntax is SyntaxState.OK for end in parsed),
        clean_changed=kept.text != clean,
    )


def compared(
    file: HeldOutFile, spoilt: Damaged, before: Sequence[int], after: Sequence[int]
) -> Revised:
    """Compare texts with what was there: with wrong tokens, and as they were revised.

    A right token is broken if it is no more, and so is every token more than there were.
    """
    found, left = (_common(spoilt.original, tokens) for tokens in (after, before))
    wrong = set(spoilt.wrong)
    # As tokens of the text a wrong one may be several.
    more = len(after) - max(len(spoilt.original), len(before))
    return Revised(
        file.id,
        file.language,
        spoilt.noise,
        tokens=len(spoilt.original),
        wrong=len(wrong),
        fixed=len(wrong & found),
        changed=0 if tuple(before) == tuple(after) else len(wrong - found),
        broken=len(left - wrong - found) + max(0, more),
        whole=tuple(after) == spoilt.original,
    )


def _common(original: Sequence[int], tokens: Sequence[int]) -> set[int]:
    """Indices of the original that are in a text, too, in the same order."""
    matcher = SequenceMatcher(None, original, tokens, autojunk=False)
    return {a + i for a, _, size in matcher.get_matching_blocks() for i in range(size)}


def revise(engine: Engine, file: HeldOutFile, decoding: DecodingConfig, seed: int) -> Revised:
    """Damage a file's lines and let the sampler revise them by the rule `edit`."""
    noise = noise_of(file, seed)
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
        "clean_changed": sum(row.clean_changed for row in counted),
        "clean_changed_ci95": [
            round(end, 4)
            for end in share_interval(sum(row.clean_changed for row in counted), len(counted))
        ],
        "parsed": sum(row.parsed for row in counted),
        "parses": sum(row.parses for row in counted),
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
