"""A repository of somebody else that is opened in an editor, full of names that we look for."""

from __future__ import annotations

from pathlib import Path

LIBRARIES = (
    "__future__", "argparse", "dataclasses", "filelock", "httpx", "json", "logging", "pip",
    "platformdirs", "subprocess", "tempfile", "tokenizers", "torch", "typing", "uvicorn", "ziglang",
)  # fmt: skip
PROGRAMS = ("cc", "gcc", "pip3", "npm", "blockdiff-lsp")


class Project:
    """Modules and programs, in the folder itself and in `src`, that leave a mark when they run."""

    def __init__(self, folder: Path, marks: Path) -> None:
        self.folder, self._marks = folder, marks
        marks.mkdir()
        for at in (folder, folder / "src"):
            at.mkdir()
            for name in LIBRARIES:
                mark = f"open({str(marks / name)!r}, 'w').close()\n"
                (at / f"{name}.py").write_text(mark + "raise SystemExit('of the project')\n")
            for name in PROGRAMS:
                program = at / name
                program.write_text(f"#!/bin/sh\n: > '{marks / name}'\n")
                program.chmod(0o755)

    def ran(self) -> list[str]:
        """Names of what was executed."""
        return sorted(path.name for path in self._marks.iterdir())
