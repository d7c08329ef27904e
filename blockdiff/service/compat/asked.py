"""What clients of other servers ask for, as requests to our engine.

Their bodies are read leniently: unknown keys and nulls are passed over, wrong types are refused.
Text is cut at the marks of Qwen2.5-Coder where a prompt carries them, and at the lines by which
minuet names the language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar, get_args

from blockdiff.client import strict, wire
from blockdiff.config import MOST_TOKENS, SEEDS, DecodingConfig, annotations_of, bare
from blockdiff.errors import InvalidRequest
from blockdiff.syntax.grammars import language_of
from blockdiff.syntax.whitespace import to_lf
from blockdiff.types import Extent, Hole, InfillRequest, RewriteRequest, Snippet

_T = TypeVar("_T")

_MOST_STOPS = 128  # each is looked for in every piece of an answer

_FIM_PREFIX, _FIM_SUFFIX, _FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
_CUT_MARKS = tuple(_FIM_PREFIX[at:] for at in range(1, len(_FIM_PREFIX) - 2))  # `|>` is also code
_REPO_NAME, _FILE_SEP = "<|repo_name|>", "<|file_sep|>"
# What they look for has bounds: they read text of any size on the loop that serves everybody.
_MINUET = re.compile(
    r"\A\W{0,8}language: (?P<language>[\w+#.-]{1,40})[^\n]{0,40}\n"
    r"(?:\W{0,8}indentation: use (?P<indentation>\d{1,3} spaces|\t) for a tab[^\n]{0,40})?\n"
)
_SECTION = re.compile(r"^--- (CONTEXT|PREFIX|SELECTION|SUFFIX) +-{20,}\n", re.MULTILINE)
_FENCE = re.compile(r"(`{3,})([\w+#.-]*)")


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Where an answer ends besides where the engine ends it.

    Attributes:
        stop: the answer ends in front of the first of these.
        indentation: blanks that every line but the first must begin with, unless it is blank.
        seconds: since the first token, from which on a finished line is enough; 0: no limit.
    """

    stop: tuple[str, ...] = ()
    indentation: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and what is to become of it.

    Attributes:
        request: None where there is nothing to do.
        warms: nothing is to be written, its context only encoded.
        fence: what stands before and behind the text of the answer.
    """

    request: InfillRequest | RewriteRequest | None
    limits: AnswerLimits = AnswerLimits()
    warms: bool = False
    fence: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to write, in the words that these protocols share.

    Attributes:
        most: tokens; None: as many as is usual, negative: as many as possible, 0: none.
        temperature, top_p: greedy unless somebody asks for more.
        seed: None and -1 stand for any.
    """

    most: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def decoding(self) -> DecodingConfig:
        """Raises InvalidRequest."""
        most = 0 if self.most is None else self.most
        seed = 0 if self.seed is None or self.seed == -1 else self.seed
        if not SEEDS[0] <= seed <= SEEDS[1]:
            raise InvalidRequest(f"seed must be -2^63..2^64-1, got {seed}")
        return DecodingConfig(
            max_tokens=MOST_TOKENS if most < 0 else min(most, MOST_TOKENS),
            temperature=self.temperature if self.top_p > 0 else 0.0,
            top_p=self.top_p if self.top_p > 0 else 1.0,
            seed=seed,
        )


@dataclass(frozen=True, slots=True)
class Text:
    """What stands around the place to write at.

    Attributes:
        path, language, indentation: as of `InfillRequest`.
        snippets: the most relevant first.
    """

    prefix: str
    suffix: str = ""
    path: str = ""
    language: str = ""
    indentation: str = ""
    snippets: tuple[Snippet, ...] = ()

    @classmethod
    def of_prompt(cls, prompt: str, suffix: str | None) -> Text:
        """With a `suffix` the prompt is the text before it; without one it may hold both, marked as
        Qwen2.5-Coder has them, or is to be continued."""
        marked = None if suffix else _at_marks(prompt)
        return (marked or cls(prompt, suffix or ""))._without_minuet()

    def asked(self, sampling: Sampling, limits: AnswerLimits, context_tokens: int) -> Ask:
        """Write as far as the model likes."""
        return self._asked(sampling, limits, context_tokens, Extent.HOLE)

    def asked_at_cursor(self, sampling: Sampling, limits: AnswerLimits, context_tokens: int) -> Ask:
        """Write what ghost text shows: the rest of a line, or of a block."""
        one_line = bool(self.suffix.partition("\n")[0].strip())
        extent = Extent.LINE if one_line else Extent.BLOCK
        return self._asked(sampling, limits, context_tokens, extent)

    def _asked(
        self, sampling: Sampling, limits: AnswerLimits, context_tokens: int, extent: Extent
    ) -> Ask:
        document, at = self.prefix + self.suffix, len(self.prefix)
        wire.check_size(document)
        first_line = to_lf(document[:200]).split("\n", 1)[0]
        request = InfillRequest(
            document,
            Hole(at, at),
            path=self.path,
            language=language_of(self.path, self.language, first_line),
            indentation=self.indentation,
            snippets=self.snippets,
            decoding=sampling.decoding,
            context_tokens=context_tokens,
            extent=extent,
        )
        return Ask(request, limits, warms=sampling.most == 0)

    def _without_minuet(self) -> Text:
        """Without the two comments at the start by which minuet names language and indentation."""
        found = _MINUET.match(self.prefix)
        if found is None:
            return self
        indentation = found["indentation"] or ""
        if indentation.endswith("spaces"):
            count = int(indentation.split()[0])
            indentation = " " * count if 0 < count <= 16 else ""
        return Text(
            self.prefix[found.end() :], self.suffix, self.path, found["language"], indentation,
            self.snippets,
        )  # fmt: skip


def _at_marks(prompt: str) -> Text | None:
    """A prompt as Qwen2.5-Coder sees it, taken apart; None for any other. The first mark may be
    missing: Tabby cuts long prompts off at their beginning, wherever that falls."""
    head, marked, rest = prompt.partition(_FIM_PREFIX)
    if not marked:
        head, rest = "", prompt
        rest = rest.removeprefix(next((c for c in _CUT_MARKS if rest.startswith(c)), ""))
    prefix, found, rest = rest.partition(_FIM_SUFFIX)
    suffix, ends, begun = rest.rpartition(_FIM_MIDDLE)
    if not (found and ends):
        return None
    leading, *files = head.split(_FILE_SEP)
    path = ""
    if files and not files[-1].partition("\n")[2].strip():
        path = files.pop().partition("\n")[0]
    snippets = [_snippet(*file.partition("\n")[::2]) for file in files]
    if not leading.startswith(_REPO_NAME):
        snippets.insert(0, _snippet("", leading))
    told = tuple(snippet for snippet in reversed(snippets) if snippet.text.strip())
    return Text(prefix + begun, suffix, path, snippets=told)


def _snippet(path: str, text: str) -> Snippet:
    return Snippet(path.strip(), text)


def language_of_all(paths: Iterable[str]) -> str:
    """The language that all files are in; empty where they differ or there is none."""
    found = {language_of(path) for path in paths}
    return found.pop() if len(found) == 1 else ""


def rewriting(messages: list[tuple[str, str]], sampling: Sampling, context_tokens: int) -> Ask:
    """A conversation, as (role, text), that asks for a text to be changed.

    The text is the selection as llama.vim marks it, or the last block of code between fences.
    Raises InvalidRequest where there is none.
    """
    users = [text for role, text in messages if role == "user"]
    if not users:
        raise InvalidRequest("no message has the role user", "say what to change in one")
    for role, text in messages:
        if role == "system" and (parts := _sections(text)) is not None:
            return _selection(parts, messages, sampling, context_tokens)
    for text in reversed(users):
        if (block := _last_block(text)) is not None:
            return _rewriting(block, text, users[-1], sampling, context_tokens)
    raise InvalidRequest(
        "there is no code to rewrite in the messages",
        "put it between ``` fences and say what to change; this engine does not chat",
    )


def _sections(text: str) -> dict[str, str] | None:
    """The parts of llama.vim's system message by their names."""
    pieces = _SECTION.split(text)
    parts = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return parts if "SELECTION" in parts else None


def _selection(
    parts: dict[str, str], messages: list[tuple[str, str]], sampling: Sampling, context_tokens: int
) -> Ask:
    """llama.vim's; what was answered before is what a further instruction is about."""
    before, after = (parts.get(name, "") for name in ("PREFIX", "SUFFIX"))
    answers = [text for role, text in messages if role == "assistant"]
    selected = answers[-1] if answers else parts["SELECTION"].removesuffix("\n")
    prefix = before if before.strip() else ""  # it ends with a line break, even without lines
    instruction = messages[-1][1].removeprefix("INSTRUCTION:").strip()
    if sampling.most == 0 or not instruction:
        return Ask(None, warms=True)
    document = f"{prefix}{selected}\n{after}"
    span = Hole(len(prefix), len(prefix) + len(selected))
    return Ask(_rewrite(document, span, instruction, "", sampling, context_tokens))


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of code, fences included, at `start` to `end` of a text."""

    fence: str
    language: str
    code: str
    start: int
    end: int


def _last_block(text: str) -> _Block | None:
    """The last that is closed; where none is, one that goes on to the end of the text."""
    last: _Block | None = None
    opening: re.Match[str] | None = None
    start = begin = at = 0
    for line in text.split("\n"):
        end = at + len(line)
        if opening is None:
            found = _FENCE.match(line)
            if found and "`" not in line[found.end() :]:
                opening, start, begin = found, at, end + 1
        elif line.startswith(opening[1]) and not line.rstrip().strip("`"):
            code = text[begin : max(begin, at - 1)].removesuffix("\r")
            last, opening = _Block(opening[1], opening[2], code, start, end), None
        at = end + 1
    if last is None and opening is not None:
        last = _Block(opening[1], opening[2], text[begin:], start, len(text))
    return last


def _rewriting(block: _Block, text: str, last: str, sampling: Sampling, context_tokens: int) -> Ask:
    """A block of code; the instruction is what stands around it and what was said since."""
    instruction = (text[: block.start] + text[block.end :]).strip()
    if last is not text:
        instruction = last.strip()
    if sampling.most == 0:
        return Ask(None, warms=True)
    if not instruction:
        raise InvalidRequest("nothing is said about the code", "say what to change in it")
    fence, language, code = block.fence, block.language, block.code
    request = _rewrite(code, Hole(0, len(code)), instruction, language, sampling, context_tokens)
    return Ask(request, fence=(f"{fence}{language}\n", f"\n{fence}"))


def _rewrite(
    document: str, span: Hole, instruction: str, language: str, sampling: Sampling, context: int
) -> RewriteRequest:
    wire.check_size(document)
    return RewriteRequest(
        document,
        span,
        instruction,
        language=language,
        decoding=sampling.decoding,
        context_tokens=context,
    )


# --- fields of bodies ----------------------------------------------------------------------------


def read(kind: type[_T], value: dict[str, Any]) -> _T:
    """A body as a dataclass of what we know of it. Raises InvalidRequest."""
    return strict.read(kind, _known(kind, value))


def _known(kind: Any, value: Any) -> Any:
    """Without keys that a dataclass has not, and without nulls, which stand for defaults. A whole
    number is one however it is written: languages with one kind of number say 64.0."""
    kind = bare(kind)
    if isinstance(value, dict) and is_dataclass(kind):
        known = annotations_of(kind)  # type: ignore[arg-type]
        return {
            key: _known(known[key], item)
            for key, item in value.items()
            if key in known and item is not None
        }
    if isinstance(value, list) and get_args(kind):
        return [_known(get_args(kind)[0], item) for item in value]
    if isinstance(value, float) and value.is_integer() and int in (kind, *get_args(kind)):
        return int(value)
    return value


def one_text(value: Any, where: str) -> str:
    """A string, or a list with one. Raises InvalidRequest."""
    texts = value if isinstance(value, list) else [value]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InvalidRequest(f"{where} must be a string", "send one prompt in each request")
    return strict.read(str, texts[0], where)


def stops(value: Any) -> tuple[str, ...]:
    """The strings of a list, or one; empty ones are left out. Raises InvalidRequest."""
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("stop must be a string or a list of strings")
    if len(texts) > _MOST_STOPS:
        raise InvalidRequest(f"stop has {len(texts)} strings", f"send {_MOST_STOPS} at most")
    return tuple(text for text in texts if text)
