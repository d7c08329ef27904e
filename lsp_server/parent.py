"""Notices when the process of the client ends: its death need not close the server's input."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

_POLL_SECONDS = 2.0  # where the system does not say it by itself


async def ended(process_id: int) -> None:
    """Return once no process of this number lives; at once if none does."""
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(process_id)
        except (ProcessLookupError, OverflowError):
            return
        except OSError:  # an old kernel, or one that forbids it
            pass
        else:
            try:
                await _readable(descriptor)
            finally:
                os.close(descriptor)
            return
    is_alive = _is_alive_on_windows if sys.platform == "win32" else _is_alive
    while is_alive(process_id):
        await asyncio.sleep(_POLL_SECONDS)


async def _readable(descriptor: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it lives and is somebody else's
        pass
    return True


def _is_alive_on_windows(process_id: int) -> bool:
    import ctypes

    kernel: Callable[..., int] = ctypes.windll.kernel32  # type: ignore[attr-defined]
    synchronize, timed_out = 0x00100000, 0x102
    handle = kernel.OpenProcess(synchronize, False, process_id)  # type: ignore[attr-defined]
    if not handle:
        return False
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == timed_out)  # type: ignore[attr-defined]
    finally:
        kernel.CloseHandle(handle)  # type: ignore[attr-defined]
