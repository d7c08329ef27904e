"""When a workspace is counted for drafts, and when again.

The command does it when it is told to, the language server's child (`train/__main__.py`) when
enough has changed since, and never where the user has had it forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blockdiff.diffusion import personal as stored
from blockdiff.diffusion.personal import TableNote
from blockdiff.errors import IgnoreListUnreadable, ModelUnsupported
from blockdiff.model.load.gguf_tokenizer import tokenizer_of
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.train import personal
from blockdiff.train.personal import Counted, Found
from blockdiff.types import no_op
from blockdiff.weights import folders
from blockdiff.weights.store import ModelFiles

SHARE, DAY_SECONDS = 0.2, 86_400.0
"""A table is counted again where so much of its text is another, or it is so old and any is.

What a table brings was measured in files that it had not seen, a fifth of all (docs/LOG.md).
"""


def sources(root: Path, report: Callable[[IgnoreListUnreadable], None] = no_op) -> Found:
    """The files of a workspace that may be counted: in no list of files to be ignored.

    A folder in it that was forgotten is left out. `report` is told of lists that cannot be read.
    Raises as `personal.find`.
    """
    lists, marks, real = IgnoreFiles(report), stored.marks(), Path(os.path.realpath(root))
    forgotten = {Path(): False}  # by the folder, relative to the root

    def is_left_out(folder: Path) -> bool:
        if folder not in forgotten:
            marked = stored.mark_of(real / folder) in marks
            forgotten[folder] = marked or is_left_out(folder.parent)
        return forgotten[folder]

    def is_open(path: Path) -> bool:
        left_out = bool(marks) and is_left_out(path.parent.relative_to(root))
        return not left_out and lists.verdict(path) is Verdict.OPEN

    return personal.find(root, is_open)


def count_workspace(
    root: Path, found: Found, files: ModelFiles, progress: Callable[[int, int], None]
) -> tuple[Counted, Path]:
    """Count the `sources` of a workspace for a model, and write the table where engines look.

    `progress` is told how many bytes are done, of how many. Returns what was counted, and the
    table's file.

    Raises as `count_files`, `tokenizer_of` and `save`, and ModelUnsupported for a model without an
    adapter.
    """
    if files.adapter is None:
        raise ModelUnsupported(f"{files.name} does not draft", "name a model that has an adapter")
    size = sum(size for _, size in _looks(found.files))

    def read(done: int, most: int) -> None:
        progress(min(done, size), min(size, most))

    counted = personal.count_files(found.files, tokenizer_of(files), read)
    note = TableNote(files.name, found.at, counted.files, size)
    progress(size, size)
    return counted, personal.save(counted.table, root, files.name, note)


def _looks(files: Sequence[Path]) -> Iterator[tuple[float, int]]:
    """When files changed, and how many bytes they have, up to `MOST_BYTES` of them."""
    left = personal.MOST_BYTES
    for path in files:
        try:
            status = path.lstat()
        except OSError:
            continue
        left -= status.st_size
        if left < 0:
            return
        yield status.st_mtime, status.st_size


def is_due(root: Path, found: Found, model: str) -> bool:
    """Whether a workspace is to be counted for a model, by `SHARE` and `DAY_SECONDS`.

    Sizes and times of its files are compared with what the table's header says, nothing is read. A
    time that is still to come says nothing: it would make the file a changed one each time.
    """
    if not found.files:
        return False
    note = stored.note_of(stored.file_of(Path(os.path.abspath(root)), model))
    if note is None or note.at > found.at:
        return True
    now, then, same = 0, note.source_bytes, 0
    for changed, size in _looks(found.files):
        now += size
        same += 0 if note.at <= changed <= found.at else size
    most = max(now, then)
    other = most - min(now, then, same)
    return other >= SHARE * most or (other > 0 and found.at - note.at >= DAY_SECONDS)


def renew(root: Path, files: ModelFiles, progress: Callable[[int, int], None]) -> Counted | None:
    """Count a workspace if that is due and was not forbidden, after whoever counts just now.

    None where nothing was to be done, and then nothing is told to `progress`. Raises as
    `count_workspace`.
    """
    from filelock import FileLock

    if files.adapter is None or personal.is_forgotten(root):
        return None
    if not is_due(root, sources(root), files.name):
        return None
    lock = FileLock(personal.prepared_folder() / ".lock")
    with folders.writing_errors():
        lock.acquire(poll_interval=0.5)
    try:
        found = sources(root)
        if not is_due(root, found, files.name):  # another window's server has had it counted
            return None
        counted, _ = count_workspace(root, found, files, progress)
        if not personal.is_forgotten(root):
            return counted
        personal.drop(root, files.name)  # the mark came first: whoever is later removes the table
        return None
    finally:
        lock.release()
