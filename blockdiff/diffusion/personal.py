"""What a user had made of his own workspaces, chosen by a file's path: tables of n-grams, adapters.

They lie in the cache folder, readable by their owner alone, and are named by a digest of workspace
and model: nothing else says whose they are. A path is only compared, never followed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.errors import BlockdiffError
from blockdiff.model.adapter import GatedAdapter
from blockdiff.system import private
from blockdiff.weights import folders

T = TypeVar("T")

TABLE, ADAPTER, RUN = ".safetensors", ".adapter.safetensors", ".run"
"""How the names of a table, an adapter and the folder of a training run end."""
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


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
