"""Packages in archives, none of which is unpacked to disk: wheels, sdists, npm, crates, Debian."""

from __future__ import annotations

import email.parser
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from blockdiff.system import child
from blockdiff.train.licences import DebianCopyright, is_permissive
from blockdiff.train.package import (
    LICENCE_FILE,
    MAX_FILE_BYTES,
    Package,
    PackageFile,
    crate,
    is_source,
    npm_package,
    python_package,
)


def archives(folder: Path) -> Iterator[Package]:
    """Those of a folder and all below it, by their file names."""
    for path in sorted(folder.rglob("*")):
        reader = next((r for end, r in _READERS.items() if path.name.endswith(end)), None)
        package = reader(path) if reader and path.is_file() else None
        if package:
            yield package


def _wheel(path: Path) -> Package | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        about = next((n for n in names if n.endswith(".dist-info/METADATA")), None)
        if about is None:
            return None
        # not BytesParser: it makes a header that is not ASCII an object without text methods
        metadata = email.parser.Parser().parsestr(archive.read(about).decode("utf-8", "replace"))
        texts = [
            archive.read(n).decode("utf-8", "replace")
            for n in names
            if ".dist-info/" in n and LICENCE_FILE.match(PurePosixPath(n).name)
        ]

    def files() -> Iterator[PackageFile]:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda i: i.filename):
                if is_source(entry.filename) and entry.file_size <= MAX_FILE_BYTES:
                    yield PackageFile(entry.filename, archive.read(entry))

    return python_package(metadata, texts, path.name, files)


def _tar_files(open_tar: Callable[[], tarfile.TarFile], strip: int) -> Iterator[PackageFile]:
    """Source files of a tar, sorted by path, without the first `strip` components."""
    found = []
    with open_tar() as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts[strip:]
            relative = "/".join(parts)
            if member.isfile() and member.size <= MAX_FILE_BYTES and is_source(relative):
                handle = archive.extractfile(member)
                if handle:
                    found.append(PackageFile(relative, handle.read()))
    yield from sorted(found, key=lambda f: f.path)


def _tar_members(open_tar: Callable[[], tarfile.TarFile], wanted: str) -> list[str]:
    """Contents of the members whose whole path matches the pattern `wanted`."""
    texts = []
    with open_tar() as archive:
        for member in archive:
            if member.isfile() and re.fullmatch(wanted, member.name):
                handle = archive.extractfile(member)
                texts.append(handle.read().decode("utf-8", "replace") if handle else "")
    return texts


def _sdist(path: Path) -> Package | None:
    opened = partial(tarfile.open, path, "r:gz")
    about = _tar_members(opened, r"[^/]+/PKG-INFO")
    if not about:
        return None
    metadata = email.parser.Parser().parsestr(about[0])
    texts = _tar_members(opened, r"(?i)[^/]+/(licen[cs]e|copying)[^/]*")
    return python_package(metadata, texts, path.name, lambda: _tar_files(opened, 1))


def _npm_archive(path: Path) -> Package | None:
    opened = partial(tarfile.open, path, "r:gz")
    manifest = _tar_members(opened, r"[^/]+/package\.json")
    return npm_package(manifest[0].encode(), lambda: _tar_files(opened, 1)) if manifest else None


def _crate_archive(path: Path) -> Package | None:
    opened = partial(tarfile.open, path, "r:gz")
    manifest = _tar_members(opened, r"[^/]+/Cargo\.toml")
    return crate(manifest[0], path.stem, lambda: _tar_files(opened, 1)) if manifest else None


def _deb(path: Path) -> Package | None:
    def opened() -> tarfile.TarFile:
        content = child.read(["dpkg-deb", "--fsys-tarfile", str(path.absolute())])
        return tarfile.open(fileobj=BytesIO(content))

    name, version = (*unquote(path.stem).split("_"), "")[:2]
    try:
        stated = _tar_members(opened, r"\./usr/share/doc/[^/]+/copyright")
    except (OSError, child.Failed):
        print(f"cannot read {path.name}: dpkg-deb failed", file=sys.stderr)
        return None
    licence = DebianCopyright.parse(stated[0]).whole() if stated else "unknown"
    return Package(
        name, version, "debian", licence, is_permissive(licence), lambda: _tar_files(opened, 0)
    )


_READERS: dict[str, Callable[[Path], Package | None]] = {
    ".whl": _wheel,
    ".tar.gz": _sdist,
    ".tgz": _npm_archive,
    ".crate": _crate_archive,
    ".deb": _deb,
}
