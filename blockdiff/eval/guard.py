"""Runs one program in a child, says by its exit status how that ended, and leaves nothing running.

    python -I -B guard.py SECONDS PROGRAM

Started by `sandbox` as a process of its own; imports nothing of this package. The child has no
secret of ours while the program runs. When the last line has run it asks for a nonce and sends it
back with the outcome: whatever else comes from it, or nothing, is no pass. Every descendant ends
with the guard, in whatever session or group it is: orphans come to the guard, not to the system's
first process.

A program that is written against this protocol can still speak it: it runs in the process whose
word counts, and nothing that process holds at its end can be kept from it until then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import signal
import socket
import sys
import time

OUTCOMES = ("passed", "wrong", "syntax", "error", "memory", "exit", "timeout", "died")
"""Each is told by the exit status `FIRST_STATUS` plus its place here."""

FIRST_STATUS = 100
_ENDED = b"it has ended"
_POLL_SECONDS = 0.01
_KILL_SECONDS = 5.0
_SET_DUMPABLE, _SET_CHILD_SUBREAPER = 4, 36  # of prctl(2)


def main() -> None:
    deadline = time.monotonic() + float(sys.argv[1])
    path = sys.argv[2]
    _prctl(_SET_CHILD_SUBREAPER, 1)
    _prctl(_SET_DUMPABLE, 0)  # the child may neither read our memory nor use our descriptors
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    child = os.fork()
    if not child:
        ours.close()
        os.setsid()
        _prctl(_SET_DUMPABLE, 1)
        del sys.argv[1:]
        _report(theirs, _execute(path))
    theirs.close()
    outcome = _outcome(ours, child, deadline)
    _end_all(child)
    os._exit(FIRST_STATUS + OUTCOMES.index(outcome))


def _execute(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            program = compile(file.read(), "program.py", "exec")
    except BaseException:
        return "syntax"
    try:
        exec(program, {})
    except AssertionError:
        return "wrong"
    except MemoryError:
        return "memory"
    except SystemExit:
        return "exit"
    except BaseException:
        return "error"
    return "passed"


def _report(channel: socket.socket, outcome: str) -> None:
    try:
        channel.send(_ENDED)
        channel.send(channel.recv(64) + outcome.encode())
    finally:
        os._exit(0)


def _outcome(channel: socket.socket, child: int, deadline: float) -> str:
    """What the child says at its end, to our question; `died` if it says anything else."""
    nonce = b""
    channel.setblocking(False)
    while True:
        said = b""
        if select.select([channel], [], [], _POLL_SECONDS)[0]:
            with contextlib.suppress(OSError):
                said = channel.recv(64)
        if nonce and said.startswith(nonce):
            outcome = said.removeprefix(nonce).decode("ascii", "replace")
            return outcome if outcome in OUTCOMES else "died"
        if said:
            if nonce or said != _ENDED:
                return "died"
            nonce = secrets.token_hex(16).encode()
            with contextlib.suppress(OSError):
                channel.send(nonce)
            continue
        if time.monotonic() > deadline:
            return "timeout"
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if not select.select([channel], [], [], 0)[0]:
                return "died"


def _end_all(child: int) -> None:
    """Kill every descendant, again and again while there are any."""
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        for pid in {child, *_descendants()}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _descendants() -> set[int]:
    """Of this process, where the system tells."""
    parents: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
