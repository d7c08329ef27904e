"""Getting a published checkpoint: its files from the hub, each held to the digest the hub names.

Only configuration, tokenizer and safetensors are fetched. Pickled weights and code are left where
they are. What was interrupted goes on where it stopped.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blockdiff.errors import DiskFull, DownloadFailed, ModelCorrupt, ModelUnsupported
from blockdiff.types import no_op
from blockdiff.weights.catalog import Published
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

RECORD = "verified.json"
_WANTED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "*.safetensors", "*.safetensors.index.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        size: bytes.
        digest: SHA-256 of a large file, the id of the git blob of any other.
    """

    name: str
    size: int
    digest: str

    def matches(self, path: Path, seen: Callable[[int], None] = no_op) -> bool:
        """Whether the file at `path` is this one; `seen` is told of every chunk read."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if len(self.digest) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                seen(len(chunk))
        return digest.hexdigest() == self.digest


def fetch(entry: Published, folder: Path, progress: OnTransfer) -> None:
    """Bring a checkpoint into `folder`; the record in it is written last.

    Raises:
        DownloadFailed: the hub does not answer, or has no such repository or revision.
        ModelUnsupported: the repository has no safetensors.
        ModelCorrupt: a file is not the one whose digest the hub named.
        DiskFull: not enough room.
    """
    commit, files = _listed(entry)
    total = sum(file.size for file in files)
    ready = [file for file in files if file.matches(folder / file.name)]
    done = sum(file.size for file in ready)
    free = shutil.disk_usage(folder).free
    if free < (total - done) * 1.02:
        raise DiskFull(
            f"{entry.name} needs {(total - done) / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free",
            "free some space, or set BLOCKDIFF_CACHE to a folder on a larger disk",
        )
    for file in files:
        if file in ready:
            continue
        progress("hub", done, total)
        report = partial(_forward, progress, before=done, total=total)
        _download(entry, commit, file, folder, report)
        done += file.size
    progress("hub", total, total)
    record = {"repo": entry.repo, "revision": commit, "files": {f.name: f.size for f in files}}
    (folder / RECORD).write_text(json.dumps(record, indent=2), "utf-8")


def _forward(
    progress: OnTransfer, phase: str, done: int, size: int, *, before: int, total: int
) -> None:
    """A file's progress as that of the whole."""
    progress(phase, before + min(done, size), total)


def is_complete(folder: Path, revision: str) -> bool:
    """Whether all files of the record are there, and of the pinned revision where there is one."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        files = dict(record["files"])
        return record["revision"] == (revision or record["revision"]) and all(
            (folder / name).stat().st_size == size for name, size in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _listed(entry: Published) -> tuple[str, list[RemoteFile]]:
    """The commit, and the files of it that are wanted."""
    if is_offline():
        raise DownloadFailed(
            f"{entry.name} is not here, and HF_HUB_OFFLINE forbids to fetch it",
            f"unset it, or give a folder that holds the repository: {entry.option} PATH",
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint, token=False).model_info(
            entry.repo,
            revision=entry.revision or None,
            files_metadata=True,
            timeout=CONNECT_SECONDS,
        )
    except Exception as error:  # its errors come from three libraries
        raise DownloadFailed(
            f"no source of {entry.name} answered\n  hub {entry.repo}: {one_line(error)}",
            "try again, or download the repository yourself and give its folder: "
            f"{entry.option} PATH",
        ) from error
    found = [_remote(sibling) for sibling in info.siblings or []]
    wanted = [file for file in found if _matches(file.name, _WANTED)]
    if not any(file.name.endswith(".safetensors") for file in wanted):
        pickled = any(_matches(file.name, _PICKLED) for file in found)
        raise ModelUnsupported(
            f"{entry.repo} holds no safetensors"
            + (", only pickled weights, which can run code when opened" if pickled else "")
        )
    return str(info.sha), sorted(wanted, key=lambda file: (file.size, file.name))


def _remote(sibling: Any) -> RemoteFile:
    large = sibling.lfs
    digest = str(large.sha256) if large is not None else str(sibling.blob_id)
    return RemoteFile(str(sibling.rfilename), int(sibling.size or 0), digest)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _download(
    entry: Published, commit: str, file: RemoteFile, folder: Path, report: OnTransfer
) -> None:
    """A file that is the announced one; what has come of it survives an interruption."""
    from huggingface_hub import hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(entry.repo, file.name, revision=commit, endpoint=endpoint)
    partial = folder / f"{file.name}.partial"
    again = f"blockdiff models pull {entry.name}"
    try:
        with Partial(partial, report) as growing:
            if growing.size < file.size:
                fill(url, file.size, growing, report)
    except SourceFailed as failure:
        raise DownloadFailed(
            f"{file.name} of {entry.repo} did not arrive: {failure}", f"continue: {again}"
        ) from failure
    if not file.matches(partial):
        Partial.forget(partial)
        raise ModelCorrupt(
            f"{entry.repo} delivered another {file.name} than it announced (wrong digest)",
            f"try again: {again}",
        )
    os.replace(partial, folder / file.name)
    Partial.forget(partial)
