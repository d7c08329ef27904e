"""What counting a folder brings: next tokens that n-grams alone guess in files left out of it.

No model takes part: the base checks drafts, it does not make these. The adapter guesses too, so a
served draft gains less than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockdiff.diffusion.lookup import TextNgrams
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.train.ngrams import TextEncoder
from blockdiff.train.personal import Counted, count_files, left_out, texts

_TOKENS = 1500  # of a file, the first
_LONGEST = 16  # tokens of a run


@dataclass(frozen=True, slots=True)
class Guessed:
    """Of one file.

    Attributes:
        places: tokens that were guessed at.
        right: how many of them were right.
        runs: tokens that a forward would have accepted, its own one included, summed over places.
    """

    places: int = 0
    right: int = 0
    runs: int = 0


def guess(tokens: Sequence[int], tables: Sequence[NgramTable]) -> Guessed:
    """Guess each token of a text behind the first from what stands before it."""
    text = TextNgrams(tokens[:1], tables)
    right: list[bool] = []
    for token in tokens[1:]:
        chance, _ = text.following(text.context())
        right.append(bool(chance) and max(chance, key=chance.__getitem__) == token)
        text.extend([token])
    run = runs = 0
    for hit in reversed(right):
        run = min(run + 1, _LONGEST) if hit else 0
        runs += 1 + run
    return Guessed(len(right), sum(right), runs)


def divided(
    root: Path, files: Sequence[Path], tokenizer: TextEncoder, limit: int
) -> tuple[Counted, list[Path]]:
    """What counting four fifths of a folder's files gives, and `limit` (0: all) of the others.

    Raises InputFileError for too few files.
    """
    judged = left_out(root, files)
    without = set(judged)
    counted = count_files([p for p in files if p not in without], tokenizer, lambda *_: None)
    return counted, judged[: limit or None]


def measure(
    root: Path,
    files: Sequence[Path],
    tokenizer: TextEncoder,
    general: Sequence[NgramTable],
    limit: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Guess in files of a folder, with and without what the others hold; see `divided`."""
    counted, judged = divided(root, files, tokenizer, limit)
    without: list[Guessed] = []
    with_personal: list[Guessed] = []
    for done, (_, text) in enumerate(texts(judged), 1):
        tokens = tokenizer.encode(text)[:_TOKENS]
        without.append(guess(tokens, general))
        with_personal.append(guess(tokens, (*general, counted.table)))
        progress(done, len(judged))
    return {
        "counted_files": counted.files,
        "counted_tokens": counted.tokens,
        "files": len(without),
        "places": sum(row.places for row in without),
        "without": _figures(without),
        "with_personal": _figures(with_personal),
    }


def _figures(rows: Sequence[Guessed]) -> dict[str, float]:
    places = max(sum(row.places for row in rows), 1)
    return {
        "guessed": round(sum(row.right for row in rows) / places, 4),
        "mean_run": round(sum(row.runs for row in rows) / places, 4),
    }
