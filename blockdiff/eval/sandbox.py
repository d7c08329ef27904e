"""Run one program with limits and learn whether it reached its end.

The program is executed by a driver that writes a nonce once the last line has run, so that an
early exit is no pass. This limits accidents of generated code; it is no wall against hostile code.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_DRIVER = """
import os, sys
report, nonce, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
del sys.argv[1:]
def end(kind):
    os.write(report, (nonce + kind).encode())
    os._exit(0)
try:
    program = compile(open(path, encoding="utf-8").read(), "program.py", "exec")
except BaseException:
    end("syntax")
try:
    exec(program, {})
except AssertionError:
    end("wrong")
except MemoryError:
    end("memory")
except SystemExit:
    end("exit")
except BaseException:
    end("error")
end("passed")
"""


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
    nonce = secrets.token_hex(8)
    read_end, write_end = os.pipe()
    folder = Path(tempfile.mkdtemp(prefix="blockdiff-eval-"))
    try:
        program, driver = folder / "program.txt", folder / "driver.py"
        try:
            program.write_text(source, encoding="utf-8", newline="")
        except UnicodeEncodeError:
            return "syntax"
        driver.write_text(_DRIVER, encoding="utf-8")
        late = _run(driver, write_end, nonce, program, limits)
        os.set_blocking(read_end, False)
        try:
            report = os.read(read_end, 4096).decode("utf-8", "replace")
        except BlockingIOError:
            report = ""
        if report.startswith(nonce):
            return report.removeprefix(nonce)
        return "timeout" if late else "died"
    finally:
        os.close(read_end)
        os.close(write_end)
        shutil.rmtree(folder, ignore_errors=True)


def _run(driver: Path, report: int, nonce: str, program: Path, limits: Limits) -> bool:
    """Start, wait and kill whatever is left; True if the time ran out."""
    process = subprocess.Popen(
        [*_without_network(), sys.executable, "-I", "-B", driver, str(report), nonce, program],
        cwd=driver.parent,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(report,),
        start_new_session=True,
        preexec_fn=functools.partial(_apply, limits),
    )
    late = False
    try:
        process.wait(limits.seconds)
    except subprocess.TimeoutExpired:
        late = True
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    return late


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
def _without_network() -> tuple[str, ...]:
    """A command prefix that takes the network away, where this user may do so."""
    if shutil.which("unshare"):
        for prefix in (("unshare", "-n"), ("unshare", "-r", "-n")):
            if subprocess.run([*prefix, "true"], capture_output=True, timeout=10).returncode == 0:
                return prefix
    return ()
