"""Which files are kept out of any context: `.gitignore` and `.blockdiffignore`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pathspec import GitIgnoreSpec

GIT, OURS = ".gitignore", ".blockdiffignore"


class Verdict(Enum):
    """What may be done with a file."""

    OPEN = "open"
    NOT_AS_CONTEXT = "not as context"  # in .gitignore: not shown to the model for another file
    CLOSED = "closed"  # in .blockdiffignore: never shown to the model at all


@dataclass(frozen=True, slots=True)
class _Rules:
    stamp: tuple[int, int]
    spec: GitIgnoreSpec | None


class Ignored:
    """Reads the ignore files of all folders above a file, and again when they change."""

    def __init__(self) -> None:
        self._rules: dict[Path, _Rules] = {}

    def verdict(self, path: Path | None) -> Verdict:
        """For a file; None, an untitled document, is open."""
        if path is None:
            return Verdict.OPEN
        if self._matches(path, OURS):
            return Verdict.CLOSED
        return Verdict.NOT_AS_CONTEXT if self._matches(path, GIT) else Verdict.OPEN

    def _matches(self, path: Path, name: str) -> bool:
        """As git has it: from the root of the repository down, the last pattern that fits wins."""
        ignored = False
        for folder in reversed(_above(path)):
            spec = self._spec(folder / name)
            if spec is None:
                continue
            result = spec.check_file(path.relative_to(folder).as_posix())
            if result.include is not None:
                ignored = result.include
        return ignored

    def _spec(self, file: Path) -> GitIgnoreSpec | None:
        """Raises nothing: what cannot be read does not exclude."""
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._rules.get(file)
            if known is None or known.stamp != stamp:
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
                known = self._rules[file] = _Rules(stamp, GitIgnoreSpec.from_lines(lines))
            return known.spec
        except (OSError, ValueError):  # not there, no permission, a broken pattern
            self._rules.pop(file, None)
            return None


def _above(path: Path) -> list[Path]:
    """Folders of a file, the nearest first, up to its repository or the root of the disk."""
    folders = []
    for folder in path.parents:
        folders.append(folder)
        if (folder / ".git").exists():
            break
    return folders
