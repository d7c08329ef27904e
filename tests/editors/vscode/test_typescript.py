"""What needs no editor: types, and the tests of the modules that know nothing of VS Code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.editors.vscode.vscode import npm


@pytest.mark.parametrize("script", ["check", "test"])
def test_the_script_passes(script: str, tmp_path: Path) -> None:
    """The fuzzer of edits against drafts is one of them."""
    npm(script, tmp_path)
