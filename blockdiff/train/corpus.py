"""The training corpus as the trainer reads it; `build_corpus` writes it.

A corpus is a folder of gzipped JSON lines with the licence of every package beside it.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blockdiff.errors import InputFileError

Split = Literal["train", "heldout"]

MANIFEST = "manifest.json"
"""Of a corpus: which shards it has, and how much is in them."""

LANGUAGE_WEIGHTS: Mapping[str, float] = {
    "python": 0.60,
    "javascript": 0.07,
    "typescript": 0.06,
    "c": 0.05,
    "cpp": 0.06,
    "go": 0.05,
    "rust": 0.05,
    "java": 0.03,
    "lua": 0.02,
    "shell": 0.01,
}


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One source file of the corpus."""

    text: str
    language: str
    path: str
    package: str


class Corpus:
    """A corpus on disk, opened for reading. Immutable; documents are held in memory."""

    def __init__(self, documents: Mapping[str, tuple[CorpusFile, ...]], manifest: dict[str, Any]):
        self._documents = documents
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Reads a corpus that `build` wrote.

        Raises:
            InputFileError: the folder is missing, incomplete or damaged.
        """
        root = Path(folder)
        try:
            manifest = json.loads((root / MANIFEST).read_text("utf-8"))
            documents = {
                split: tuple(d for name in names for d in _read_shard(root / name))
                for split, names in manifest["shards"].items()
            }
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputFileError(
                f"no usable corpus in {root}: {error}", "build one: blockdiff train corpus --out"
            ) from None
        counted = {split: len(found) for split, found in documents.items()}
        if counted != manifest["documents"]:
            raise InputFileError(f"the corpus in {root} is incomplete", "build it again")
        return cls(documents, manifest)

    def documents(self, split: Split) -> tuple[CorpusFile, ...]:
        """All documents of a split in their stored order."""
        return self._documents[split]

    def iter_documents(
        self,
        split: Split,
        seed: int,
        epoch: int,
        weights: Mapping[str, float] = LANGUAGE_WEIGHTS,
    ) -> Iterator[CorpusFile]:
        """As many shuffled documents as the split holds; the same arguments give the same order.

        A language's expected share of the *text* is its weight (languages without a weight are
        left out, those without documents share theirs among the rest); documents of a language are
        not repeated before all of them were seen. Held-out documents come exactly once each.
        """
        pool = self._documents[split]
        chance = random.Random(f"{seed}/{epoch}/{split}")
        if split == "heldout":
            yield from chance.sample(pool, len(pool))
            return
        by_language: dict[str, list[CorpusFile]] = defaultdict(list)
        for document in pool:
            if weights.get(document.language, 0.0) > 0.0:
                by_language[document.language].append(document)
        if not by_language:
            return
        names = sorted(by_language)
        odds = []
        for name in names:
            mean = sum(len(d.text) for d in by_language[name]) / len(by_language[name])
            odds.append(weights[name] / mean)
        queues: dict[str, list[CorpusFile]] = {name: [] for name in names}
        for name in chance.choices(names, odds, k=len(pool)):
            if not queues[name]:
                queues[name] = chance.sample(by_language[name], len(by_language[name]))
            yield queues[name].pop()


def _read_shard(path: Path) -> Iterator[CorpusFile]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        for line in lines:
            row = json.loads(line)
            yield CorpusFile(row["text"], row["language"], row["path"], row["package"])
