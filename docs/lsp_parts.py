"""Files that repeat what the language server's code says: `make docs` writes them anew.

A test compares; none of them is edited by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lsprotocol import types

from lsp_server.greeting import CAPABILITIES
from lsp_server.handlers import advertised
from lsp_server.messages import contract
from lsp_server.settings import schema

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "lsp.md"


def files() -> dict[Path, str]:
    """Path and content of each."""
    capabilities = advertised(types.ClientCapabilities())["capabilities"]
    del capabilities["positionEncoding"]  # follows from the client
    schemas = {"settings": schema(), **contract()}
    contracts = {ROOT / "tests" / "contract" / f"{name}.json": s for name, s in schemas.items()}
    return {
        CAPABILITIES: _json(capabilities),
        **{path: _json(value) for path, value in contracts.items()},
        GUIDE: _with_settings(GUIDE.read_text(encoding="utf-8")),
    }


def _with_settings(guide: str) -> str:
    rows = ["| setting | default | |", "|---|---|---|"]
    for section, value in schema()["properties"].items():
        for key, rule in value["properties"].items():
            default = json.dumps(rule["default"])
            rows.append(f"| `{section}.{key}` | `{default}` | {rule['description']} |")
    table = "\n" + "\n".join(rows) + "\n\n"
    pattern = r"(<!-- settings -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda m: m[1] + table + m[2], guide, flags=re.S)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
