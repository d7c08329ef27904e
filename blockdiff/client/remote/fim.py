"""How each family of models marks the hole in a prompt.

The marks are texts that a server turns into special tokens wherever it finds them. What stands in a
document must make none: there a blank goes into a mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Fim(str, Enum):
    """How a hole is marked."""

    AUTO = "auto"  # by the model's name
    SUFFIX = "suffix"  # the server does it, from the field `suffix`
    QWEN = "qwen"
    STARCODER = "starcoder"
    CODELLAMA = "codellama"
    DEEPSEEK = "deepseek"
    CODESTRAL = "codestral"
    GRANITE = "granite"
    CODEGEMMA = "codegemma"


@dataclass(frozen=True, slots=True)
class FimMarks:
    """Attributes:
    prefix, suffix, middle: what stands before each; `middle` may be empty.
    suffix_first: the suffix comes before the prefix.
    repository, file: before the name of a repository, and of each file; empty: not known to it.
    ends: what a server may show of the end that the model wrote.
    """

    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...]
    suffix_first: bool = False
    repository: str = ""
    file: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """All of them, without the blanks around them."""
        own = (self.prefix, self.suffix, self.middle, self.repository, self.file, *self.ends)
        return tuple(mark.strip() for mark in own if mark.strip())

    def prompt(
        self, prefix: str, suffix: str, path: str, snippets: Sequence[tuple[str, str]]
    ) -> str:
        """`snippets`: path and text, the most relevant last."""
        prefix, suffix = self.unmarked(prefix), self.unmarked(suffix)
        before, after = f"{self.prefix}{prefix}", f"{self.suffix}{suffix}"
        hole = (after + before if self.suffix_first else before + after) + self.middle
        if not (snippets and self.file):
            return hole
        head = f"{self.repository}repository\n" if self.repository else ""
        files = "".join(self.file + self.unmarked("\n".join(snippet)) for snippet in snippets)
        return f"{head}{files}{self.file}{path}\n{hole}"

    def unmarked(self, text: str) -> str:
        for mark in self.marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


_STARCODER_ENDS = ("<|endoftext|>",)
FAMILIES = {
    Fim.QWEN: FimMarks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
        ("<|endoftext|>", "<|fim_pad|>", "<|im_end|>"), False, "<|repo_name|>", "<|file_sep|>",
    ),
    Fim.STARCODER: FimMarks(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>", _STARCODER_ENDS, False, "<repo_name>",
        "<file_sep>",
    ),
    Fim.CODELLAMA: FimMarks("<PRE> ", " <SUF>", " <MID>", ("<EOT>", "</s>")),
    Fim.DEEPSEEK: FimMarks(
        "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ("<｜end▁of▁sentence｜>",)
    ),
    Fim.CODESTRAL: FimMarks("[PREFIX]", "[SUFFIX]", "", ("[MIDDLE]", "</s>"), suffix_first=True),
    Fim.GRANITE: FimMarks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|end_of_text|>",)
    ),
    Fim.CODEGEMMA: FimMarks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
        ("<|file_separator|>", "<end_of_turn>", "<eos>"),
    ),
}  # fmt: skip

_NAMES = (
    (r"qwen", Fim.QWEN),
    (r"granite-?4", Fim.GRANITE),
    (r"starcoder|stable-?code|granite", Fim.STARCODER),
    (r"code-?llama", Fim.CODELLAMA),
    (r"deepseek-?coder", Fim.DEEPSEEK),
    (r"codestral", Fim.CODESTRAL),
    (r"codegemma", Fim.CODEGEMMA),
)


def fim_of(model: str) -> Fim:
    """By the name of a model; `suffix` for one that tells nothing."""
    found = (fim for pattern, fim in _NAMES if re.search(pattern, model.lower()))
    return next(found, Fim.SUFFIX)


def before_marks(text: str, marks: Sequence[str], final: bool) -> tuple[str, bool]:
    """The part of a text before the first mark in it, and whether there is one.

    Unless it is `final`, what may be the begin of a mark at its end is left out, too.
    """
    ends = [place for mark in marks if (place := text.find(mark)) >= 0]
    if ends:
        return text[: min(ends)], True
    if not final:
        longest = max(map(len, marks), default=1)
        for size in range(min(longest - 1, len(text)), 0, -1):
            if any(mark.startswith(text[-size:]) for mark in marks):
                return text[:-size], False
    return text, False
