"""Tables of n-grams that a user counted in his own workspaces, chosen by a file's path.

They lie in the cache folder, readable by their owner alone, and are named by a digest of workspace
and model: nothing else says whose they are. A path is only compared, never followed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.errors import BlockdiffError
from blockdiff.system import private
from blockdiff.weights import folders

MOST_BYTES = 4 << 20
"""Of a table's file; a larger one is none of ours."""
_KEPT = 4  # tables in memory

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Where they lie; it may not exist yet."""
    return folders.cache_root() / "personal"


def file_of(workspace: Path, model: str) -> Path:
    """Where the table of a workspace, an absolute path, is for a model, counted or not."""
    return folder() / f"{_digest(os.path.normcase(workspace))}-{_digest(model)}.safetensors"


def files_of(workspace: Path) -> list[Path]:
    """Its tables for all models."""
    return sorted(folder().glob(f"{_digest(os.path.normcase(workspace))}-*.safetensors"))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _Kept:
    stamp: tuple[int, int]
    tables: tuple[NgramTable, ...]


class PersonalTables:
    """Those for one model, read when the first request of a workspace comes and when they change.

    What cannot be used is said once in the log, and drafts do without it.
    """

    def __init__(self, model: str, vocab_size: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        self._kept: dict[Path, _Kept] = {}

    def of(self, path: str) -> tuple[NgramTable, ...]:
        """The table of the innermost counted workspace around a file; none for a relative path."""
        if not os.path.isabs(path) or "\0" in path:
            return ()
        for workspace in Path(os.path.normpath(path)).parents:
            file = file_of(workspace, self._model)
            try:
                status = file.stat()
            except OSError:
                self._kept.pop(file, None)
                continue
            return self._read(file, (status.st_mtime_ns, status.st_size))
        return ()

    def _read(self, file: Path, stamp: tuple[int, int]) -> tuple[NgramTable, ...]:
        kept = self._kept.pop(file, None)
        if kept is None or kept.stamp != stamp:
            kept = _Kept(stamp, self._loaded(file, stamp[1]))
        self._kept[file] = kept  # the latest used last
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return kept.tables

    def _loaded(self, file: Path, size: int) -> tuple[NgramTable, ...]:
        try:
            if size > MOST_BYTES:
                raise BlockdiffError(f"{file} is too large: {size} bytes")
            with private.pinned(file) as pinned:
                return (NgramTable.load(pinned, self._vocab_size),)
        except (BlockdiffError, OSError) as error:
            _log.warning(
                "drafting without the personal table: %s; count it again, or remove it: "
                "blockdiff train personal", getattr(error, "message", error),
            )  # fmt: skip
            return ()
