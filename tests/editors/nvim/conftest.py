from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockdiff.client.endpoint import Runtime
from blockdiff.engine.engine import Engine
from tests.editors.nvim.neovim import Neovim, neovim
from tests.editors.nvim.script import Scripted
from tests.unit.scripted_service import served
from tests.unit.tiny_checkpoint import checkpoint

Open = Callable[..., contextlib.AbstractContextManager[Neovim]]


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, Scripted]]:
    """An engine that writes what a test tells it to."""
    made, engine = Runtime(tmp_path_factory.mktemp("engine") / "run"), Scripted()
    with served(made, lambda report: engine):
        yield made, engine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A real engine on tiny random weights."""
    made = Runtime(tmp_path_factory.mktemp("tiny") / "run")
    with served(made, lambda report: Engine(checkpoint())):
        yield made


@pytest.fixture
def engine(script: tuple[Runtime, Scripted]) -> Scripted:
    script[1].reset()
    return script[1]


@pytest.fixture
def editor(
    script: tuple[Runtime, Scripted], engine: Scripted, tmp_path: Path
) -> Callable[..., contextlib.AbstractContextManager[Neovim]]:
    """Opens Neovim on a file with the text given."""

    @contextlib.contextmanager
    def open_it(text: str, name: str = "area.py", **options: Any) -> Iterator[Neovim]:
        file = tmp_path / name
        file.write_bytes(text.encode())
        setup = {"ghost": {"enabled": False}, **options.pop("setup", {})}
        with neovim(tmp_path, script[0].folder, file, setup=setup, **options) as started:
            yield started

    return open_it
