"""The folder a program is started in is somebody's project, and no place to import from.

Python puts it first on the search path for `python -m`, and for a `PYTHONPATH` with a relative or
an empty entry. A file there that bears the name of a library would run in place of the library.

Programs call `leave_project` before they import anything else, so this file imports only what the
interpreter has loaded by itself by then.
"""

import os
import sys

_HERE = os.path.dirname(os.path.realpath(__file__))
PACKAGE_ROOT = os.path.dirname(os.path.dirname(_HERE))
"""The folder that this package is imported from: site-packages, or a checkout."""


def leave_project() -> None:
    """Take the working directory, and what is relative to it, off the search path of imports."""
    relative = {
        _real(entry)
        for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if not os.path.isabs(entry)
    }
    sys.path[:] = [entry for entry in sys.path if is_apart(entry) and _real(entry) not in relative]
    if not any(_real(entry) == PACKAGE_ROOT for entry in sys.path):
        sys.path.insert(0, PACKAGE_ROOT)


def is_apart(entry: str) -> bool:
    """Whether an entry of a search path is absolute and not the working directory itself."""
    return os.path.isabs(entry) and _real(entry) != _real(os.curdir)


def _real(path: str) -> str:
    try:
        return os.path.realpath(path or os.curdir)
    except OSError:  # a working directory that is gone, on some systems
        return path
