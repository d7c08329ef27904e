"""Building the training corpus from permissively licensed packages.

Deterministic: the same packages give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockdiff.errors import OutputFileError
from blockdiff.syntax.written import path_allowed
from blockdiff.train.corpus import MANIFEST
from blockdiff.train.data_card import data_card
from blockdiff.train.filters import Benchmark, Duplicates, normalise, quality
from blockdiff.train.licences import is_permissive
from blockdiff.train.package import Package, PackageFile, language_of
from blockdiff.train.sources import Sources
from blockdiff.types import no_op

OnPackage = Callable[[str, int, int], None]
"""Called with a package's name, packages done, packages in all."""

_SHARD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to choose files.

    Attributes:
        package_bytes: most bytes of text one package may give in all its languages.
        heldout_share: share of files, chosen by the hash of their path, kept out of training.
        languages: languages to keep; empty keeps all.
    """

    package_bytes: int = 1_500_000
    heldout_share: float = 0.02
    languages: tuple[str, ...] = ()


def build(
    out: Path | str,
    sources: Sources | None = None,
    exclude: tuple[Path, ...] = (),
    options: BuildOptions | None = None,
    on_package: OnPackage = no_op,
) -> dict[str, Any]:
    """Builds a corpus into the folder `out` and returns its manifest.

    The folder appears whole or not at all; a corpus already there is replaced at the end.

    Args:
        sources: where packages are found; by default what `Sources.discover` finds.
        exclude: benchmark files; a file that shares a word 10-gram or a signature is dropped.

    Raises:
        InputFileError: a source or benchmark file cannot be read.
        OutputFileError: `out` holds something that is not a corpus, or cannot be written.
    """
    target = Path(out)
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise OutputFileError(f"{target} is not empty and not a corpus", "name another folder")
    benchmark = Benchmark.from_files(exclude)
    packages = (sources or Sources.discover()).packages()
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest = _Builder(partial, benchmark, options or BuildOptions()).run(packages, on_package)
        _replace(partial, target)
    except OSError as error:
        raise OutputFileError(f"cannot write {target}: {error}", "check space and rights") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


class _Builder:
    def __init__(self, folder: Path, benchmark: Benchmark, options: BuildOptions) -> None:
        self._folder = folder
        self._benchmark = benchmark
        self._options = options
        self._duplicates = Duplicates()
        self._dropped: Counter[str] = Counter()
        self._excluded: list[tuple[str, str, str]] = []
        self._rows: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        self._bytes: dict[str, Counter[str]] = {"train": Counter(), "heldout": Counter()}
        self._count: dict[str, Counter[str]] = {"train": Counter(), "heldout": Counter()}
        self._by_licence: Counter[str] = Counter()
        self._shards = {split: _Shards(folder, split) for split in ("train", "heldout")}

    def run(self, packages: list[Package], on_package: OnPackage) -> dict[str, Any]:
        for done, package in enumerate(packages):
            on_package(package.name, done, len(packages))
            if package.permissive:
                self._package(package)
            else:
                self._excluded.append((package.name, package.version, package.licence))
        on_package("", len(packages), len(packages))
        return self._finish()

    def _package(self, package: Package) -> None:
        room = self._options.package_bytes
        # By hash, so that the cap cuts a package evenly instead of after the letter m; another hash
        # than the split's, which would otherwise meet the cap with its held-out files first.
        for file in sorted(package.files(), key=lambda f: _digest(f"cap {f.path}")):
            kept = self._admit(package, file, room)
            if isinstance(kept, str):
                self._dropped[kept] += 1
            else:
                room -= kept

    def _admit(self, package: Package, file: PackageFile, room: int) -> int | str:
        """Bytes written, or the name of the filter that dropped the file."""
        licence = file.licence or package.licence
        if file.licence and not is_permissive(file.licence):
            return "licence_of_file"
        if not path_allowed(file.path):
            return "path"
        text = normalise(file.data)
        if text is None:
            return "not_utf8"
        failed = quality(text)
        if failed:
            return failed
        language = language_of(file.path, text)
        if self._options.languages and language not in self._options.languages:
            return "language"
        size = len(text.encode())
        if size > room:
            return "package_cap"
        # Duplicates last: only what is kept may be remembered as seen.
        failed = self._benchmark.check(text) or self._duplicates.check(text)
        if failed:
            return failed
        self._write(package, file.path, text, language, licence, size)
        return size

    def _write(
        self, package: Package, path: str, text: str, language: str, licence: str, size: int
    ) -> None:
        share = int(_digest(path)[:8], 16) / 0x1_0000_0000
        split = "heldout" if share < self._options.heldout_share else "train"
        self._shards[split].add(
            {
                "text": text,
                "language": language,
                "package": package.name,
                "version": package.version,
                "licence": licence,
                "path": path,
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
        self._bytes[split][language] += size
        self._count[split][language] += 1
        self._by_licence[licence] += size
        self._rows[package.name, package.version, licence].update(files=1, bytes=size)

    def _finish(self) -> dict[str, Any]:
        manifest = {
            "format": 1,
            "shards": {split: shards.close() for split, shards in self._shards.items()},
            "documents": {split: sum(c.values()) for split, c in self._count.items()},
            "bytes": {split: dict(sorted(c.items())) for split, c in self._bytes.items()},
            "files": {split: dict(sorted(c.items())) for split, c in self._count.items()},
            "licences": dict(sorted(self._by_licence.items(), key=lambda kv: (-kv[1], kv[0]))),
            "dropped": dict(sorted(self._dropped.items())),
            "packages": len({(name, version) for name, version, _ in self._rows}),
            "packages_excluded_by_licence": len(self._excluded),
            "benchmark": {
                "problems": self._benchmark.problems,
                "grams": len(self._benchmark.grams),
                "signatures": len(self._benchmark.signatures),
            },
            "options": {
                "package_bytes": self._options.package_bytes,
                "heldout_share": self._options.heldout_share,
                "languages": list(self._options.languages),
            },
        }
        _write_text(self._folder / "LICENSES.tsv", self._licences())
        _write_text(self._folder / "EXCLUDED.tsv", _tsv("package version licence", self._excluded))
        _write_text(self._folder / "DATA_CARD.md", data_card(manifest))
        _write_text(self._folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        return manifest

    def _licences(self) -> str:
        rows = [(*key, n["files"], n["bytes"]) for key, n in sorted(self._rows.items())]
        return _tsv("package version licence files bytes", rows)


class _Shards:
    """Writes rows to `split-000.jsonl.gz`, `split-001.jsonl.gz`, …, of about equal size."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._split = split
        self._names: list[str] = []
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, row: dict[str, str]) -> None:
        self._lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._size += len(self._lines[-1])
        if self._size >= _SHARD_BYTES:
            self._flush()

    def close(self) -> list[str]:
        if self._lines or not self._names:
            self._flush()
        return self._names

    def _flush(self) -> None:
        name = f"{self._split}-{len(self._names):03}.jsonl.gz"
        # Neither a time nor a file name in the header: the same rows give the same bytes.
        with (self._folder / name).open("wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                packed.writelines(self._lines)
        self._names.append(name)
        self._lines, self._size = [], 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _tsv(header: str, rows: list[tuple[Any, ...]]) -> str:
    table = [tuple(header.split()), *rows]
    return "".join("\t".join(" ".join(str(c).split()) for c in row) + "\n" for row in table)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="")


def _replace(new: Path, target: Path) -> None:
    """Puts the finished folder in place; a reader meets the old corpus or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
