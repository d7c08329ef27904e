"""Whether actions that edit by themselves leave a file that parses: fix, complete, docstring.

`python -m tests.bench.actions --count 100`, with the default model, on functions of the held-out
files. A function of each language in turn is taken, the action in turn is prepared (its body
becomes a placeholder, or one character of it goes), done, and its edit judged: by tree-sitter, and
for Python by the compiler as well.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blockdiff.client.endpoint import Runtime
from blockdiff.errors import BlockdiffError
from blockdiff.eval import heldout
from blockdiff.types import no_op
from lsp_server.actions import Action, ActionParams
from lsp_server.constructs import Function, documentation, enclosing_function
from lsp_server.document import Document, made_in
from lsp_server.faults import faults
from lsp_server.handlers import create
from lsp_server.messages import DocumentId
from lsp_server.server import Server

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "models" / "qwen2.5-coder-1.5b-blockdiff" / "eval" / "held_out.jsonl.gz"
LANGUAGES = ("python", "javascript", "typescript", "go", "rust", "c", "cpp", "java", "lua")
ENDINGS = {"python": "py", "javascript": "js", "typescript": "ts", "go": "go", "rust": "rs",
           "c": "c", "cpp": "cpp", "java": "java", "lua": "lua"}  # fmt: skip
PLACEHOLDERS = {
    "python": "raise NotImplementedError", "rust": "todo!()", "go": 'panic("not implemented")',
    "javascript": 'throw new Error("not implemented");',
    "typescript": 'throw new Error("not implemented");',
    "java": "throw new UnsupportedOperationException();", "lua": 'error("not implemented")',
    "cpp": 'throw std::logic_error("not implemented");', "c": 'assert(!"not implemented");',
}  # fmt: skip
ACTIONS = (Action.FIX, Action.COMPLETE, Action.DOCSTRING)
MOST_LINES, MOST_CHARACTERS = 30, 60_000


@dataclass(frozen=True)
class Case:
    """`text` is what `original` was made into for the action, done at an offset."""

    action: Action
    language: str
    name: str
    original: str
    text: str
    at: int


def functions(text: str, language: str) -> list[Function]:
    """Short ones that stand in lines of their own."""
    found = {}
    at = 0
    for line in text.splitlines(keepends=True):
        function = enclosing_function(text, at, language)
        at += len(line)
        if function is not None:
            found[function.start, function.end] = function
    return [
        f
        for f in found.values()
        if 2 <= f.body.count("\n") <= MOST_LINES and len(f.body.strip()) > 20 and not f.is_empty
    ]


def emptied(text: str, function: Function, language: str) -> tuple[str, int] | None:
    """With a placeholder for a body."""
    body, placeholder = function.body, PLACEHOLDERS[language]
    first = len(body) - len(body.lstrip())
    kept = body[:first]
    if language == "python" and function.documented:
        quotes = body.lstrip()[:3]
        end = body.find(quotes, first + 3)
        if end < 0 or quotes not in ('"""', "'''"):
            return None
        line = text.rfind("\n", 0, function.body_start) + 1
        kept = body[: end + 3] + "\n" + text[line : function.body_start]
    made = text[: function.body_start] + kept + placeholder
    return made + body[len(body.rstrip()) :] + text[function.body_end :], function.body_start


def broken(
    text: str, function: Function, language: str, chance: random.Random
) -> tuple[str, int] | None:
    """With one bracket, quote, colon or semicolon less, or two letters of a word exchanged."""
    span = range(function.start, function.end)
    places = [i for i in span if text[i] in "()[]{}:;\"'" or text[i : i + 2].isalpha()]
    chance.shuffle(places)
    for place in places[:40]:
        if text[place].isalpha():
            made = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        else:
            made = text[:place] + text[place + 1 :]
        if faults(made, language):
            return made, place
    return None


def cases(seed: int) -> Iterator[Case]:
    """For ever, a language and an action after the other."""
    chance = random.Random(seed)
    files = [f for f in heldout.load(FILES) if len(f.text) < MOST_CHARACTERS]
    number = 0
    while True:
        language = LANGUAGES[number % len(LANGUAGES)]
        action = ACTIONS[number // len(LANGUAGES) % len(ACTIONS)]
        number += 1
        for _ in range(40):
            file = chance.choice([f for f in files if f.language == language])
            if faults(file.text, language) is None or faults(file.text, language):
                continue
            known = functions(file.text, language)
            if action is Action.DOCSTRING:
                known = [
                    f for f in known if not f.documented and documentation(f, file.text, language)
                ]
            if not known:
                continue
            function = chance.choice(known)
            made: tuple[str, int] | None = (file.text, function.body_start)
            if action is Action.COMPLETE:
                made = emptied(file.text, function, language)
            elif action is Action.FIX:
                made = broken(file.text, function, language, chance)
            if made is not None:
                yield Case(action, language, f"{file.id}:{function.name}", file.text, *made)
                break


def parses(text: str, language: str) -> bool:
    if language == "python":
        try:
            compile(text, "-", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
    return not faults(text, language)


async def judged(server: Server, case: Case) -> tuple[str, str]:
    """How an action ended, and what it wrote."""
    uri = f"untitled:case.{ENDINGS[case.language]}"
    document: Document = server.documents.opened(uri, case.language, 1, case.text)
    params = ActionParams(case.action, DocumentId(uri, 1), document.span(case.at, case.at))
    try:
        outcome = await server.actions.plan(params)(no_op)
    except BlockdiffError as error:
        return error.code, error.message
    written = " | ".join(edit.new_text for edit in outcome.edits)
    after = made_in(document, outcome.edits)
    if after == case.text:
        return "nothing", written
    if case.action is Action.FIX:
        if after == case.original:
            return "restored", written
        return ("parses" if parses(after, case.language) else "better"), written
    before = parses(case.text, case.language)
    if before and not parses(after, case.language):
        return "BROKEN", written
    if case.action is Action.DOCSTRING:
        same = len(functions(after, case.language)) == len(functions(case.text, case.language))
        return ("documented" if same else "BROKEN"), written
    return "written", written


async def measure(runtime: Runtime, count: int, seed: int, tokens: int, seconds: float) -> None:
    server = create(runtime)
    await server.configure({"decoding": {"maxTokens": tokens}})
    server.configured.set()
    found: dict[Action, Counter[str]] = {action: Counter() for action in ACTIONS}
    begin = time.monotonic()
    for number, case in enumerate(cases(seed)):
        if number == count or time.monotonic() - begin > seconds:
            break
        start = time.monotonic()
        how, written = await judged(server, case)
        found[case.action][how] += 1
        took = time.monotonic() - start
        print(
            f"{case.action.value:9} {how:14} {took:5.1f} s  {case.language} {case.name}", flush=True
        )
        print(f"          {written[:300]!r}", flush=True)
    await server.engine.aclose()
    for action, counts in found.items():
        print(f"{action.value}: {counts.total()} actions: {dict(counts)}")
    print(f"broken: {sum(counts['BROKEN'] for counts in found.values())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no action after these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(Path(folder) / "run")
        try:
            asyncio.run(
                measure(runtime, options.count, options.seed, options.max_tokens, options.seconds)
            )
        finally:
            if engine := runtime.announced():
                os.kill(engine.pid, signal.SIGTERM)


if __name__ == "__main__":
    main()
