"""Where a draft turns from code to talk about code: a fence, or prose, in a language that has none.

Shown another file, a model takes the document for an answer in a chat: it closes a code block that
nobody opened and explains. Told to change code, it may answer with talk alone.
"""

from __future__ import annotations

import re

from blockdiff.errors import AnswerIsProse
from blockdiff.syntax.check import check, check_rewrite
from blockdiff.syntax.grammars import LANGUAGES
from blockdiff.syntax.nesting import Nesting, comment_marks, scan
from blockdiff.types import InfillRequest, SyntaxState

MARKUP = frozenset({
    "", "markdown", "mdx", "plaintext", "text", "restructuredtext", "asciidoc", "latex", "tex",
    "html", "xml", "vue", "svelte", "astro", "org", "quarto", "rmd", "git-commit", "gitcommit",
})  # fmt: skip
"""Languages in which prose is text like any other, and where no language is known."""

_FENCE = re.compile(r"[ \t]*(?:```|~~~)[ \t]*[\w+#.-]*[ \t]*$")
_SENTENCE = re.compile(r"[^\W\d_]+[,':]?(?: [`\"'(]?[\w`'\"./()-]+[,;:)`'\"]*){4,}[!? \t]*")
_PLAIN_WORDS = re.compile(r"(?:\b(?:[^\W\d_]{2,}|[aI])\b[,:]? +){3}[^\W\d_]{2,}")
_ITEM = re.compile(r"(?:[-*\u2022]|\d+[.)]) +(?=\*\*|`|[^\W\d_])")
# A sentence in a script that puts no blanks between words.
_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff][\w\s`,.\u3001\uff0c\uff08\uff09-]{4,}[\u3002\uff1a\uff01:]\s*$"
)
_TALK = re.compile(
    r"(?:(?:This|These|The|Here|In this|In the|Note|To|You|It|If you|Please|Sure|Certainly"
    r"|Explanation|However|Now|I|We|As|When)\b|\*\*|#{2,6} )"
)
_KEYWORDS = frozenset(
    "and as async await else for from if import in is lambda not or return select yield where"
    " insert update delete create with while case when then let const static public private"
    " protected final void int new function class struct unsigned signed long short".split()
)
_SAYS_OUTPUT = re.compile(
    r"(?:outputs?|prints?|expected(?: output)?|results?|should (?:print|output|return))\s*:",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(r"(?:example usage|usage(?: example)?|test(?:ing)? the|test cases?)\b", re.I)
_OPENINGS = (
    "```", "Here is", "Here's", "Here are", "Sure", "Certainly", "I ", "I'", "This ", "The "
)  # fmt: skip


def turns_to_prose(raw: str, tail: str, language: str, before: Nesting, final: bool) -> int | None:
    """Offset in `raw` of the first line that is no code, or None.

    `tail` is what stands before the draft in its first line, `before` what is open there. While not
    `final`, the last line may still become anything.
    """
    if language in MARKUP or before.in_text:
        return None
    state, at = before, 0
    lines = raw.split("\n")
    for number, line in enumerate(lines):
        whole = line if number else tail + line
        complete = final or number < len(lines) - 1
        fresh = bool(number) or not tail.strip()
        if complete and fresh and not state.in_text and whole.strip():
            indented = whole[0].isspace()
            if _FENCE.match(whole) and (language in LANGUAGES or not indented):
                return at
            closed = len(state.stack) <= (len(before.stack) if language in LANGUAGES else 0)
            if not indented and closed and _is_prose(whole, language):
                return at
        state = scan(line + "\n", language, state)
        at += len(line) + 1
    return None


def _is_prose(line: str, language: str) -> bool:
    if line.startswith(comment_marks(language) or "\0"):
        return False
    if language in LANGUAGES:
        if line.startswith(("**", "## ", "### ")):
            return not (language in ("c", "cpp") and line.startswith("#"))
        if _UNSPACED.match(line):
            return True
        if item := _ITEM.match(line):
            line = line[item.end() :]
            if line.startswith("**"):
                return True
    talk = bool(_TALK.match(line))
    words = re.findall(r"[^\W\d_][^\W\d_']*", line)
    if len(words) < 4 or line[0].islower() or not _SENTENCE.match(line):
        return False
    plain = _PLAIN_WORDS.search(line)
    foreign = sum(not word.isascii() for word in words) > 1
    keywords = sum(word.lower() in _KEYWORDS for word in plain.group().split()) if plain else 0
    ends = line.rstrip().endswith((".", ":", "!", "?"))
    if language in LANGUAGES:
        return (foreign and ends) or (plain is not None and (talk or ends or keywords == 0))
    return talk and ends and len(words) >= 6 and plain is not None


def invents_output(raw: str, language: str, before: Nesting) -> int | None:
    """Offset in `raw` of the first comment that tells what a line above or beside it prints, or
    introduces an example, with something written before it; None if there is none."""
    marks = comment_marks(language)
    if not marks or before.in_text:
        return None
    marks = (*marks, "/*") if "//" in marks else marks
    for match in re.finditer("|".join(map(re.escape, marks)), raw):
        words = raw[match.end() :].split("\n", 1)[0].strip("#/-* \t")
        above = raw[: match.start()].strip()
        said = _SAYS_OUTPUT.match(words) or (
            _EXAMPLE.match(words) and not raw[raw.rfind("\n", 0, match.start()) + 1 : match.start()]
        )
        if said and above and not scan(raw[: match.start()], language, before).inside:
            return len(raw[: match.start()].rstrip())
    return None


def is_talk(text: str) -> bool:
    """Whether an answer that is no code begins as talk about code does."""
    return text.lstrip().startswith(_OPENINGS)


def verdict(request: InfillRequest, text: str, instructed: bool) -> SyntaxState:
    """Whether the document parses with `text` in the hole; `instructed`: in place of what is there.

    The request names its language as `language_of` does. Raises AnswerIsProse for an answer to an
    instruction that is talk about code.
    """
    start, language = request.hole.start, request.language
    filled = request.prefix + text + request.suffix
    if not instructed:
        return check(filled, start, start + len(text), language)
    found = check_rewrite(request.document, filled, start, start + len(text), language)
    if found is SyntaxState.BROKEN and is_talk(text):
        raise AnswerIsProse(
            "the model answered with talk instead of code",
            "say it in other words, or select whole lines",
        )
    return found
