"""A distribution of any ecosystem, and what its manifest says: name, version, licence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from blockdiff.syntax import grammars
from blockdiff.train.licences import from_metadata, is_permissive

MAX_FILE_BYTES = 200_000
_SHELL = frozenset({".sh", ".bash", ".bats"})  # taken, although no grammar of ours reads it
_LEFT_OUT = frozenset({".pyi", ".pyw", ".cts", ".c++", ".inl"})  # stubs, and what is rare
_EXTENSIONS = (grammars.EXTENSIONS | _SHELL) - _LEFT_OUT
LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$")


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of a package; `licence` is set where it differs from file to file."""

    path: str
    data: bytes
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution, its licence as stated, and a way to read its source files."""

    name: str
    version: str
    ecosystem: str
    licence: str
    permissive: bool
    files: Callable[[], Iterator[PackageFile]]


def language_of(path: str, text: str) -> str:
    """Language of a file by extension; headers with C++ in them are C++."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in _EXTENSIONS:
        return ""
    language = "shell" if suffix in _SHELL else grammars.language_of(path.lower())
    if language == "c" and path.endswith(".h"):
        if re.search(r"(?m)^\s*(template\s*<|namespace \w|class \w|using \w)|\bstd::", text):
            return "cpp"
    return "typescript" if language == "tsx" else language


def is_source(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in _EXTENSIONS and not path.endswith(".d.ts")


def python_package(
    metadata: Any, texts: list[str], fallback: str, files: Callable[[], Iterator[PackageFile]]
) -> Package:
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    licence, permissive = from_metadata(
        metadata.get("License-Expression") or "",
        (metadata.get("License") or "").strip(),
        classifiers,
        texts,
    )
    name, version = metadata.get("Name") or fallback, metadata.get("Version") or ""
    return Package(name, version, "python", licence, permissive, files)


def npm_package(manifest: bytes, files: Callable[[], Iterator[PackageFile]]) -> Package | None:
    try:
        fields = json.loads(manifest)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        return None
    licence = fields.get("license", "")
    if isinstance(licence, dict):
        licence = licence.get("type", "")
    licence = licence if isinstance(licence, str) else ""
    version = str(fields.get("version", ""))
    return Package(fields["name"], version, "npm", licence, is_permissive(licence), files)


def crate(manifest: str, fallback: str, files: Callable[[], Iterator[PackageFile]]) -> Package:
    fields = dict(re.findall(r'(?m)^(name|version|license)\s*=\s*"([^"]*)"', manifest))
    licence = fields.get("license", "")
    name = fields.get("name", fallback)
    return Package(
        name, fields.get("version", ""), "crate", licence, is_permissive(licence), files
    )
