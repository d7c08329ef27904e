from __future__ import annotations

from collections.abc import Iterator

import pytest

from blockdiff.client.endpoint import Runtime
from blockdiff.engine.engine import Engine
from tests.editors.nvim.script import Scripted
from tests.unit.scripted_service import ScriptedEngine, served
from tests.unit.tiny_checkpoint import checkpoint


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Of a real engine on tiny random weights that runs."""
    made = Runtime(tmp_path_factory.mktemp("engine") / "run")
    with served(made, lambda report: Engine(checkpoint())):
        yield made


@pytest.fixture
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, ScriptedEngine]]:
    """Of an engine that follows a script: `max_tokens` refinements, `seed` milliseconds apart."""
    made, engine = Runtime(tmp_path_factory.mktemp("scripted") / "run"), ScriptedEngine()
    with served(made, lambda report: engine):
        yield made, engine


@pytest.fixture
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, Scripted]]:
    """Of an engine that writes what a test tells it to."""
    made, engine = Runtime(tmp_path_factory.mktemp("writer") / "run"), Scripted()
    with served(made, lambda report: engine):
        yield made, engine
        engine.hold = False
