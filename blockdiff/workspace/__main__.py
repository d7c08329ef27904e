"""Builds the index of a workspace in a process of its own, at the lowest priority.

The language server starts it as `python -m blockdiff.workspace FOLDER`: what it reads and parses
neither slows the editor down nor stays in memory. It prints a line of JSON for what is done,
`{"what": …, "share": …}`, the last one `{"ended": …, "files": …}`; it ends when nobody reads them.
"""

# ruff: noqa: E402
from blockdiff.system import search_path

search_path.leave_project()  # before anything is looked for there

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blockdiff.workspace.index import Index

_NICE = 19


def main(root: Path) -> int:
    """Refresh the index of `root`; the exit status."""
    if hasattr(os, "nice"):
        os.nice(_NICE)
    index = Index(root)
    try:
        if index.file is not None:  # in memory it would be gone with this process
            done = index.refresh(lambda what, share: _print(what=what, share=share))
            _print(**asdict(done))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        index.close()
    return 0


def _print(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
