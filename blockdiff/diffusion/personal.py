"""What was made of a user's own workspaces, chosen by a file's path: tables of n-grams, adapters.

They lie in the cache folder, readable by their owner alone, and are named by a digest of workspace
and model: nothing else says whose they are. A path is only compared, never followed. Where he had
them removed, a mark that is named likewise says that nothing is counted there but on command.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from blockdiff.diffusion.ngrams import NgramTable, about_file
from blockdiff.errors import BlockdiffError
from blockdiff.system import private
from blockdiff.weights import folders

if TYPE_CHECKING:  # it takes torch, and who counts needs none
    from blockdiff.model.adapter import GatedAdapter

T = TypeVar("T")

TABLE, ADAPTER, RUN = ".safetensors", ".adapter.safetensors", ".run"
"""How the names of a table, an adapter and the folder of a training run end."""
_FORGOTTEN = ".forgotten"
MOST_BYTES = 4 << 20
"""Of a table's file; a larger one is none of ours."""
_ADAPTER_BYTES = 256 << 20

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Where they lie; it may not exist yet."""
    return folders.cache_root() / "personal"


def file_of(workspace: Path, model: str, ending: str = TABLE) -> Path:
    """Where the table of a workspace, an absolute path, is for a model, counted or not."""
    return folder() / f"{_digest(os.path.normcase(workspace))}-{_digest(model)}{ending}"


def files_of(workspace: Path) -> list[Path]:
    """All that was made of it, for all models."""
    return sorted(folder().glob(f"{_digest(os.path.normcase(workspace))}-*"))


def mark_of(workspace: Path) -> Path:
    """The mark, there or not, that a folder, an absolute path, is not to be counted."""
    return folder() / f"{_digest(os.path.normcase(workspace))}{_FORGOTTEN}"


def marks() -> frozenset[Path]:
    """All that are there."""
    return frozenset(folder().glob(f"*{_FORGOTTEN}"))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TableNote:
    """What the header of a personal table says of it.

    Attributes:
        model: whose tokens were counted.
        at: when its files were looked for, in seconds since the epoch.
        files: that were counted.
        source_bytes: of those that were to be counted, whatever was in them.
    """

    model: str
    at: float
    files: int
    source_bytes: int

    def header(self) -> dict[str, str]:
        return {
            "model": self.model,
            "at": str(self.at),
            "files": str(self.files),
            "source_bytes": str(self.source_bytes),
        }

    @classmethod
    def of(cls, header: Mapping[str, str]) -> TableNote:
        """Raises KeyError, ValueError."""
        return cls(
            header["model"],
            float(header["at"]),
            int(header["files"]),
            int(header["source_bytes"]),
        )


def note_of(file: Path) -> TableNote | None:
    """Of a table's file; None where there is none of ours, it says nothing or is damaged."""
    try:
        with private.pinned(file) as pinned:
            return TableNote.of(about_file(pinned))
    except (BlockdiffError, OSError, KeyError, ValueError):
        return None


def notes_of(workspace: Path) -> list[TableNote]:
    """Of the tables of a workspace, an absolute path, for all models."""
    files = [file for file in files_of(workspace) if file.name.endswith(TABLE)]
    return [note for file in files if (note := note_of(file))]


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    stamp: tuple[int, int]
    made: T | None


class Personal(Generic[T]):
    """One of a kind for each workspace, read when its first request comes and when it changes.

    What cannot be used is said once in the log, and drafts do without it.
    """

    def __init__(
        self, model: str, ending: str, most_bytes: int, kept: int, load: Callable[[Path], T]
    ) -> None:
        """`load` reads files of at most `most_bytes`; `kept` of them stay in memory."""
        self._model, self._ending, self._most_bytes = model, ending, most_bytes
        self._most, self._load = kept, load
        self._kept: dict[Path, _Kept[T]] = {}

    def of(self, path: str) -> T | None:
        """That of the innermost workspace around a file which has one; None for a relative path."""
        if not os.path.isabs(path) or "\0" in path:
            return None
        for workspace in Path(os.path.normpath(path)).parents:
            file = file_of(workspace, self._model, self._ending)
            try:
                status = file.stat()
            except OSError:
                self._kept.pop(file, None)
                continue
            return self._read(file, (status.st_mtime_ns, status.st_size))
        return None

    def _read(self, file: Path, stamp: tuple[int, int]) -> T | None:
        kept = self._kept.pop(file, None)
        if kept is None or kept.stamp != stamp:
            kept = _Kept(stamp, self._loaded(file, stamp[1]))
        self._kept[file] = kept  # the latest used last
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return kept.made

    def _loaded(self, file: Path, size: int) -> T | None:
        try:
            if size > self._most_bytes:
                raise BlockdiffError(f"{file} is too large: {size} bytes")
            with private.pinned(file) as pinned:
                return self._load(pinned)
        except (BlockdiffError, OSError) as error:
            _log.warning(
                "drafting without what is the workspace's own: %s; make it again, or remove it: "
                "blockdiff train personal", getattr(error, "message", error),
            )  # fmt: skip
            return None


def tables(model: str, vocab_size: int) -> Personal[NgramTable]:
    """The tables that were counted for a model."""
    return Personal(model, TABLE, MOST_BYTES, 4, lambda file: NgramTable.load(file, vocab_size))


def adapters(model: str, load: Callable[[Path], GatedAdapter]) -> Personal[GatedAdapter]:
    """The adapters that were trained for a model, which `load` reads."""
    return Personal(model, ADAPTER, _ADAPTER_BYTES, 2, load)
