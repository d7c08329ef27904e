"""The parts of docs/clients.md that repeat what the code says and the tests found: `make docs`.

A test compares; none of it is edited by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from blockdiff.cli.compat import CLIENTS, settings_of
from blockdiff.client.endpoint import COMPAT_ADDRESS

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "clients.md"
RESULTS = ROOT / "tests" / "unit" / "compat_results.json"
_COLUMNS = ("client", "endpoint", "streams", "cancels", "warms", "errors")


def updated(text: str) -> str:
    """The guide with its generated parts as they are now."""
    for name, part in {"settings": settings(), "clients": table()}.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, p=part: m[1] + p + m[2], text, flags=re.S)
        assert found == 1, f"{GUIDE} has {found} places for {name!r}"
    return text


def settings() -> str:
    """What `blockdiff compat` prints, with a word in place of the token."""
    parts = []
    for name, client in CLIENTS.items():
        code = settings_of(client, f"http://{COMPAT_ADDRESS}", "TOKEN")
        notes = f"\n{client.notes.replace('URL', f'http://{COMPAT_ADDRESS}')}\n"
        parts.append(f"### {name}\n\nIn {client.place}:\n\n```{client.language}\n{code}```\n")
        parts += [notes] if client.notes else []
        parts.append("\n")
    return "\n" + "".join(parts)


def table() -> str:
    rows = json.loads(RESULTS.read_text("utf-8"))
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    for row in rows:
        cells = [f"`{row[name]}`" if name == "endpoint" else row[name] for name in _COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    GUIDE.write_text(updated(GUIDE.read_text("utf-8")), "utf-8")
