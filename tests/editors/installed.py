"""blockdiff as a user has it: a wheel in an environment of its own, and no checkout in sight."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Installed:
    """The command of an installed wheel, for a user whose home is `home`.

    Args:
        tools: editors, by the name they have on PATH.
        extension: whether the wheel carries the one for VS Code, which takes longer to build.
    """

    def __init__(self, home: Path, tools: dict[str, list[str]], extension: bool) -> None:
        self.home = home
        folder = home / "venv"
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        self._pip("wheel", "-w", str(home / "wheel"), str(ROOT), extension=extension)
        wheel = next((home / "wheel").glob("*.whl"))
        self._pip("--python", str(self.python), "install", str(wheel))
        # What it depends on, as it is here: editable installations do not follow.
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        shared = [path for path in sys.path if path.endswith("-packages")]
        (folder / "lib" / version / "site-packages" / "shared.pth").write_text("\n".join(shared))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "PYTHONPATH"))}
        bin_folder = home / "bin"
        bin_folder.mkdir()
        for name, command in tools.items():
            program = bin_folder / name
            program.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
            program.chmod(0o755)
        self.environment = kept | {"HOME": str(home), "PATH": f"{bin_folder}:/usr/bin:/bin"}

    def run(self, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The command `blockdiff`, in the user's home or in another one."""
        home = home or self.home
        return subprocess.run(
            [self.python.with_name("blockdiff"), *arguments],
            cwd=home, env={**self.environment, "HOME": str(home)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    @staticmethod
    def _pip(*arguments: str, extension: bool = False) -> None:
        verb = next(i for i, word in enumerate(arguments) if word in ("wheel", "install"))
        command = [sys.executable, "-m", "pip", "-q", *arguments[: verb + 1], "--no-deps"]
        environment = os.environ | ({} if extension else {"BLOCKDIFF_WITHOUT_VSIX": "1"})
        done = subprocess.run(
            [*command, *arguments[verb + 1 :]], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
