"""Child processes: started in a folder of ours, with search paths that leave the project out.

What we start (the engine, pip, a compiler) inherits the working directory of an editor or a shell,
which is the project that is open, perhaps a repository cloned a minute ago. Python, the linker and
the search for programs all look there under some settings. Every child of the package is started
here; a test fails on one that is started anywhere else. Nothing here imports torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockdiff.system.search_path import PACKAGE_ROOT, is_apart

NO_OUTPUT = subprocess.DEVNULL
PIPE = subprocess.PIPE
Popen = subprocess.Popen
Failed = subprocess.SubprocessError
"""A child that took too long, or whose exit status was not 0 where that was asked for."""

# Lists of folders in which an empty or relative entry means the working directory.
_LISTS = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LIBRARY_PATH",
    "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH",
)  # fmt: skip
# A relative path in these was meant from the working directory of this process.
_PLACES = (
    "BLOCKDIFF_CACHE", "BLOCKDIFF_MODELS", "BLOCKDIFF_RUNTIME", "HF_HOME", "TMPDIR",
    "XDG_CACHE_HOME", "XDG_STATE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE",
    "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_NOTHING: Mapping[str, str] = {}
_SITES = ("site-packages", "dist-packages")  # on the search path of every Python already


def run(
    command: Sequence[str], *, seconds: float | None = None, also: Mapping[str, str] = _NOTHING
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in an empty folder, without input; `also` joins its environment.

    Raises OSError if it cannot be started, Failed after `seconds`.
    """
    done = _run(command, seconds, also)
    texts = [said.decode("utf-8", "replace") for said in (done.stdout, done.stderr)]
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def read(command: Sequence[str]) -> bytes:
    """What a command prints. Raises as `run`, and Failed for an exit status that is not 0."""
    done = _run(command, None, _NOTHING)
    done.check_returncode()
    return done.stdout


def _run(
    command: Sequence[str], seconds: float | None, also: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryDirectory(prefix="blockdiff-") as empty:
        return subprocess.run(
            _resolved(command), cwd=empty, env={**inherited(), **also},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds,
        )  # fmt: skip


def start(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], **options: Any
) -> Popen[bytes]:
    """Start a command in `folder`, which must be one that others cannot write to.

    `environment` is all it gets, as a rule `inherited()` and more; `options` are those of Popen.
    It has no input unless they give it one. Raises OSError.
    """
    given = {"stdin": subprocess.DEVNULL, **options}
    return Popen(_resolved(command), cwd=folder, env=environment, **given)


def detached() -> dict[str, Any]:
    """Options of `start` for a child that outlives this process and its terminal."""
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        return {"creationflags": flags}
    return {"start_new_session": True}


def inherited() -> dict[str, str]:
    """The environment for a child: that of this process, with nothing in it that means the project.

    A Python finds this package with it wherever it is started, and imports nothing from there.
    """
    environment = dict(os.environ)
    for name in (name for name in _LISTS if name in environment):
        environment[name] = os.pathsep.join(_absolute(environment[name]))
    for name in (name for name in _PLACES if environment.get(name, "")):
        if not environment[name].startswith("~"):
            environment[name] = os.path.abspath(environment[name])
    kept = [entry for entry in _absolute(environment.get("PYTHONPATH", "")) if is_apart(entry)]
    if os.path.basename(PACKAGE_ROOT) not in _SITES:
        kept.insert(0, PACKAGE_ROOT)
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(kept))
    if not kept:
        del environment["PYTHONPATH"]
    environment["PYTHONSAFEPATH"] = "1"  # Python 3.11 and newer; an older one sees an empty folder
    return environment


def which(name: str) -> str | None:
    """The absolute path of a program, by absolute path or by name, never from the project."""
    if os.path.dirname(name):
        return name if os.path.isabs(name) and shutil.which(name) else None
    endings = [""]
    if sys.platform == "win32":  # where `shutil.which` looks in the working directory first
        endings = [*os.environ.get("PATHEXT", ".EXE").split(os.pathsep), ""]
    for folder in _absolute(os.environ.get("PATH", os.defpath)):
        for ending in endings:
            if found := shutil.which(os.path.join(folder, name + ending)):
                return found
    return None


def _resolved(command: Sequence[str]) -> list[str]:
    program = which(command[0])
    if program is None:
        raise FileNotFoundError(f"there is no program {command[0]}")
    return [program, *command[1:]]


def _absolute(folders: str) -> list[str]:
    return [folder for folder in folders.split(os.pathsep) if os.path.isabs(folder)]
