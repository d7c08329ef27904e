"""Counts the n-grams of a workspace in a process of its own, at the lowest priority, if it is due.

The language server starts it as `python -m blockdiff.train FOLDER MODEL`: tokenizer and counts
neither slow the editor down nor stay in memory. It prints a line of JSON for what is done,
`{"what": …, "share": …}`, the last one `{"counted": …}`, files, 0 where nothing was to be done, or
`{"failed": …}`; it ends when nobody reads them.
"""

# ruff: noqa: E402
from blockdiff.system import search_path

search_path.leave_project()  # before anything is looked for there

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from blockdiff.errors import BlockdiffError, InputFileError

_NICE, _ENDED = 19, 128 + signal.SIGTERM


def main(root: Path, model: str) -> int:
    """Count `root` for the model an engine has; the exit status."""
    if hasattr(os, "nice"):
        os.nice(_NICE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ENDED))  # what is half written is removed
    from blockdiff.train import recount
    from blockdiff.weights import store

    shown = ""

    def show(done: int, total: int) -> None:
        nonlocal shown
        what = f"counting {done / 1e6:.1f} of {total / 1e6:.1f} MB"
        if what != shown or done == total:  # also told before it is written: somebody must be there
            shown = what
            _print(what=what, share=done / max(total, 1))

    try:
        try:
            counted = recount.renew(root, store.resolve(model), show)
            _print(counted=0 if counted is None else counted.files)
        except InputFileError:  # the folder is gone, or there is no code in it
            _print(counted=0)
        except BlockdiffError as error:
            _print(failed=error.message)
            return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _print(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
