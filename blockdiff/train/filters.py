"""What keeps a file out of the corpus: poor quality, repetition, or a trace of a benchmark."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blockdiff.syntax.written import not_by_hand
from blockdiff.train.jsonl import read_jsonl
from blockdiff.train.licences import header_allows

MIN_CHARS = 200
MAX_CHARS = 200_000
GRAM = 10
_RUN = 5  # lines

_WORD = re.compile(r"[A-Za-z_]\w*|\d+")


def quality(text: str) -> str:
    """Name of the quality filter that `text` fails, "" when it passes all."""
    if not MIN_CHARS <= len(text) <= MAX_CHARS:
        return "size"
    head = text[:3000]
    if not header_allows(head):
        return "licence_in_file"
    return unlike_code(text)


def unlike_code(text: str) -> str:
    """Name of the filter for text that nobody wrote as code, "" for what somebody did."""
    if wrong := not_by_hand(text):
        return wrong
    if not text.strip():
        return "not_code"
    alphanumeric = sum(map(str.isalnum, text)) / len(text)
    digits = sum(map(str.isdigit, text)) / len(text)
    if alphanumeric < 0.35 or digits > 0.2:
        return "not_code"
    if not text.isascii() and sum(ord(c) > 127 for c in text) > 0.05 * len(text):
        return "not_code"
    return ""


def normalise(data: bytes) -> str | None:
    """Text with Unix line ends, no byte-order mark and no blank edges; None if not UTF-8 text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _strip_notice(text.strip("\n") + "\n")


_COMMENT_START = re.compile(r"\s*(#(?!!|include|define|if|pragma)|//|--|/\*)")


def _strip_notice(text: str) -> str:
    """Drops a copyright notice at the very top: boilerplate teaches nothing a thousand times."""
    if not _COMMENT_START.match(text):
        return text
    if text.lstrip().startswith("/*"):
        end = text.find("*/")
        notice = text[: end + 2] if end >= 0 else ""
    else:
        match = re.match(r"\s*(?:(?:#(?!!|include|define|if|pragma)|//|--).*\n)+", text)
        notice = match.group(0) if match else ""
    if re.search(r"(?i)copyright|licen[cs]e", notice):
        return text[len(notice) :].lstrip("\n")
    return text


class Duplicates:
    """Remembers what was kept: exact copies by hash, near copies by runs of five lines.

    A file is a near copy when more than half of its runs (blank and very short lines left out,
    spaces ignored) occur in files kept before.
    """

    def __init__(self) -> None:
        self._texts: set[bytes] = set()
        self._runs: set[int] = set()

    def check(self, text: str) -> str:
        """"" and remembers the text when it is new, otherwise the name of the filter it fails."""
        flat = ["".join(line.split()) for line in text.splitlines()]
        flat = [line for line in flat if len(line) > 3]
        whole = hashlib.sha256("\n".join(flat).encode()).digest()
        if whole in self._texts:
            return "exact_duplicate"
        runs = set(self._hashes(flat))
        if runs and len(runs & self._runs) > len(runs) / 2:
            return "near_duplicate"
        self._texts.add(whole)
        self._runs |= runs
        return ""

    def _hashes(self, lines: list[str]) -> Iterator[int]:
        for start in range(max(1, len(lines) - _RUN + 1)):
            piece = "\n".join(lines[start : start + _RUN]).encode()
            yield int.from_bytes(hashlib.blake2b(piece, digest_size=8).digest(), "big")


class Benchmark:
    """Word 10-grams and function signatures of benchmark problems.

    A word is an identifier, a keyword or a run of digits, in lower case; punctuation between
    words is ignored, so a gram survives reformatting and even a change of language. A gram counts
    only when it holds at least six different words and at least five that are not numbers:
    `for i in range len x ...` runs and number tables would otherwise match everywhere.
    """

    def __init__(self, problems: Iterable[dict[str, Any]]) -> None:
        self.grams: set[tuple[str, ...]] = set()
        self.signatures: set[str] = set()
        self.problems = 0
        seen: set[str] = set()
        for problem in problems:
            text = problem["prompt"] + problem["canonical_solution"] + problem["suffix"]
            if text.strip() in seen:
                continue
            seen.add(text.strip())
            self.problems += 1
            for part in (text, problem.get("test", "")):
                words = _words(part)
                self.grams.update(g for g in _grams(words) if _telling(g))
            name = re.escape(problem["entry_point"])
            for match in re.finditer(rf"def\s+({name})\s*\(([^)]*)\)", text):
                self.signatures.add(_signature(match.group(1), match.group(2)))
        self._vocabulary = frozenset(word for gram in self.grams for word in gram)

    @classmethod
    def from_files(cls, files: Iterable[Path]) -> Benchmark:
        """Problems of `.jsonl` or `.jsonl.gz` files in the HumanEval-Infilling form.

        Raises:
            InputFileError: a file is missing or is not of that form.
        """
        return cls(problem for file in files for problem in read_jsonl(file))

    def check(self, text: str) -> str:
        """Name of the benchmark filter `text` fails, "" when it shares nothing with a problem."""
        run: list[str] = []
        for word in _words(text):
            if word in self._vocabulary:
                run.append(word)
                if len(run) >= GRAM and tuple(run[-GRAM:]) in self.grams:
                    return "benchmark_10gram"
            else:
                run.clear()
        for match in re.finditer(r"\bdef\s+(\w+)\s*\(([^)]*)\)", text):
            if _signature(match.group(1), match.group(2)) in self.signatures:
                return "benchmark_signature"
        return ""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: list[str]) -> Iterator[tuple[str, ...]]:
    for start in range(len(words) - GRAM + 1):
        yield tuple(words[start : start + GRAM])


def _telling(gram: tuple[str, ...]) -> bool:
    different = set(gram)
    return len(different) >= 6 and sum(not word.isdigit() for word in different) >= 5


def _signature(name: str, parameters: str) -> str:
    """`def f(a: int, b=1)` as `f(a,b)`."""
    names = [re.split(r"[:=]", p)[0].strip() for p in parameters.split(",")]
    return f"{name}({','.join(n for n in names if n)})"
