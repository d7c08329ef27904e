"""JSON lines, plain or gzipped: benchmark files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blockdiff.errors import InputFileError


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a `.jsonl` or `.jsonl.gz` file.

    Raises:
        InputFileError: it is missing, damaged or not of that form.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputFileError(f"cannot read {path}: {error}", "give a .jsonl or .jsonl.gz") from None
