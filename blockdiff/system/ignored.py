"""Which files are kept out of any context: `.gitignore` and `.blockdiffignore`."""

from __future__ import annotations

import codecs
import errno
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec, PathSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from blockdiff.errors import IgnoreListUnreadable
from blockdiff.types import no_op

GIT, OURS = ".gitignore", ".blockdiffignore"

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MOST_NAMED = 3  # of the lines that cannot be read

# Each star multiplies the ways in which a pattern may fit a name.
_LONGEST, _MOST_STARS = 4096, 12  # characters of a pattern, and stars in it
_STARS = re.compile(r"(?<![^/!])(?:\*\*/){2,}|(?<!\\)\*{3,}")
_ALL_INSIDE = re.compile(r"/\*\*\s*$")
_CLASS = re.compile(r"\\.|\[(?P<negated>\^(?!/\]))?\^?\]?(?:\\.|[^\]\\])*\]")  # or what is no class
_ELSEWHERE = re.compile(r"!?(?:\.\.?/|~/|[A-Za-z]:[\\/])")  # patterns are relative to the list


class Verdict(Enum):
    """What may be done with a file."""

    OPEN = "open"
    NOT_AS_CONTEXT = "not as context"  # in .gitignore: not shown to the model for another file
    CLOSED = "closed"  # in .blockdiffignore: never shown to the model at all


@dataclass(frozen=True, slots=True)
class _Rules:
    """Attributes:
    spec: for files; `folders`: for the path of a folder with a slash at its end.
    """

    stamp: tuple[int, int]
    spec: GitIgnoreSpec
    folders: PathSpec[Any]
    ignores_case: bool

    @classmethod
    def of(cls, stamp: tuple[int, int], lines: list[str], ignores_case: bool) -> _Rules:
        inside = [_ALL_INSIDE.sub("/*", line) for line in lines]  # which the folder itself is not
        # Of folders the last pattern that fits decides; of files those of folders come first.
        return cls(stamp, git_spec(lines), PathSpec(git_spec(inside).patterns), ignores_case)


class IgnoreFiles:
    """Reads the ignore files of all folders above a file, and again when they change."""

    def __init__(self, report: Callable[[IgnoreListUnreadable], None] = no_op) -> None:
        """`report` is told once of each list that cannot be read as a whole."""
        self._report = report
        self._rules: dict[str, _Rules] = {}  # by their file

    def strictest(self, paths: Iterable[Path]) -> Verdict:
        """The strictest verdict for any of the files that a text may be of."""
        verdicts = {self.verdict(path) for path in paths}
        order = (Verdict.CLOSED, Verdict.NOT_AS_CONTEXT)
        return next((verdict for verdict in order if verdict in verdicts), Verdict.OPEN)

    def verdict(self, path: Path | None) -> Verdict:
        """For a file by one of its names; None, an untitled document, is open."""
        return Verdict.OPEN if path is None else self.now().verdict(path)

    def now(self) -> IgnoreMoment:
        """For many files at once."""
        return IgnoreMoment(self._read)

    def _read(self, file: str) -> _Rules | None:
        """The rules of a list, if there is one. Raises nothing.

        Of a list with lines that mean nothing, the others hold; one of ours that cannot be read
        at all closes everything below it.
        """
        try:
            status = os.stat(file)
            stamp = (status.st_mtime_ns, status.st_size)
        except (OSError, ValueError) as error:
            may_be_link = getattr(error, "errno", 0) in (errno.ENOENT, errno.ELOOP)
            if not (may_be_link and file.endswith(OURS) and os.path.islink(file)):
                self._rules.pop(file, None)
                return None
            stamp = (0, -1)  # a link that leads nowhere
        known = self._rules.get(file)
        if known is None or known.stamp != stamp:
            known = self._rules[file] = self._made(Path(file), stamp)
        return known

    def _made(self, file: Path, stamp: tuple[int, int]) -> _Rules:
        ignores_case = _ignores_case(file)
        try:
            if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
                raise OSError("neither a file nor a link to one")  # reading a pipe has no end
            lines = _lines(file.read_bytes())
        except OSError as error:
            lines = ["*"] if file.name == OURS else []
            if file.name == OURS:
                self._report(IgnoreListUnreadable(
                    f"{file} cannot be read ({error.strerror or error}): all files below it are "
                    "closed", "make it readable, or remove it"))  # fmt: skip
            return _Rules.of(stamp, lines, ignores_case)
        good, bad = [], []
        for number, line in enumerate(lines, 1):
            line = _STARS.sub(_fewest, folded(line) if ignores_case else line)
            (good.append(line) if is_pattern(line) else bad.append(number))
        if bad and file.name == OURS:
            named = ", ".join(map(str, bad[:_MOST_NAMED])) + (" …" if bad[_MOST_NAMED:] else "")
            self._report(IgnoreListUnreadable(
                f"{file}: line {named} is no pattern; the other lines hold",
                "write it as for .gitignore, or take it out"))  # fmt: skip
        return _Rules.of(stamp, good, ignores_case)


class IgnoreMoment:
    """Verdicts by the lists as they are at one moment: each is looked at once."""

    def __init__(self, read: Callable[[str], _Rules | None]) -> None:
        self._read = read
        self._above: dict[tuple[str, str], list[tuple[str, _Rules]] | None] = {}

    def verdict(self, path: Path) -> Verdict:
        """See `IgnoreFiles.verdict`."""
        if self._matches(path, OURS):
            return Verdict.CLOSED
        return Verdict.NOT_AS_CONTEXT if self._matches(path, GIT) else Verdict.OPEN

    def skips(self, folder: Path) -> bool:
        """Whether nothing in a folder is open, so that nobody need enter it."""
        return any(self._matches(folder, name, is_folder=True) for name in (OURS, GIT))

    def _matches(self, path: Path, name: str, *, is_folder: bool = False) -> bool:
        """As git has it: from the uppermost folder down, the last pattern that fits wins; what is
        in a folder that is ignored cannot be taken out again."""
        lists = self._lists(str(path.parent), name) if path.parent != path else []
        return lists is None or _ignores(lists, str(path), is_folder=is_folder)

    def _lists(self, folder: str, name: str) -> list[tuple[str, _Rules]] | None:
        """Those for what is in a folder, the uppermost first; None: the folder is ignored."""
        todo = []
        while (name, folder) not in self._above:
            todo.append(folder)
            parent = os.path.dirname(folder)
            if parent == folder or (name == GIT and _is_repository(folder)):
                break
            folder = parent
        lists = self._above.get((name, folder), [])
        for folder in reversed(todo):
            if lists is not None:
                if lists and _ignores(lists, folder, is_folder=True):
                    lists = None
                elif (rules := self._read(os.path.join(folder, name))) is not None:
                    lists = [*lists, (folder, rules)]
            self._above[name, folder] = lists
        return lists


def _ignores(lists: list[tuple[str, _Rules]], path: str, *, is_folder: bool = False) -> bool:
    """What the lists of the folders above say: the last pattern that fits."""
    ignored = False
    for folder, rules in lists:
        relative = Path(path).relative_to(folder).as_posix()
        relative = folded(relative) if rules.ignores_case else relative
        spec: PathSpec[Any]
        spec, mark = (rules.folders, "/") if is_folder else (rules.spec, "")
        result = spec.check_file(relative + mark)
        if result.include is not None:
            ignored = result.include
    return ignored


def folded(name: str) -> str:
    """The same for all names that a file system which ignores case takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _lines(content: bytes) -> list[str]:
    """As git splits them; names in another encoding than UTF-8 stay what the disk calls them."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            errors = "surrogateescape" if encoding == "utf-8" else "replace"
            text = content[len(mark) :].decode(encoding, errors)
            break
    else:
        text = content.decode("utf-8", "surrogateescape")
    if "\n" not in text:
        return text.split("\r")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _fewest(stars: re.Match[str]) -> str:
    """The same in as few stars as say it."""
    return "**/" if stars[0].endswith("/") else "*"


def git_spec(lines: Iterable[str]) -> GitIgnoreSpec:
    """Patterns that fit what they fit in git: no class in brackets fits a slash, as pathspec's
    negated ones do. Raises ValueError or re.error for a line that is none."""
    spec = GitIgnoreSpec.from_lines(lines)
    return GitIgnoreSpec(map(_within_a_name, spec.patterns))


def _within_a_name(pattern: GitIgnoreSpecPattern) -> GitIgnoreSpecPattern:
    if pattern.regex is None:  # a comment
        return pattern
    source = pattern.regex.pattern
    within = _CLASS.sub(lambda m: f"(?!/){m[0]}" if m["negated"] else m[0], source)
    if within == source:
        return pattern
    return GitIgnoreSpecPattern(re.compile(within), pattern.include)


def is_pattern(line: str) -> bool:
    """Whether a line is a pattern that a file can fit, blank or a comment."""
    if not line.strip() or line.startswith("#"):
        return True
    if _ELSEWHERE.match(line) or len(line) > _LONGEST or line.count("*") > _MOST_STARS:
        return False
    try:
        (pattern,) = git_spec([line]).patterns
        return pattern.include is not None
    except (ValueError, re.error):  # such as [z-a]
        return False


def _ignores_case(file: Path) -> bool:
    """Whether the folder of a file has it by another name as well."""
    try:
        return file.with_name(file.name.upper()).samefile(file)
    except OSError:
        return False


def _is_repository(folder: str) -> bool:
    """Git looks for lists from there on downwards, no further up."""
    return os.path.exists(os.path.join(folder, ".git"))  # false for names that no system takes
