from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from blockdiff.client.endpoint import Runtime
from blockdiff.engine.engine import Engine
from blockdiff.weights import folders
from tests.editors.installed import Installed
from tests.editors.nvim.script import Scripted
from tests.editors.vscode.traffic import Traffic
from tests.editors.vscode.vscode import (
    CodeServer,
    Window,
    chromium,
    driver,
    interpreter,
)
from tests.unit.scripted_service import served
from tests.unit.tiny_checkpoint import checkpoint

Open = Callable[..., AbstractContextManager[Window]]

NO_GHOST = {"blockdiff.inline.automatic": False}


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, Scripted]]:
    """An engine that writes what a test tells it to."""
    made, engine = Runtime(tmp_path_factory.mktemp("script") / "run"), Scripted()
    with served(made, lambda report: engine):
        yield made, engine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A real engine on tiny random weights."""
    made = Runtime(tmp_path_factory.mktemp("tiny") / "run")
    with served(made, lambda report: Engine(checkpoint())):
        yield made


@pytest.fixture(scope="session")
def browser(script: tuple[Runtime, Scripted], tiny: Runtime) -> Iterator[Browser]:
    """Ends before the engines: while it runs, no other event loop can in this thread."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def thread() -> Iterator[ThreadPoolExecutor]:
    """For what needs an event loop of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def code(
    script: tuple[Runtime, Scripted], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CodeServer, Installed]]:
    """code-server with the extension as users have it, and the wheel that it came from."""
    home = tmp_path_factory.mktemp("code")
    own = {"BLOCKDIFF_CACHE": str(folders.cache_root()), "BLOCKDIFF_RUNTIME": str(script[0].folder)}
    started = CodeServer(home, own)
    try:
        started.add(driver(home))
        installed = started.install()
        started.start()
        yield started, installed
    finally:
        started.stop()


@pytest.fixture(scope="session")
def server(code: tuple[CodeServer, Installed]) -> CodeServer:
    return code[0]


@pytest.fixture(scope="session")
def shared(
    server: CodeServer,
    browser: Browser,
    script: tuple[Runtime, Scripted],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Window, Traffic]]:
    """One window for all tests that need no settings of their own: loading one takes seconds."""
    home = tmp_path_factory.mktemp("shared")
    log = home / "traffic.jsonl"
    python = interpreter(home / "python", script[0].folder, log)
    folder = server.prepare(home / "work", {"blockdiff.interpreter": str(python), **NO_GHOST})
    with server.window(browser, folder) as window:
        yield window, Traffic(log)


@pytest.fixture
def engine(script: tuple[Runtime, Scripted]) -> Scripted:
    script[1].reset()
    return script[1]


@pytest.fixture
def window(
    shared: tuple[Window, Traffic], engine: Scripted, request: pytest.FixtureRequest
) -> Iterator[Window]:
    """The shared window, with nothing open. All messages are held to the contract."""
    window, traffic = shared
    seen = len(traffic.messages())
    window.reset()
    yield window
    if engine.hold:
        engine.hold = False
    if failed(request):
        window.picture(request.node.name)
        window.load()  # whatever is left of this test does not harm the next one
    assert traffic.breaches(seen) == []


@pytest.fixture
def open_window(
    server: CodeServer,
    browser: Browser,
    script: tuple[Runtime, Scripted],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Open:
    """A window of its own, with settings of its own and the interpreter of another engine."""
    count = iter(range(100))

    @contextmanager
    def open_it(
        settings: dict[str, Any] | None = None, runtime: Runtime | None = None, **options: Any
    ) -> Iterator[Window]:
        home = tmp_path / str(next(count))
        log = home / "traffic.jsonl"
        python = interpreter(home / "python", (runtime or script[0]).folder, log)
        values = {"blockdiff.interpreter": str(python), **NO_GHOST, **(settings or {})}
        folder = server.prepare(home / "work", values)
        with server.window(browser, folder, **options) as opened:
            opened.traffic = Traffic(log)
            try:
                yield opened
            except BaseException:
                opened.picture(request.node.name)
                raise
            assert opened.traffic.breaches() == []

    return open_it


def failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(FAILED, False))


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if call.when in ("setup", "call") and report.failed:
        item.stash[FAILED] = True
    return report
