"""Where models live: the cache folder and what is in it.

    <cache>/models/<name>/<base>.gguf      the published base, checked against its SHA-256
    <cache>/models/<name>/verified.json    size, time and digest of the base as last checked
    <cache>/models/<name>/tokenizer.json   built from the base
    <cache>/models/<name>/prepared-bf16/   its weights, unpacked
    <cache>/models/<name>/prepared-int8/   its weights, packed for int8 arithmetic
    <cache>/models/<name>/*.safetensors    a checkpoint that others published, in the hub's layout
    <cache>/contexts/                      encoded contexts, see `engine/stored_contexts.py`

Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.types import no_op
from blockdiff.weights import gguf_parts, hub
from blockdiff.weights.catalog import (
    DEFAULT_MODEL,
    CatalogEntry,
    Published,
    bundled_models,
    drafters,
    find,
    published,
)
from blockdiff.weights.folders import folder_of, is_verified, locked, sha256_of
from blockdiff.weights.footprint import drafter_shape, shape_of
from blockdiff.weights.transfer import OnTransfer

PREPARED, PACKED = "prepared-bf16", "prepared-int8"
HUB = "bfloat16"  # what checkpoints are published in


class Status(str, Enum):
    """What the cache holds of a model."""

    ABSENT = "absent"
    PARTIAL = "partial"
    PRESENT = "present"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class ModelState:
    """Status of a model; `bytes` of `total` of its base are there, `prepared_bytes` unpacked."""

    status: Status
    bytes: int
    total: int
    prepared_bytes: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Paths of a model that is there.

    Attributes:
        base: a GGUF file, or a folder of safetensors.
        tokenizer: where the tokenizer.json is, or will be once it is built from the base.
        adapter: folder with config.json and adapter.safetensors; None where there is none.
        prepared: folder for the weights in bfloat16, which may not exist yet.
        packed: folder for the weights as int8 arithmetic takes them, likewise.
        entry: None for a model given by path.
    """

    name: str
    base: Path
    tokenizer: Path
    adapter: Path | None
    prepared: Path
    packed: Path
    entry: CatalogEntry | None


def partial_of(entry: CatalogEntry) -> Path:
    """The unfinished download of a base."""
    return folder_of(entry.name) / f"{entry.base.file}.partial"


def state(name: str, verify: bool = False) -> ModelState:
    """What is there of a catalogue model; `verify` reads its base against the SHA-256.

    Of a published checkpoint `total` is an estimate until it is there, and its files were read
    against their digests when they came.

    Raises ModelNotFound for a name the catalogue does not have.
    """
    if other := published().get(name) or drafters().get(name):
        return _state_of(other)
    entry = find(name)
    folder = folder_of(name)
    base, partial = folder / entry.base.file, partial_of(entry)
    prepared = _size_below(folder / PREPARED) + _size_below(folder / PACKED)
    if base.is_file():
        size = base.stat().st_size
        intact = size == entry.base.size and (not verify or sha256_of(base) == entry.base.sha256)
        status = Status.PRESENT if intact else Status.CORRUPT
        return ModelState(status, size, entry.base.size, prepared)
    size = partial.stat().st_size if partial.is_file() else 0
    status = Status.PARTIAL if partial.is_file() else Status.ABSENT
    return ModelState(status, size, entry.base.size, prepared)


def _state_of(entry: Published) -> ModelState:
    folder = folder_of(entry.name)
    there = _size_below(folder) if folder.is_dir() else 0
    if hub.is_complete(folder, entry.revision):
        return ModelState(Status.PRESENT, there, there, 0)
    status = Status.PARTIAL if there else Status.ABSENT
    shape = shape_of(entry.config, entry.name)
    if entry.target:  # its own copy of an embedding and a head is fetched with it
        own = entry.family == "dspark"
        shape = replace(drafter_shape(entry.config, entry.name), shares_ends=not own)
    return ModelState(status, there, shape.footprint(HUB).weights, 0)


def is_path(name_or_path: str) -> bool:
    """Whether a model is given by path: it ends with .gguf or holds a separator."""
    if name_or_path.endswith(".gguf") or "/" in name_or_path or os.sep in name_or_path:
        return True
    return name_or_path in (".", "..", "~")


def resolve(name_or_path: str, progress: OnTransfer = no_op) -> ModelFiles:
    """Paths of a model that can be loaded, by catalogue name, GGUF file or checkpoint folder.

    A base whose size or time changed since it was last checked is read against its SHA-256 again
    (about two seconds a gigabyte).

    Raises:
        ModelNotFound: unknown, not downloaded, or only half downloaded.
        ModelCorrupt: the base has another size or digest than the catalogue says.
        ModelUnsupported: a path with weights we refuse or do not know.
    """
    if is_path(name_or_path):
        return _resolve_path(Path(name_or_path).expanduser().absolute())
    if other := drafters().get(name_or_path):
        raise ModelUnsupported(
            f"{other.name} drafts for {other.target} and writes nothing by itself",
            f"use --model {other.target} --drafter {other.name}",
        )
    entry = published().get(name_or_path) or find(name_or_path)
    _refuse_missing(entry.name)
    if isinstance(entry, Published):
        return files_in(entry.name)
    base, corrupt = folder_of(entry.name) / entry.base.file, Status.CORRUPT
    if state(entry.name).status is corrupt or not is_verified(base, entry.base.sha256, progress):
        raise ModelCorrupt(
            f"{base} is damaged: it is not the file whose SHA-256 the catalogue names",
            f"download it again: blockdiff models pull {entry.name}",
        )
    return files_of(entry)


def files_in(name: str) -> ModelFiles:
    """Paths of a published checkpoint that is there. Raises as `resolve` of its folder."""
    return replace(_resolve_path(folder_of(name)), name=name)


def resolve_drafter(name_or_path: str) -> Path:
    """Folder of a drafter, by catalogue name or path, which may not be one.

    Raises ModelNotFound where it is unknown, not downloaded, or only half, ModelUnsupported for a
    file.
    """
    if is_path(name_or_path):
        folder = Path(name_or_path).expanduser().absolute()
        if folder.is_file():
            raise ModelUnsupported(
                f"{folder} is a file", "a drafter is a folder of safetensors with a config.json"
            )
        if not folder.is_dir():
            raise ModelNotFound(f"there is no folder {folder}", "check --drafter")
        return folder
    known = drafters()
    if name_or_path not in known:
        near = difflib.get_close_matches(name_or_path, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ModelNotFound(
            f"no drafter is called {name_or_path}", hint + "list them: blockdiff models list"
        )
    _refuse_missing(name_or_path)
    return folder_of(name_or_path)


def _refuse_missing(name: str) -> None:
    found, pull = state(name), f"blockdiff models pull {name}"
    if found.status is Status.ABSENT:
        raise ModelNotFound(f"{name} is not downloaded", f"download it: {pull}")
    if found.status is Status.PARTIAL:
        share = f"{found.bytes / 1e6:.0f} of {found.total / 1e6:.0f} MB"
        raise ModelNotFound(
            f"{name} is only half downloaded ({share})", f"continue the download: {pull}"
        )


def files_of(entry: CatalogEntry) -> ModelFiles:
    """Paths of a catalogue model, there or not."""
    folder = folder_of(entry.name)
    adapter = bundled_models() / entry.adapter
    return ModelFiles(
        name=entry.name,
        base=folder / entry.base.file,
        tokenizer=folder / "tokenizer.json",
        adapter=adapter if (adapter / "adapter.safetensors").is_file() else None,
        prepared=folder / PREPARED,
        packed=folder / PACKED,
        entry=entry,
    )


def remove(name_or_path: str) -> int:
    """Deletes what the cache holds of a model and returns the bytes freed.

    A file or folder of the user's own is never touched. Raises ModelNotFound.
    """
    if is_path(name_or_path):
        name = _path_key(Path(name_or_path).expanduser().absolute())
    else:
        other = published().get(name_or_path) or drafters().get(name_or_path)
        name = (other or find(name_or_path)).name
    folder = folder_of(name)
    if not folder.is_dir():
        raise ModelNotFound(f"the cache holds nothing of {name_or_path}")
    with locked(name):
        freed = _size_below(folder)
        shutil.rmtree(folder)
    return freed


def _resolve_path(path: Path) -> ModelFiles:
    if path.is_file() and path.suffix == ".gguf":
        if not (first := gguf_parts.parts_of(path)[0]).is_file():
            raise ModelCorrupt(f"{first} is missing", "put all parts into one folder")
        path = first
        folder = folder_of(_path_key(path))
        tokenizer, derived = folder / "tokenizer.json", (folder / PREPARED, folder / PACKED)
        return ModelFiles(path.stem, path, tokenizer, None, *derived, None)
    if path.is_file():
        raise ModelUnsupported(f"{path} is not a GGUF file", "give a .gguf file or a folder")
    if not path.is_dir():
        raise ModelNotFound(f"there is no file or folder {path}", "check the path")
    adapter = path if (path / "adapter.safetensors").is_file() else None
    if adapter is not None and not (path / "model.safetensors").is_file():
        # An adapter of one's own over the default base.
        files = resolve(DEFAULT_MODEL)
        return replace(files, name=path.name, adapter=path, entry=None)
    if any(path.glob("*.safetensors")):
        return ModelFiles(path.name, path, path / "tokenizer.json", None, path, path, None)
    ggufs = gguf_parts.whole(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _resolve_path(next(p for p in gguf_parts.parts_of(ggufs[0]) if p.is_file()))
    if ggufs:
        raise ModelNotFound(f"{path} holds GGUF files of {len(ggufs)} models", "name one of them")
    if any(p for end in ("*.bin", "*.pt", "*.pth") for p in path.glob(end)):
        raise ModelUnsupported(
            f"{path} holds pickled weights, which can run code when opened",
            "convert them to safetensors first",
        )
    raise ModelNotFound(f"{path} holds no .gguf and no .safetensors file", "check the path")


def _path_key(path: Path) -> str:
    """Cache folder of a file that is not ours: another one as soon as it or a part changes."""
    seen = ""
    parts = gguf_parts.parts_of(path)
    try:
        for part in parts:
            if part == path or part.is_file():  # the reader names the one that is missing
                status = part.stat()
                seen += f"{part}\0{status.st_size}\0{status.st_mtime_ns}"
    except OSError as error:
        raise ModelNotFound(f"there is no file or folder {path}", "check the path") from error
    path = parts[0]
    return f"{path.stem}-{hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def _size_below(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())
