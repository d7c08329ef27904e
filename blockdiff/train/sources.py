"""Where source code comes from: packages that state their licence, installed or as archives.

A `Package` is one distribution of any ecosystem; its files are read only when asked for. No
package is ever imported or built.
"""

from __future__ import annotations

import email.parser
import importlib.metadata
import json
import re
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from blockdiff.errors import InputFileError
from blockdiff.system import child
from blockdiff.train.licences import DebianCopyright, from_metadata, is_permissive

MAX_FILE_BYTES = 200_000
LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript",
    ".mts": "typescript",
    ".tsx": "typescript",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cxx": "cpp",
    ".hpp": "cpp",
    ".hh": "cpp",
    ".hxx": "cpp",
    ".go": "go",
    ".rs": "rust",
    ".java": "java",
    ".lua": "lua",
    ".sh": "shell",
    ".bash": "shell",
    ".bats": "shell",
}
_LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$")


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


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look; every field is a list of paths.

    Attributes:
        site_packages: folders with installed Python distributions.
        stdlib: standard libraries of Python (PSF licence).
        node_modules: folders of npm packages, scoped ones and nested ones included.
        crates: folders whose children are unpacked crates (a cargo registry, a vendor folder).
        debian_trees: folders whose children are unpacked Debian source packages.
        archives: folders with `.whl`, `.tar.gz` (sdist), `.tgz` (npm), `.crate` and `.deb` files.
        system_headers: read headers of the installed Debian packages.
    """

    site_packages: tuple[Path, ...] = ()
    stdlib: tuple[Path, ...] = ()
    node_modules: tuple[Path, ...] = ()
    crates: tuple[Path, ...] = ()
    debian_trees: tuple[Path, ...] = ()
    archives: tuple[Path, ...] = ()
    system_headers: bool = False

    @classmethod
    def discover(cls) -> Sources:
        """What this machine has, without downloading anything."""
        registry = Path.home() / ".cargo" / "registry" / "src"
        crates = sorted(p for p in registry.glob("*") if p.is_dir()) if registry.is_dir() else []
        installed = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
        return cls(
            site_packages=tuple(sorted(installed)),
            stdlib=(Path(sysconfig.get_path("stdlib")),),
            node_modules=tuple(p for p in _npm_roots() if p.is_dir()),
            crates=tuple(crates),
            system_headers=Path("/var/lib/dpkg/info").is_dir(),
        )

    def packages(self) -> list[Package]:
        """Every package found, permissive or not, in an order that does not depend on the disk.

        Raises:
            InputFileError: a named folder does not exist.
        """
        named = (*self.site_packages, *self.stdlib, *self.node_modules, *self.crates)
        for folder in (*named, *self.debian_trees, *self.archives):
            if not folder.is_dir():
                raise InputFileError(f"no such folder: {folder}", "name folders that exist")
        found: list[Package] = []
        for folder in self.stdlib:
            found.append(_stdlib(folder))
        for folder in self.site_packages:
            found.extend(_site_packages(folder))
        for folder in self.node_modules:
            found.extend(_node_modules(folder))
        for folder in self.crates:
            found.extend(_crates(folder))
        for folder in self.debian_trees:
            found.extend(_debian_trees(folder))
        for folder in self.archives:
            found.extend(_archives(folder))
        if self.system_headers:
            found.extend(_system_headers(Path("/")))
        return sorted(found, key=lambda p: (p.name.lower(), p.ecosystem, p.version))


def language_of(path: str, text: str) -> str:
    """Language of a file by extension; headers with C++ in them are C++."""
    language = LANGUAGES.get(PurePosixPath(path).suffix.lower(), "")
    if language == "c" and path.endswith(".h"):
        if re.search(r"(?m)^\s*(template\s*<|namespace \w|class \w|using \w)|\bstd::", text):
            return "cpp"
    return language


def is_source(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in LANGUAGES and not path.endswith(".d.ts")


def _npm_roots() -> list[Path]:
    try:
        done = child.run(["npm", "root", "-g"], seconds=20)
    except (OSError, child.Failed):
        return []
    return [Path(done.stdout.strip())] if done.stdout.strip() else []


def _read_tree(root: Path, paths: Iterator[Path]) -> Iterator[PackageFile]:
    for path in sorted(paths):
        relative = path.relative_to(root).as_posix()
        if is_source(relative) and not path.is_symlink() and path.is_file():
            if path.stat().st_size <= MAX_FILE_BYTES:
                yield PackageFile(relative, path.read_bytes())


def _stdlib(folder: Path) -> Package:
    def files() -> Iterator[PackageFile]:
        skip = {"site-packages", "dist-packages", "test", "tests", "idle_test", "ensurepip"}
        inside = (p for p in folder.rglob("*.py") if not skip & set(p.relative_to(folder).parts))
        return _read_tree(folder, inside)

    version = folder.name.removeprefix("python")
    return Package("python-stdlib", version, "python", "PSF-2.0", True, files)


def _site_packages(folder: Path) -> Iterator[Package]:
    for dist in importlib.metadata.distributions(path=[str(folder)]):
        listed = [PurePosixPath(f) for f in dist.files or []]
        texts = [
            (folder / f).read_text("utf-8", "replace")
            for f in listed
            if _LICENCE_FILE.match(f.name) and ".dist-info" in f.parts[0] and (folder / f).is_file()
        ]
        licence, permissive = _python_licence(dist.metadata, texts)
        paths = [folder / f for f in listed if ".." not in f.parts]

        def files(paths: list[Path] = paths) -> Iterator[PackageFile]:
            return _read_tree(folder, iter(paths))

        name = dist.metadata["Name"] or "unknown"
        yield Package(name, dist.version, "python", licence, permissive, files)


def _python_licence(metadata: Any, texts: list[str]) -> tuple[str, bool]:
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    return from_metadata(
        metadata.get("License-Expression") or "",
        (metadata.get("License") or "").strip(),
        classifiers,
        texts,
    )


def _node_modules(folder: Path) -> Iterator[Package]:
    for manifest in sorted(folder.rglob("package.json")):
        root = manifest.parent
        holder = root.parent.parent if root.parent.name.startswith("@") else root.parent
        if holder.name != "node_modules":
            continue

        def files(root: Path = root) -> Iterator[PackageFile]:
            inside = (p for p in root.rglob("*") if "node_modules" not in p.relative_to(root).parts)
            return _read_tree(root, inside)

        package = _npm_package(manifest.read_bytes(), files)
        if package:
            yield package


def _npm_package(manifest: bytes, files: Callable[[], Iterator[PackageFile]]) -> Package | None:
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


def _crates(folder: Path) -> Iterator[Package]:
    for manifest in sorted(folder.glob("*/Cargo.toml")):
        root = manifest.parent

        def files(root: Path = root) -> Iterator[PackageFile]:
            return _read_tree(root, root.rglob("*"))

        yield _crate(manifest.read_text("utf-8", "replace"), root.name, files)


def _crate(manifest: str, fallback: str, files: Callable[[], Iterator[PackageFile]]) -> Package:
    fields = dict(re.findall(r'(?m)^(name|version|license)\s*=\s*"([^"]*)"', manifest))
    licence = fields.get("license", "")
    name = fields.get("name", fallback)
    return Package(
        name, fields.get("version", ""), "crate", licence, is_permissive(licence), files
    )


def _debian_trees(folder: Path) -> Iterator[Package]:
    for stated in sorted(folder.glob("*/debian/copyright")):
        root = stated.parent.parent
        rights = DebianCopyright.parse(stated.read_text("utf-8", "replace"))
        changelog = root / "debian" / "changelog"
        first = changelog.read_text("utf-8", "replace")[:200] if changelog.is_file() else ""
        match = re.match(r"(\S+) \(([^)]+)\)", first)
        name, version = match.groups() if match else (root.name, "")

        def files(root: Path = root, rights: DebianCopyright = rights) -> Iterator[PackageFile]:
            for file in _read_tree(root, root.rglob("*")):
                if not file.path.startswith("debian/"):
                    yield PackageFile(file.path, file.data, rights.licence_of(file.path))

        # Each file answers for itself; the package is open if any file can be.
        open_ = any(is_permissive(licence) for _, licence in rights.stanzas)
        yield Package(name, version, "debian-source", rights.whole(), open_, files)


def _system_headers(root: Path) -> Iterator[Package]:
    info = root / "var/lib/dpkg/info"
    status = (root / "var/lib/dpkg/status").read_text("utf-8", "replace")
    versions = dict(re.findall(r"(?m)^Package: (\S+)\n(?:(?!\n).*\n)*?Version: (\S+)", status))
    for listing in sorted(info.glob("*.list")):
        paths = [root / line[1:] for line in listing.read_text("utf-8").splitlines()]
        paths = [p for p in paths if p.suffix in (".h", ".hpp", ".hh", ".lua")]
        name = listing.stem.split(":")[0]
        stated = root / "usr/share/doc" / name / "copyright"
        if not paths or not stated.is_file():
            continue
        licence = DebianCopyright.parse(stated.read_text("utf-8", "replace")).whole()

        def files(paths: list[Path] = paths) -> Iterator[PackageFile]:
            return _read_tree(root, iter(paths))

        version = versions.get(name, "")
        yield Package(name, version, "debian", licence, is_permissive(licence), files)


def _archives(folder: Path) -> Iterator[Package]:
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
            if ".dist-info/" in n and _LICENCE_FILE.match(PurePosixPath(n).name)
        ]

    def files() -> Iterator[PackageFile]:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda i: i.filename):
                if is_source(entry.filename) and entry.file_size <= MAX_FILE_BYTES:
                    yield PackageFile(entry.filename, archive.read(entry))

    licence, permissive = _python_licence(metadata, texts)
    name, version = metadata.get("Name") or path.name, metadata.get("Version") or ""
    return Package(name, version, "python", licence, permissive, files)


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
    def opened() -> tarfile.TarFile:
        return tarfile.open(path, "r:gz")

    about = _tar_members(opened, r"[^/]+/PKG-INFO")
    if not about:
        return None
    metadata = email.parser.Parser().parsestr(about[0])
    texts = _tar_members(opened, r"(?i)[^/]+/(licen[cs]e|copying)[^/]*")
    licence, permissive = _python_licence(metadata, texts)
    name, version = metadata.get("Name") or path.name, metadata.get("Version") or ""
    return Package(name, version, "python", licence, permissive, lambda: _tar_files(opened, 1))


def _npm_archive(path: Path) -> Package | None:
    def opened() -> tarfile.TarFile:
        return tarfile.open(path, "r:gz")

    manifest = _tar_members(opened, r"[^/]+/package\.json")
    return _npm_package(manifest[0].encode(), lambda: _tar_files(opened, 1)) if manifest else None


def _crate_archive(path: Path) -> Package | None:
    def opened() -> tarfile.TarFile:
        return tarfile.open(path, "r:gz")

    manifest = _tar_members(opened, r"[^/]+/Cargo\.toml")
    return _crate(manifest[0], path.stem, lambda: _tar_files(opened, 1)) if manifest else None


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

__all__ = ["LANGUAGES", "Package", "PackageFile", "Sources", "is_source", "language_of"]
