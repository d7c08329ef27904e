"""Why an automatic completion did not come: one enum, and the last one for whoever asks.

The language server notes it, in `<runtime>/missed.json` too, where `blockdiff status` finds it. It
holds what kind it was, when and where; never a character of the document.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from enum import Enum
from typing import Annotated
from urllib.parse import unquote, urlsplit

from msgspec import to_builtins

from blockdiff.client import strict
from blockdiff.client.endpoint import Runtime
from blockdiff.config import about
from blockdiff.errors import BlockdiffError

_FILE = "missed.json"


class NoCompletion(str, Enum):
    """Why an automatic completion did not come, or was dropped."""

    OFF = "off"
    EXCLUDED = "excluded"
    IGNORED = "ignored"
    MODEL_ABSENT = "modelAbsent"
    IN_WORD = "inWord"
    IN_COMMENT = "inComment"
    IN_STRING = "inString"
    TOO_LARGE = "tooLarge"
    REPLACED = "replaced"
    FAILED = "failed"
    EMPTY = "empty"
    REPEATS = "repeats"
    TOO_LATE = "tooLate"

    @property
    def words(self) -> str:
        """What it means, and what to do."""
        return _WORDS[self]


_WORDS = {
    NoCompletion.OFF: "completing while typing is switched off: set inline.automatic to true",
    NoCompletion.EXCLUDED: "it is switched off for this language or file: see "
    "inline.disabledLanguages and inline.disabledGlobs",
    NoCompletion.IGNORED: "a .blockdiffignore lists this file: take it off that list",
    NoCompletion.MODEL_ABSENT: "the model is not downloaded, and typing alone downloads nothing: "
    "run blockdiff models pull, or ask for a draft",
    NoCompletion.IN_WORD: "the cursor stands in a word: completions come at its end",
    NoCompletion.IN_COMMENT: "it is switched off in comments: set inline.inComments to true",
    NoCompletion.IN_STRING: "it is switched off in strings: set inline.inStrings to true",
    NoCompletion.TOO_LARGE: "the document is too large for the engine: split it, or ask for a "
    "draft to see the limit",
    NoCompletion.REPLACED: "you typed on, and a newer one took its place: wait for a moment",
    NoCompletion.FAILED: "the engine failed: run blockdiff doctor",
    NoCompletion.EMPTY: "the model had nothing to write here: write on, or ask on command",
    NoCompletion.REPEATS: "all that the model wrote stands around the cursor already: write on, "
    "or ask on command",
    NoCompletion.TOO_LATE: "the text had changed before it was there: wait for a moment, or lower "
    "context.latencySeconds",
}


@dataclass(frozen=True, slots=True)
class Missed:
    """A completion that did not come."""

    kind: NoCompletion
    time: Annotated[int, about("In seconds since 1970.", ge=0)]
    uri: Annotated[str, about("The document.")]
    line: Annotated[int, about("Where in it, 0-based.", ge=0)]
    message: Annotated[str, about("What `kind` means, and what to do.")]

    @classmethod
    def now(cls, kind: NoCompletion, uri: str, line: int) -> Missed:
        return cls(kind, int(time.time()), uri, line, kind.words)

    def __str__(self) -> str:
        """When, where and why, in one line."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))
        where = unquote(urlsplit(self.uri).path) or self.uri
        return f"{self.message} ({where}:{self.line + 1}, {at})"


def save(missed: Missed, runtime: Runtime) -> None:
    """Keep it for `blockdiff status`; where that cannot be written it is not kept."""
    with contextlib.suppress(BlockdiffError):
        runtime.prepare()
        runtime.write_private(_FILE, json.dumps(to_builtins(missed)))


def last(runtime: Runtime) -> Missed | None:
    """The one that a language server of this user kept last; None without one that can be read."""
    try:
        return strict.read(Missed, strict.parse(runtime.read(_FILE).encode()))
    except (BlockdiffError, OSError, ValueError):
        return None
