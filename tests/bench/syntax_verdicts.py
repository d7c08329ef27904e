"""The verdict on filled holes beside the compiler's: `python -m tests.bench.syntax_verdicts`.

A span of a real file is taken for a hole, and what is filled in is that span as it was, cut short,
doubled, moved to the left or right, robbed of a bracket or of a word, or nothing. Where the
compiler refuses the file, the verdict should be `broken`; where it accepts it, `ok`. Then a bracket
is lost elsewhere in the file, and the span is filled in as it was: nothing of that is the hole's
fault. Compilers are found on PATH, and TypeScript's where node finds it (NODE_PATH).
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockdiff.eval.heldout import HeldOutFile, load
from blockdiff.syntax.check import check
from blockdiff.syntax.grammars import LANGUAGES, language_of
from blockdiff.types import SyntaxState
from tests.bench.compilers import ROOT, judge_of

HELD_OUT = ROOT / "models/qwen2.5-coder-1.5b-blockdiff/eval/held_out.jsonl.gz"
_BRACKET = re.compile(r"[()\[\]{}]|\bend\b")
_CONDITIONAL = re.compile(r"^[ \t]*#[ \t]*(?:if|ifdef|elif|else)\b", re.MULTILINE)
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A document and the span of it that was filled in."""

    name: str
    kind: str
    document: str
    start: int
    end: int


def spans(text: str, draw: random.Random, count: int) -> Iterator[tuple[int, int]]:
    """Whole lines, one to five of them, or the rest of a line."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    lines = [n for n in range(len(starts) - 1) if text[starts[n] : starts[n + 1]].strip()]
    for _ in range(count if lines else 0):
        first = draw.choice(lines)
        start, line_end = starts[first], starts[first + 1] - 1
        if draw.random() < 0.3:
            yield draw.randrange(start, line_end + 1), line_end
        else:
            last = min(first + draw.randint(1, 5), len(starts) - 1)
            yield start, starts[last]


def fills(text: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """The span as it was and damaged in every way that applies to it, by name."""
    yield "as it was", text
    yield "empty", ""
    if len(text) > 1:
        yield "cut", text[: draw.randrange(1, len(text))]
    yield "doubled", text + text
    for kind, pattern in (("bracket", _BRACKET), ("word", _WORD)):
        if found := list(pattern.finditer(text)):
            lost = draw.choice(found)
            yield kind, text[: lost.start()] + text[lost.end() :]
    lines = text.splitlines(keepends=True)
    if text.endswith("\n"):
        unit = 1 if "\n\t" in "\n" + text else 4
        yield "dedented", "".join(re.sub(rf"^[ \t]{{1,{unit}}}", "", line) for line in lines)
        yield "indented", "".join(" " * 4 + line if line.strip() else line for line in lines)
        if len(lines) > 1:
            yield "body", lines[0] + (lines[-1] if lines[-1].strip() in ("}", "end") else "")


def snippets(files: Sequence[HeldOutFile], draw: random.Random, each: int) -> Iterator[Snippet]:
    for file in files:
        for start, end in spans(file.text, draw, each):
            for kind, fill in fills(file.text[start:end], draw):
                document = file.text[:start] + fill + file.text[end:]
                yield Snippet(file.id, kind, document, start, start + len(fill))


def broken_elsewhere(files: Sequence[HeldOutFile], draw: random.Random) -> Iterator[Snippet]:
    """A bracket is lost in one place of a file, and a hole far from it filled in as it was."""
    for file in files:
        brackets = list(_BRACKET.finditer(file.text))
        holes = list(spans(file.text, draw, 4))
        for start, end in holes if brackets else ():
            lost = draw.choice(brackets)
            apart = file.text[min(lost.end(), end) : max(lost.start(), start)]
            if not re.search(r"\n\n[^\s})\]]", apart):
                continue
            document = file.text[: lost.start()] + file.text[lost.end() :]
            shift = len(lost.group()) if lost.start() < start else 0
            yield Snippet(file.id, "elsewhere", document, start - shift, end - shift)


def corpus(folders: Sequence[Path], languages: Sequence[str], most: int) -> list[HeldOutFile]:
    """The held-out files and those of folders, `most` of a language, none over 60 kB."""
    files = load(HELD_OUT) if not folders else []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            language = language_of(path.name)
            if language not in languages or not path.is_file():
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
            if 200 < len(text) < 60_000 and "\r" not in text:
                name = str(path.relative_to(folder))
                files.append(HeldOutFile(folder.name, "", "", language, name, text))
    draw, chosen = random.Random(0), []
    for language in languages:
        fitting = [file for file in files if file.language == language]
        draw.shuffle(fitting)
        chosen += fitting[:most]
    return chosen


def measure(language: str, files: list[HeldOutFile], args: argparse.Namespace) -> str | None:
    """A row of the table; None where the compiler is missing or there are no files."""
    found = judge_of(language)
    if found is None:
        return None
    name, judge = found
    if language in ("c", "cpp"):  # what is hidden no compiler judges
        files = [f for f in files if not _CONDITIONAL.search(f.text)]
    files = [f for f, sound in zip(files, judge([f.text for f in files]), strict=True) if sound]
    draw = random.Random(args.seed)
    tried = list(snippets(files, draw, args.each))
    accepted = judge([snippet.document for snippet in tried])
    counts: Counter[str] = Counter()
    times: list[float] = []
    for snippet, accepts in zip(tried, accepted, strict=True):
        began = time.perf_counter()
        state = check(snippet.document, snippet.start, snippet.end, language)
        times.append(1e3 * (time.perf_counter() - began))
        counts[f"{'accepted' if accepts else 'refused'} {state.value}"] += 1
        wrong = SyntaxState.BROKEN if accepts else SyntaxState.OK
        if args.show and state is wrong:
            show(snippet, state)
    for snippet in broken_elsewhere(files, random.Random(args.seed)):
        state = check(snippet.document, snippet.start, snippet.end, language)
        counts[f"elsewhere {state.value}"] += 1
        if args.show and state is SyntaxState.BROKEN:
            show(snippet, state)
    refused = sum(n for key, n in counts.items() if key.startswith("refused"))
    elsewhere = sum(n for key, n in counts.items() if key.startswith("elsewhere"))
    missed = counts["refused ok"]
    times.sort()
    return (
        f"| {language} | {name} | {len(files)} | {len(tried)} | {refused} "
        f"| {missed} ({missed / max(refused, 1):.1%}) | {counts['refused skipped']} "
        f"| {counts['accepted broken']} | {counts['accepted skipped']} "
        f"| {elsewhere} | {counts['elsewhere broken']} | {counts['elsewhere skipped']} "
        f"| {times[len(times) // 2]:.1f} / {times[int(len(times) * 0.99)]:.0f} |"
    )


def show(snippet: Snippet, state: SyntaxState) -> None:
    start, end = snippet.start, snippet.end
    first = max(snippet.document.rfind("\n", 0, max(start - 160, 0)), 0)
    print(f"--- {snippet.name} ({snippet.kind}): {state.value}")
    print(
        snippet.document[first:start] + "«" + snippet.document[start:end] + "»"
        + snippet.document[end : end + 120]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="instead of the held-out files")
    parser.add_argument("--language", action="append", help="only these (default: all)")
    parser.add_argument("--files", type=int, default=12, help="most files of a language")
    parser.add_argument("--each", type=int, default=4, help="spans of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print what was judged wrong")
    args = parser.parse_args()
    languages = args.language or sorted(LANGUAGES - {"tsx"})
    files = corpus(args.folders, languages, args.files)
    print(
        "| language | compiler | files | snippets | refused | called ok | skipped "
        "| accepted, called broken | skipped | broken elsewhere | blamed | skipped "
        "| ms (median / p99) |"
    )
    print("|---|---" + "|---:" * 11 + "|")
    for language in languages:
        mine = [file for file in files if file.language == language]
        row = measure(language, mine, args) if mine else None
        print(row or f"| {language} | not measured: no compiler or no files |", flush=True)


if __name__ == "__main__":
    main()
