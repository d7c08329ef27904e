"""What speed is measured at: real code that is completed, typed in, and rewritten.

Everything comes from the standard library of the running Python, so that nothing has to be fetched.
"""

from __future__ import annotations

import itertools
import random
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockdiff.config import DecodingConfig, Layout, Mode, SpecialTokens
from blockdiff.eval import edits
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.rewrite_task import RewriteTask
from blockdiff.infill.healing import healable_tail
from blockdiff.infill.layout import Prompt, build_prompt
from blockdiff.infill.rewrite import Frame
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.types import Hole, InfillRequest, RewriteRequest

_MODULES = [
    "argparse", "ast", "calendar", "configparser", "csv", "difflib", "fractions", "ftplib", "gzip",
    "imaplib", "ipaddress", "locale", "mailbox", "optparse", "pdb", "pickle", "plistlib", "shutil",
    "smtplib", "socketserver", "statistics", "tarfile", "textwrap", "threading", "tokenize",
    "traceback", "uuid", "zipfile",
]  # fmt: skip
_TYPED = 5  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """A prompt that ends at the start of a line of real code, and five characters of that line.

    Attributes:
        prompt: `<prefix> P <suffix> S <middle>`.
        typed: the line's indentation and its first five characters.
        heal: text at the end of these that our engine takes back and spells anew.
        kept: what it leaves of `typed`.
    """

    name: str
    prompt: tuple[int, ...]
    typed: tuple[int, ...]
    heal: str
    kept: tuple[int, ...]

    @property
    def behind(self) -> tuple[int, ...]:
        """After typing as our engine sends it: what was typed begins the middle."""
        return (*self.prompt, *self.kept)

    def before(self, special: SpecialTokens) -> tuple[int, ...]:
        """After typing as others send it: what was typed ends the prefix."""
        cut = self.prompt.index(special.fim_suffix)
        return (*self.prompt[:cut], *self.typed, *self.prompt[cut:])


def lines_of_code(seed: int) -> Iterator[tuple[str, list[str], int]]:
    """(module of the standard library, its lines, number of one that is not short), for ever."""
    rng = random.Random(seed)
    while True:
        name = rng.choice(_MODULES)
        path = _stdlib() / f"{name}.py"
        if not path.is_file():
            continue
        lines = path.read_text("utf-8").splitlines(keepends=True)
        at = rng.randrange(len(lines) // 3, len(lines) * 2 // 3)
        if len(lines[at].strip()) >= 20:
            yield name, lines, at


def places(tokenizer: Tokenizer, count: int, context: int, seed: int) -> list[Place]:
    """Lines with exactly `context` tokens around them, three parts of four before."""
    special = tokenizer.special
    found: list[Place] = []
    before, after = context * 3 // 4 - 2, context // 4 - 1
    for name, lines, at in lines_of_code(seed):
        if len(found) == count:
            break
        prefix = tokenizer.encode("".join(lines[:at]))[-before:]
        suffix = tokenizer.encode("".join(lines[at + 4 :]))[:after]
        if len(prefix) < before or len(suffix) < after:
            continue
        prompt = [special.fim_prefix, *prefix, special.fim_suffix, *suffix, special.fim_middle]
        typed = tokenizer.encode(lines[at][: _indentation(lines[at]) + _TYPED])
        healed, heal = healable_tail(typed, tokenizer)
        kept = tuple(typed[: len(typed) - healed])
        found.append(Place(f"{name}.py:{at + 1}", tuple(prompt), tuple(typed), heal, kept))
    return found


def keystrokes(
    count: int, window: int, seed: int, mode: Mode = Mode.VERIFY
) -> list[tuple[InfillRequest, ...]]:
    """For each of `count` lines the requests of somebody who types in it.

    The first one has the line's indentation only, each of the five others a further character; the
    rest of the line is not there yet. They ask for one token, in a window of `window` tokens.
    """
    decoding = DecodingConfig(mode=mode, max_tokens=1)
    made = []
    for name, lines, at in itertools.islice(lines_of_code(seed), count):
        above, below = "".join(lines[:at]), "\n" + "".join(lines[at + 1 :])
        requests = []
        for typed in range(_TYPED + 1):
            begun = above + lines[at][: _indentation(lines[at]) + typed]
            hole = Hole(len(begun), len(begun))
            requests.append(
                InfillRequest(
                    begun + below, hole, f"{name}.py", decoding=decoding, context_tokens=window
                )
            )
        made.append(tuple(requests))
    return made


@dataclass(frozen=True, slots=True)
class Renaming:
    """A function in which a variable is renamed, which changes few tokens.

    Attributes:
        prompt: of `request`, as the model sees it.
        original, answer: tokens of the function as it is and as it should be, both behind what of
            its line is healed.
        expected: the file as it should be.
    """

    name: str
    request: RewriteRequest
    prompt: Prompt
    original: tuple[int, ...]
    answer: tuple[int, ...]
    expected: str


@dataclass(frozen=True, slots=True)
class Size:
    """Of a renaming: least and most tokens of the function, and of those that change."""

    tokens: tuple[int, int] = (60, 68)
    changed: tuple[int, int] = (3, 3)

    def fits(self, original: Sequence[int], new: Sequence[int]) -> bool:
        low, high = self.changed
        within = self.tokens[0] <= len(original) <= self.tokens[1]
        return within and low <= changed(original, new) <= high


def renamings(
    tokenizer: Tokenizer, count: int, context: int, seed: int, size: Size = Size()
) -> list[Renaming]:
    """At most one of a module, of whose file `context` tokens are shown."""
    paths = sorted(_stdlib().glob("*.py"))
    random.Random(seed).shuffle(paths)
    firsts = (_first_renaming(tokenizer, path, context, size) for path in paths)
    return list(itertools.islice((scene for scene in firsts if scene is not None), count))


def _first_renaming(tokenizer: Tokenizer, path: Path, context: int, size: Size) -> Renaming | None:
    text = path.read_text("utf-8", errors="replace")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    file = HeldOutFile("python", version, "PSF-2.0", "python", path.name, text)
    tasks = (task for function in edits.functions(file) for task in edits.rename(function))
    scenes = (_renaming(tokenizer, task, context, size) for task in tasks)
    return next((scene for scene in scenes if scene is not None), None)


def _renaming(tokenizer: Tokenizer, task: RewriteTask, context: int, size: Size) -> Renaming | None:
    """None for a task of another size."""
    hole = Frame.of(task.document, Hole(task.start, task.end)).hole
    after = len(task.document) - hole.end
    new = task.expected[hole.start : len(task.expected) - after]
    old = task.document[hole.start : hole.end]
    if not size.fits(tokenizer.encode(old), tokenizer.encode(new)):
        return None
    request = RewriteRequest(
        task.document,
        Hole(task.start, task.end),
        task.instruction,
        path=task.path,
        context_tokens=context,
    )
    prompt = build_prompt(
        request.infill(hole), tokenizer, Layout.CHAT, instruction=task.instruction
    )
    original, answer = (tuple(tokenizer.encode(prompt.heal + text)) for text in (old, new))
    return Renaming(task.id, request, prompt, original, answer, task.expected)


def changed(one: Sequence[int], other: Sequence[int]) -> int:
    """In how many places two texts of equal length differ; -1 where the lengths do."""
    if len(one) != len(other):
        return -1
    return sum(a != b for a, b in zip(one, other, strict=True))


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])
