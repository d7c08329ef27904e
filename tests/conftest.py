"""Marks: `model` tests need the real weights and are skipped where those are not downloaded.

`make test` downloads them and sets BLOCKDIFF_REQUIRE_MODEL, so that there nothing is skipped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def runtime_of_tests() -> Iterator[None]:
    """No test meets the engine of whoever runs them: commands join one that they find."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKDIFF_RUNTIME", os.path.join(folder, "runtime"))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("model")]
    if not marked or os.environ.get("BLOCKDIFF_REQUIRE_MODEL") or _is_downloaded():
        return
    skip = pytest.mark.skip(reason="the model is not downloaded: blockdiff models pull")
    for item in marked:
        item.add_marker(skip)


def _is_downloaded() -> bool:
    from blockdiff.weights import store
    from blockdiff.weights.catalog import DEFAULT_MODEL

    return store.state(DEFAULT_MODEL).status is store.Status.PRESENT
