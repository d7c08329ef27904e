"""A runtime folder or a file in it that others can have written is not believed."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockdiff.cli import app
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.client.starter import Deaths, Starter, StartOptions
from blockdiff.errors import NotPermitted
from blockdiff.system import private
from lsp_server.engine_link import EngineLink
from lsp_server.settings import EngineSettings
from tests.unit.scripted_service import COMMAND, run, served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes")
NOBODY = 65534


class Impostor:
    """Something that listens where a planted `engine.json` says; `heard` is what it was told."""

    def __init__(self) -> None:
        self.heard = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.heard += connection.recv(1 << 16) or b"a connection"

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.close()


def chown(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root gives files away")
    os.chown(path, NOBODY, NOBODY)


def link(path: Path) -> None:
    moved = path.rename(path.parent.parent / f"real-{path.name}")
    path.symlink_to(moved)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def mode(bits: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(bits)


SCENES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a folder for all": (".", mode(0o777)),
    "a folder for all, sticky": (".", mode(0o1777)),
    "a folder for a group": (".", mode(0o770)),
    "a folder that others can read": (".", mode(0o755)),
    "a folder of another user": (".", chown),
    "a folder that can be exchanged": ("..", mode(0o777)),
    "an address for all": ("engine.json", mode(0o666)),
    "an address for a group": ("engine.json", mode(0o660)),
    "an address of another user": ("engine.json", chown),
    "an address that is a link": ("engine.json", link),
    "an address that is a pipe": ("engine.json", pipe),
    "an address that is a folder": ("engine.json", folder),
    "a token for all": ("token", mode(0o666)),
    "a token that others can read": ("token", mode(0o644)),
    "a token of another user": ("token", chown),
    "a token that is a link": ("token", link),
}


@pytest.fixture(params=SCENES)
def planted(
    request: pytest.FixtureRequest, tmp_path: Path, impostor: Impostor
) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path / "parent" / "run")
    runtime.prepare()
    runtime.make_token()
    address = {"url": impostor.url, "ca_file": "", "pinned": False}
    runtime.write_private("engine.json", json.dumps({"pid": os.getpid(), "address": address}))
    name, spoil = SCENES[request.param]
    spoil(runtime.folder / name)
    yield runtime
    (tmp_path / "parent").chmod(0o700)


def test_no_client_believes_it(
    planted: Runtime, impostor: Impostor, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    starter = Starter(planted, StartOptions(command=COMMAND))
    for ask in (starter.join, starter.find, starter.join_or_start):
        with pytest.raises(NotPermitted) as refused:
            ask()
        assert refused.value.hint and str(planted.folder.parent) in refused.value.message

    async def health() -> None:
        await EngineClient(runtime=planted).health()

    with pytest.raises(NotPermitted):
        run(health())
    monkeypatch.setenv("BLOCKDIFF_RUNTIME", str(planted.folder))
    for command in ("status", "stop"):
        assert app.run([command]) in (0, NotPermitted.exit_code)
        assert "Traceback" not in capfd.readouterr().err
    EngineLink(EngineSettings(), planted, lambda status: None).would_download  # noqa: B018
    assert impostor.heard == b""


def test_deaths_that_others_wrote_down_keep_nobody_waiting(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "run")
    runtime.prepare()
    record = {"count": 9, "at": 4e9, "error": NotPermitted("planted").to_json()}
    for at in (0.0, 1.0):
        record["at"] = time.time() - at
        (runtime.folder / "deaths.json").write_text(json.dumps(record))
        (runtime.folder / "deaths.json").chmod(0o666)
        Deaths(runtime).back_off()


def test_an_engine_keeps_no_token_that_others_know(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "run")
    runtime.prepare()
    known = tmp_path / "known"
    known.write_text("a" * 64)
    known.chmod(0o600)
    runtime.token_file.symlink_to(known)
    token = runtime.make_token()
    assert token != "a" * 64 == known.read_text()
    assert not runtime.token_file.is_symlink() and runtime.token() == token


def test_a_file_that_lies_in_wait_is_not_written_through(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "run")
    runtime.prepare()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (runtime.folder / f"token.{os.getpid()}.tmp").symlink_to(victim)
    runtime.write_private("token", "new")
    assert victim.read_text() == "mine" and runtime.token() == "new"
    assert stat.S_IMODE(runtime.token_file.stat().st_mode) == 0o600


def test_a_folder_of_ours_behind_a_link_is_ours(tmp_path: Path) -> None:
    """As some keep their home folder: a link of their own to a private folder of their own."""
    real = Runtime(tmp_path / "elsewhere")
    with served(real):
        (tmp_path / "run").symlink_to(real.folder)
        assert Starter(Runtime(tmp_path / "run"), StartOptions()).join() is not None


def test_nothing_there_is_nothing_wrong(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "none")
    assert runtime.announced() is None and not Starter(runtime, StartOptions()).is_alive()
    assert not runtime.folder.exists()
    with pytest.raises(FileNotFoundError):
        private.read(runtime.folder, "engine.json")
