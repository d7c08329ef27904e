"""Where source code comes from: packages that state their licence, installed or as archives.

A `Package` is one distribution of any ecosystem; its files are read only when asked for. No
package is ever imported or built.
"""

from __future__ import annotations

import importlib.metadata
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blockdiff.errors import InputFileError
from blockdiff.system import child
from blockdiff.train.archives import archives
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
            found.extend(archives(folder))
        if self.system_headers:
            found.extend(_system_headers(Path("/")))
        return sorted(found, key=lambda p: (p.name.lower(), p.ecosystem, p.version))


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
            if LICENCE_FILE.match(f.name) and ".dist-info" in f.parts[0] and (folder / f).is_file()
        ]
        paths = [folder / f for f in listed if ".." not in f.parts]

        def files(paths: list[Path] = paths) -> Iterator[PackageFile]:
            return _read_tree(folder, iter(paths))

        yield python_package(dist.metadata, texts, "unknown", files)


def _node_modules(folder: Path) -> Iterator[Package]:
    for manifest in sorted(folder.rglob("package.json")):
        root = manifest.parent
        holder = root.parent.parent if root.parent.name.startswith("@") else root.parent
        if holder.name != "node_modules":
            continue

        def files(root: Path = root) -> Iterator[PackageFile]:
            inside = (p for p in root.rglob("*") if "node_modules" not in p.relative_to(root).parts)
            return _read_tree(root, inside)

        package = npm_package(manifest.read_bytes(), files)
        if package:
            yield package


def _crates(folder: Path) -> Iterator[Package]:
    for manifest in sorted(folder.glob("*/Cargo.toml")):
        root = manifest.parent

        def files(root: Path = root) -> Iterator[PackageFile]:
            return _read_tree(root, root.rglob("*"))

        yield crate(manifest.read_text("utf-8", "replace"), root.name, files)


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
