"""What is open at a point of a source text: brackets, a string, a comment.

A lexer that knows just enough of each language to skip what only looks like a bracket. It never
fails; where a language surprises it (regular expression literals, macros) its answer is off, so
callers compare two answers on nearly the same text and act on the difference only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_CLOSER = {"(": ")", "[": "]", "{": "}"}
_CLOSERS = frozenset(_CLOSER.values())
_LUA_OPEN = frozenset({"function", "if", "do", "repeat"})
_LUA_CLOSE = frozenset({"end", "until"})

_HASH_COMMENTS = frozenset({
    "python", "shell", "shellscript", "sh", "bash", "zsh", "fish", "powershell", "ruby", "perl",
    "r", "yaml", "toml", "make", "makefile", "cmake", "dockerfile", "elixir", "julia", "nix",
})  # fmt: skip
_DASH_COMMENTS = frozenset({"lua", "sql", "haskell"})
_NO_LINE_COMMENTS = frozenset({
    "html", "xml", "css", "json", "markdown", "plaintext", "restructuredtext", "latex",
})  # fmt: skip
_BACKTICK_STRINGS = frozenset({"javascript", "typescript", "tsx", "go"})
_TRIPLE_QUOTES = frozenset({
    "python", "java", "csharp", "kotlin", "scala", "swift", "julia", "elixir", "groovy", "dart",
    "toml",
})  # fmt: skip
_TRIPLE_APOSTROPHES = frozenset({"python", "groovy", "dart", "toml"})
_NO_BLOCK_COMMENTS = _HASH_COMMENTS | (_NO_LINE_COMMENTS - {"css"}) | {"lua", "haskell"}

LINE_COMMENT = "\n"
_BLOCK_COMMENT = "*/"


@dataclass(frozen=True, slots=True)
class Nesting:
    """What is open at one point.

    Attributes:
        stack: closers still owed, outermost first, each with the offset of its opener.
        unmatched: closers met that no opener waited for.
        inside: what ends the string or comment that is open here; empty in plain code.
    """

    stack: tuple[tuple[str, int], ...] = ()
    unmatched: tuple[str, ...] = ()
    inside: str = ""

    @property
    def closers(self) -> str:
        """Those still owed, each with a blank behind it."""
        return "".join(f"{closer} " for closer, _ in self.stack)

    @property
    def in_string(self) -> bool:
        return self.inside not in ("", LINE_COMMENT, _BLOCK_COMMENT)

    @property
    def in_text(self) -> bool:
        """Inside a string or a block comment, whose lines are no lines of code."""
        return self.inside not in ("", LINE_COMMENT)


def scan(text: str, language: str, at: Nesting = Nesting(), offset: int = 0) -> Nesting:  # noqa: B008
    """What is open after `text`, where `at` was open before it. O(length), about 10 MB/s.

    `offset` is added to the offsets of the openers recorded in `stack`.
    """
    stack, unmatched, inside = list(at.stack), list(at.unmatched), at.inside
    position, token = 0, _tokens(language)
    while position < len(text):
        if inside:
            position, inside = _leave(text, position, inside, language)
            continue
        match = token.search(text, position)
        if match is None:
            break
        word, position = match.group(), match.end()
        if word in _CLOSER or word in _LUA_OPEN:
            stack.append((_CLOSER.get(word, "end"), match.start() + offset))
        elif word in _CLOSERS or word in _LUA_CLOSE:
            closer = "end" if word == "until" else word
            if stack and stack[-1][0] == closer:
                stack.pop()
            else:
                unmatched.append(closer)
        elif match.lastgroup == "opens":
            inside = _ending_of(word)
    return Nesting(tuple(stack), tuple(unmatched), inside)


def comment_marks(language: str) -> tuple[str, ...]:
    """What opens a comment up to the end of its line."""
    if language in _HASH_COMMENTS:
        return ("#",)
    if language in _DASH_COMMENTS:
        return ("--",)
    return () if language in _NO_LINE_COMMENTS else ("//",)


def excess(before: Nesting, text: str, after: str, language: str) -> int:
    """How many brackets and strings of `before + text + after` have no partner."""
    end = scan(after, language, scan(text, language, before))
    return len(end.stack) + len(end.unmatched) + end.in_string


@cache
def _tokens(language: str) -> re.Pattern[str]:
    """Brackets, and whatever opens a string or a comment; other text is skipped unseen."""
    first: list[str] = []  # what must not be taken for an opener
    opens = []
    if language == "lua":
        first = [r"\b(?:function|if|do|repeat|end|until)\b"]
        opens += [r"--\[=*\[", "--", r"\[=*\["]
    elif language in _HASH_COMMENTS - {"python"}:
        opens += [r"(?<![^\s;()|&])#"]  # elsewhere it is part of a word: ${#list}, $#
    else:
        opens += comment_marks(language)
    if language not in _NO_BLOCK_COMMENTS:
        opens += [r"/\*"]
    if language in _BACKTICK_STRINGS:
        opens += ["`"]
    if language in _TRIPLE_QUOTES:
        opens += ['"""']
    if language in _TRIPLE_APOSTROPHES:
        opens += ["'''"]
    if language in ("c", "cpp"):
        opens += [r'R"[^\s()\\"]{0,16}\(']
    if language == "rust":
        opens += ['r#+"']
    opens += ['"']
    if language == "rust":  # 'a' is a character, 'a a lifetime
        first = [r"'(?:\\[^\n]*'?|[^\\'\n])'"]
    else:
        opens += ["'"]
    if language in ("c", "cpp"):  # 1'000 has a digit separator
        first = [r"(?<=[0-9A-Fa-f])'(?=[0-9A-Fa-f])"]
    return re.compile("|".join([*first, f"(?P<opens>{'|'.join(opens)})", r"[()\[\]{}]"]))


def _ending_of(opener: str) -> str:
    if opener in ("#", "//", "--"):
        return LINE_COMMENT
    if opener == "/*":
        return _BLOCK_COMMENT
    if "[" in opener:  # Lua's long brackets
        return opener.lstrip("-").replace("[", "]")
    if opener[0] == "R":  # raw strings of C++
        return f'){opener[2:-1]}"'
    if opener[0] == "r":  # and of Rust
        return opener[:0:-1]
    return opener


_STRING_STEP = {
    ending: re.compile(rf"(?:[^\\\n{ending}]|\\.)*", re.DOTALL) for ending in ("'", '"')
}


def _leave(text: str, position: int, inside: str, language: str) -> tuple[int, str]:
    """From a position in a string or comment to its end, or to the end of `text`."""
    if inside in _STRING_STEP:
        match = _STRING_STEP[inside].match(text, position)
        position = match.end() if match else position
        if position >= len(text) or (text[position] == "\\" and position + 1 == len(text)):
            return len(text), inside
        return position + 1, ""  # its closing quote, or a line break it cannot span
    raw = inside in ("\n", _BLOCK_COMMENT) or inside[0] in "])" or inside[-1] == "#"
    raw = raw or (inside, language) == ("`", "go")
    while True:
        end = text.find(inside, position)
        if end < 0:
            return len(text), inside
        first = end
        while not raw and first > 0 and text[first - 1] == "\\":
            first -= 1
        if (end - first) % 2 == 0:  # not escaped
            return end + len(inside), ""
        position = end + 1
