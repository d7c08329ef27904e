"""The parts of README.md and docs/cli.md that repeat what the code says: `make docs` writes them.

A test compares; nothing of this is edited by hand.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
from pathlib import Path

from blockdiff.errors import BlockdiffError, ExitCode

ROOT = Path(__file__).resolve().parents[1]
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "cli.md"
WIDTH = "80"
COMMANDS = (
    "infill", "rewrite", "serve", "compat", "users add", "users remove", "users list", "status",
    "stop", "contexts", "doctor", "index", "backend allow", "backend forbid", "backend list",
    "editors install", "editors status", "editors remove",
    "models list", "models info", "models pull", "models check", "models convert", "models remove",
)  # fmt: skip


def updated(text: str) -> str:
    """README text with every generated part as the code has it now."""
    parts = {"exit codes": exit_codes(), "error codes": error_codes()}
    for name, part in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, p=part: m[1] + p + m[2], text, flags=re.S)
        assert found == 1, f"README.md has {found} places for the part {name!r}"
    return text


def guide() -> str:
    """docs/cli.md: the help of every command that users need."""
    head = "# The commands\n\nWhat `blockdiff COMMAND --help` says. "
    head += "`bench`, `eval`, `lab` and `train` have help of their own.\n"
    return head + "".join(f"\n## blockdiff {name}\n{help_text(name)}" for name in COMMANDS)


def help_text(command: str) -> str:
    from blockdiff.cli.app import run

    output = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(output):
            run([*command.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    lines = [line.rstrip() for line in output.getvalue().split("  Exit codes:")[0].splitlines()]
    return "\n```text\n" + "\n".join(lines).strip() + "\n```\n"


def exit_codes() -> str:
    rows = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    return table("exit code", "meaning", rows=rows)


def error_codes() -> str:
    kinds: list[type[BlockdiffError]] = [BlockdiffError]
    for kind in kinds:
        kinds += [k for k in kind.__subclasses__() if k.__module__ == BlockdiffError.__module__]
    kinds.sort(key=lambda kind: (kind.exit_code.value, kind.code))
    rows = [f"| `{k.code}` | {k.exit_code.value} | {meaning(k)} |" for k in kinds]
    return table("code", "exit code", "meaning", rows=rows)


def meaning(kind: type[BlockdiffError]) -> str:
    if kind is BlockdiffError:
        return "An internal error, a defect of blockdiff."
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def table(*titles: str, rows: list[str]) -> str:
    head = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n" + "\n".join(head + rows) + "\n\n"


if __name__ == "__main__":
    README.write_text(updated(README.read_text("utf-8")), "utf-8")
    GUIDE.write_text(guide(), "utf-8")
