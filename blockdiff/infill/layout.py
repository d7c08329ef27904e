"""How prefix, hole and suffix become one token sequence.

Each layout is one that checkpoints were trained on:

    psm   <fim_prefix> P <fim_suffix> S <fim_middle> A          and the middle follows
    spm   <fim_prefix> <fim_suffix> S <fim_middle> P A          and the middle follows
    suffix_first  <fim_suffix> S <fim_prefix> P A <fim_middle>  and the middle follows
    in_place      P A, the hole, S
    chat  a conversation that ends inside the code block of the answer

P ends where the line begins that the hole starts in; A is the rest up to the hole (`windows.py`).

Related snippets come first, as Qwen2.5-Coder saw the files of a repository:

    <repo_name> name \\n  <file_sep> path \\n text ...  <file_sep> path \\n  <fim_prefix> P ...

Special ids are put in here one by one; text is encoded apart from them and can make none.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from blockdiff.config import Layout
from blockdiff.errors import InvalidRequest, ModelUnsupported
from blockdiff.infill.healing import HealingConstraint, PromptTokenizer, healable_tail
from blockdiff.infill.turns import conversation, style_of
from blockdiff.infill.windows import (
    Windows,
    first_lines,
    last_lines,
    text_after,
    text_before,
    windows,
)
from blockdiff.syntax.grammars import language_of
from blockdiff.syntax.whitespace import to_lf, with_line_feeds
from blockdiff.types import InfillRequest, Snippet

__all__ = ["HealingConstraint", "Prompt", "PromptTokenizer", "build_prompt"]

_LEAST_SNIPPET_TOKENS = 16
_PATH_PARTS = 3
_REPOSITORY = "repository"

_SYSTEM = "You are a code editor. You answer with one code block and nothing else."


@dataclass(frozen=True)
class Prompt:
    """A request as the model sees it.

    Attributes:
        tokens: the whole sequence; generation continues it.
        heal: text that was taken off the end of the prefix and that the generated text has to
            start with again (`HealingConstraint`); the caller strips it.
        context_tokens: tokens of prefix, suffix and snippets among `tokens`; with an instruction
            also of the text to rewrite.
        fence: what closes the code block that the answer is in; empty where it is in none.
        after: what stands behind the hole, in the layout `in_place`.
    """

    tokens: tuple[int, ...]
    heal: str
    context_tokens: int
    fence: str = ""
    after: tuple[int, ...] = ()


def build_prompt(
    request: InfillRequest,
    tokenizer: PromptTokenizer,
    layout: Layout,
    *,
    heal: bool = True,
    instruction: str = "",
) -> Prompt:
    """Lays out the text around the hole within `request.context_tokens`.

    The lines nearest to the hole come first: two thirds of the budget for the prefix, one for the
    suffix, what one side does not need for the other, and what both leave for the snippets. Only
    text near the hole is tokenized, however long the document. While somebody types in a line, only
    the end of the sequence changes, but for the layouts `chat` and `in_place`. The model sees LF
    and no BOM. With an `instruction` (layout `chat` only) the text in the hole is shown, to be
    rewritten.

    Raises:
        InvalidRequest: an instruction in another layout.
        ModelUnsupported: the checkpoint lacks the special tokens of the layout.
    """
    if instruction and layout is not Layout.CHAT:
        raise InvalidRequest(f"the {layout.value} layout takes no instruction")
    request = replace(request, document=with_line_feeds(request.document))
    if layout is Layout.CHAT:
        return _chat(request, tokenizer, heal, instruction.strip())
    if layout is Layout.IN_PLACE:
        return _in_place(request, tokenizer, heal)
    marks = fim_marks(tokenizer)
    window, room = window_and_room(request, tokenizer)
    prefix, begun, suffix = window.before, window.begun, window.after
    last = begun or prefix
    healed, text = healable_tail(last, tokenizer) if heal else (0, "")
    del last[len(last) - healed :]
    snippets = snippets_before(request, tokenizer, room)
    if layout is Layout.PSM:
        hole = [marks[0], *prefix, marks[1], *suffix, marks[2], *begun]
    elif layout is Layout.SUFFIX_FIRST:
        hole = [marks[1], *suffix, marks[0], *prefix, *begun, marks[2]]
    else:
        hole = [marks[0], marks[1], *suffix, marks[2], *prefix, *begun]
    return Prompt((*snippets, *hole), text, len(snippets) + len(hole) - len(marks))


def with_language(request: InfillRequest) -> InfillRequest:
    """With its language by the name of `language_of`, so that nobody asks for it again."""
    first_line = to_lf(request.document[:200]).split("\n", 1)[0]
    return replace(request, language=language_of(request.path, request.language, first_line))


def fim_marks(tokenizer: PromptTokenizer) -> tuple[int, int, int]:
    """Ids that stand before prefix, suffix and middle. Raises ModelUnsupported."""
    special = tokenizer.special
    marks = (special.fim_prefix, special.fim_suffix, special.fim_middle)
    if min(marks) < 0:
        raise ModelUnsupported(
            "the model has no fill-in-the-middle tokens", "use a model of `blockdiff models list`"
        )
    return marks


def _in_place(request: InfillRequest, tokenizer: PromptTokenizer, heal: bool) -> Prompt:
    """The texts around the hole where they stand. Snippets are left out: no such checkpoint has
    seen files beside one another."""
    window = windows(request, tokenizer)
    healed, text = healable_tail(window.begun or window.before, tokenizer) if heal else (0, "")
    before = [*window.before, *window.begun]
    before = before[: len(before) - healed]
    return Prompt(
        tuple(before), text, len(before) + len(window.after), after=tuple(window.after)
    )


def framed(prompt: Prompt, begin: tuple[int, ...], end: tuple[int, ...]) -> Prompt:
    """With ids before its first token, and behind the text that follows the hole."""
    return replace(prompt, tokens=(*begin, *prompt.tokens), after=(*prompt.after, *end))


def _context(
    request: InfillRequest, tokenizer: PromptTokenizer, budget: int
) -> tuple[list[int], list[int]]:
    """The tokens before and after the hole that fit the budget."""
    start, end, document = request.hole.start, request.hole.end, request.document
    before = text_before(document, start, tokenizer, budget)
    after = text_after(document, end, tokenizer, budget)
    share = budget * 2 // 3
    share = max(share, budget - len(after))  # what the suffix leaves
    before = last_lines(before, share, tokenizer)
    return before, first_lines(after, budget - len(before), tokenizer)


def window_and_room(request: InfillRequest, tokenizer: PromptTokenizer) -> tuple[Windows, int]:
    """The window around the hole, and how many tokens there are for snippets.

    Those that are kept for snippets are as many as the snippets need, whatever is typed: typing
    moves no edge of the window on their account.
    """
    kept = kept_for_snippets(request, tokenizer)
    budget = request.context_tokens
    window = windows(replace(request, context_tokens=budget - kept), tokenizer)
    left = budget - window.used
    return window, max(left, _share(request)) if kept else left


def kept_for_snippets(request: InfillRequest, tokenizer: PromptTokenizer) -> int:
    """Tokens that the first snippets take of the share that is kept for them."""
    share = _share(request)
    return len(snippets_before(request, tokenizer, share)) if share else 0


def kept_between(request: InfillRequest, tokenizer: PromptTokenizer, around: int) -> int:
    """The same where `around` tokens surround each snippet."""
    shown = fitting(request.snippets, tokenizer, _share(request), around)
    return sum(len(tokens) + len(tokenizer.encode(path)) + around + 2 for path, tokens in shown)


def _share(request: InfillRequest) -> int:
    return min(request.snippet_tokens, request.context_tokens // 2)


def snippets_before(request: InfillRequest, tokenizer: PromptTokenizer, budget: int) -> list[int]:
    """The repository part of a prompt, the most relevant snippet last; empty if nothing fits.

    A checkpoint without the tokens for it was not trained on such prompts and gets none.
    """
    repo_name, file_sep = tokenizer.special.repo_name, tokenizer.special.file_sep
    if not request.snippets or min(repo_name, file_sep) < 0:
        return []
    head = [repo_name, *tokenizer.encode(f"{_REPOSITORY}\n")]
    current = [file_sep, *tokenizer.encode(f"{short_path(request.path)}\n")]
    files = []
    budget -= len(head) + len(current)
    for path, tokens in fitting(request.snippets, tokenizer, budget, around=1):
        files.append([file_sep, *tokenizer.encode(f"{path}\n"), *tokens])
    if not files:
        return []
    return [*head, *(token for file in reversed(files) for token in file), *current]


def fitting(
    snippets: Sequence[Snippet], tokenizer: PromptTokenizer, budget: int, around: int
) -> Iterator[tuple[str, list[int]]]:
    """Short path and first lines of each snippet that still fits; `around` tokens surround it."""
    for snippet in snippets:
        path = short_path(snippet.path)
        budget -= around + len(tokenizer.encode(f"{path}\n")) + 1
        if budget < _LEAST_SNIPPET_TOKENS:
            return
        tokens = first_lines(text_after(snippet.text, 0, tokenizer, budget), budget, tokenizer)
        budget -= len(tokens)
        if tokens and not tokenizer.token_bytes(tokens[-1]).endswith(b"\n"):
            tokens = [*tokens, *tokenizer.encode("\n")]
        if tokens:
            yield path, tokens


def short_path(path: str) -> str:
    """The last parts of a path: what names the file, not where the user keeps it."""
    parts = [part for part in re.split(r"[/\\\s]+", path) if part]
    return "/".join(parts[-_PATH_PARTS:]) or "file"


@dataclass(frozen=True, slots=True)
class Wording:
    """A request in words, for a model that can chat.

    Attributes:
        system, user: what is said to it.
        fence: what its code block opens and closes with.
        language: of the code block.
        lead: what stands before the hole in its line; the answer begins with it.
        used: tokens of the document and of the snippets in it.
    """

    system: str
    user: str
    fence: str
    language: str
    lead: str
    used: int


def _chat(
    request: InfillRequest, tokenizer: PromptTokenizer, heal: bool, instruction: str
) -> Prompt:
    """A conversation in Qwen2.5's template, up to the point in the answer where the hole starts.

    The answer is begun for the model: the fence of the code block and the start of the hole's first
    line.
    """
    style = style_of(tokenizer.special)
    said = worded(request, tokenizer, instruction)
    line = tokenizer.encode(said.lead)
    healed, heal_text = healable_tail(line, tokenizer) if heal else (0, "")
    answer = f"{said.fence}{said.language}\n"
    tokens = conversation(said.system, said.user, answer, style, tokenizer)
    tokens += line[: len(line) - healed]
    return Prompt(tuple(tokens), heal_text, said.used, said.fence)


def worded(request: InfillRequest, tokenizer: PromptTokenizer, instruction: str) -> Wording:
    """What a model is asked for, with the text around the hole within `request.context_tokens`.

    With an `instruction` the text in the hole is shown, to be rewritten.
    """
    replaced = request.document[request.hole.start : request.hole.end] if instruction else ""
    shown = tokenizer.encode(to_lf(replaced))
    budget = request.context_tokens
    kept = kept_between(request, tokenizer, _LEAST_SNIPPET_TOKENS)
    prefix, suffix = _context(request, tokenizer, budget - kept)
    left = budget - len(prefix) - len(suffix)
    snippets = list(fitting(request.snippets, tokenizer, left, around=_LEAST_SNIPPET_TOKENS))
    used = len(shown) + budget - left + sum(len(tokens) for _, tokens in snippets)

    before, after, inside = (_text(part, tokenizer) for part in (prefix, suffix, shown))
    files = [(path, _text(tokens, tokenizer)) for path, tokens in reversed(snippets)]
    everything = "".join((before, inside, after, *(text for _, text in files)))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", everything)), default=0))
    language = request.language
    name = next(n for i in itertools.count() if (n := f"HOLE{i or ''}") not in everything)
    hole = inside if instruction else f"<<<{name}>>>"
    user = "".join(f"File `{path}`:\n{fence}\n{text}{fence}\n\n" for path, text in files)
    text = f"{before}{hole}{after}".removesuffix("\n")
    user += f"File `{short_path(request.path)}`:\n{fence}{language}\n{text}\n{fence}\n"
    lead = before[before.rfind("\n") + 1 :]
    user += (
        f"\nRewrite this part of it: {instruction}\n{fence}{language}\n{lead}{inside}\n{fence}\n"
        "Answer with the whole part as it is after the change, from its first line to its last. "
        "Lines that stay the same are repeated."
        if instruction
        else f"Write the text that belongs in the place of {hole}.\n"
        "Answer with that text only, indented as it stands in the file."
    )
    return Wording(_SYSTEM, user, fence, language, lead, used)


def _text(tokens: Sequence[int], tokenizer: PromptTokenizer) -> str:
    return b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", "replace")
