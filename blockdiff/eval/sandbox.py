"""Run one program with limits and learn whether it reached its end.

The program runs below a `guard`, a process of ours that alone decides what the end was, so that an
early exit is no pass. Nothing that it starts outlives it. This limits accidents of generated code;
it is no wall against hostile code.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from blockdiff.eval import guard
from blockdiff.system import child

_GRACE_SECONDS = 15.0  # for the guard to end what is left; it keeps to the time limit by itself
_APART = ("-n", "-p", "-f", "--kill-child", "--mount-proc")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run: wall-clock seconds, bytes of address space, bytes of any file written."""

    seconds: float = 5.0
    memory: int = 1 << 30
    file_size: int = 8 << 20
    processes: int = 4096


def run_program(source: str, limits: Limits = Limits()) -> str:  # noqa: B008
    """Execute Python `source` in a process and folder of its own, without network where possible.

    Returns:
        `passed`, `wrong` (an assertion failed), `syntax`, `error`, `memory`, `exit`, `timeout`,
        or `died` (killed by a limit or a signal).
    """
    folder = Path(tempfile.mkdtemp(prefix="blockdiff-eval-"))
    try:
        program = folder / "program.txt"
        try:
            program.write_text(source, encoding="utf-8", newline="")
        except UnicodeEncodeError:
            return "syntax"
        status = _run(program, limits) - guard.FIRST_STATUS
        return guard.OUTCOMES[status] if 0 <= status < len(guard.OUTCOMES) else "died"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: Path, limits: Limits) -> int:
    """The exit status of the guard."""
    python = [sys.executable, "-I", "-B", guard.__file__, str(limits.seconds), str(program)]
    process = child.start(
        [*_apart(), *python],
        program.parent,
        {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
        stdout=child.NO_OUTPUT,
        stderr=child.NO_OUTPUT,
        start_new_session=True,
        preexec_fn=functools.partial(_apply, limits),
    )
    try:
        return process.wait(limits.seconds + _GRACE_SECONDS)
    except child.Failed:
        return guard.FIRST_STATUS + guard.OUTCOMES.index("timeout")
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def _apply(limits: Limits) -> None:
    import resource

    wanted = {
        resource.RLIMIT_CPU: int(limits.seconds) + 2,
        resource.RLIMIT_AS: limits.memory,
        resource.RLIMIT_FSIZE: limits.file_size,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: limits.processes,
    }
    for what, value in wanted.items():
        hard = resource.getrlimit(what)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (most, most))


@functools.cache
def _apart() -> tuple[str, ...]:
    """A command prefix for processes and a network of its own, where this user may have them."""
    unshare = child.which("unshare")
    for options in (_APART, ("-r", *_APART), ("-n",), ("-r", "-n")) if unshare else ():
        prefix = (str(unshare), *options)
        if child.run([*prefix, "true"], seconds=10).returncode == 0:
            return prefix
    return ()
