"""Ctrl-C, handled once for the whole command.

The first press raises KeyboardInterrupt; a library that swallows it or turns it into another error
(an import of a C extension does) is seen through by `pressed`. A second press leaves at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130

_SHOW_CURSOR = "\x1b[?25h"

_pressed = False
_terminated = False
_deferring = False
_noticing = False
_holding = False


def install() -> None:
    """Take over SIGINT, and let SIGTERM unwind like an exit so that the terminal is restored."""
    signal.signal(signal.SIGINT, _on_interrupt)
    signal.signal(signal.SIGTERM, _on_terminate)


def restore() -> None:
    """From here on a press ends the process silently, as it does for any program.

    A press that has been handled must not: CPython marks a KeyboardInterrupt that leaves a string
    given to `exec` or `eval` (data classes are made so) even if it is caught further out, and ends
    a program run by `-m` with the signal itself then, whatever its status. The next string that is
    run takes the mark away.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    exec("")


def pressed() -> bool:
    """Whether Ctrl-C was pressed since the command started."""
    return _pressed


@contextmanager
def deferred() -> Iterator[None]:
    """What runs in here is finished even if Ctrl-C is pressed; the press is noted, no more."""
    global _deferring
    if _pressed:
        raise KeyboardInterrupt
    _deferring = True
    try:
        yield
    finally:
        _deferring = False


@contextmanager
def held() -> Iterator[None]:
    """A press or SIGTERM in here is obeyed at the end, a second one at once.

    For the import of libraries such as torch: an exception that reaches the set-up of a C extension
    can abort the whole process, or be swallowed there.
    """
    global _holding
    _holding = True
    try:
        yield
    finally:
        _holding = False
    if _terminated:
        sys.exit(128 + signal.SIGTERM)
    if _pressed:
        raise KeyboardInterrupt


@contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """For loops that end themselves: a press or SIGTERM in here raises nothing, `pressed` is true.

    For what must be saved first, and for event loops: an exception of a signal lands in whichever
    task or callback runs, which is not the one that waits for it. SIGTERM is obeyed at the end.
    """
    global _noticing
    if _pressed:
        raise KeyboardInterrupt
    _noticing = True
    try:
        yield pressed
    finally:
        _noticing = False
        if _terminated:
            sys.exit(128 + signal.SIGTERM)


def _on_interrupt(signum: int, frame: FrameType | None) -> None:
    global _pressed
    if _deferring:
        return
    if (_noticing or _holding) and not _pressed:
        _pressed = True
        return
    if _pressed:
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            os.write(2, _SHOW_CURSOR.encode())
        os._exit(STATUS)
    _pressed = True
    raise KeyboardInterrupt


def _on_terminate(signum: int, frame: FrameType | None) -> None:
    global _pressed, _terminated
    if (_noticing or _holding) and not _terminated:
        _terminated = True
        _pressed = _pressed or _noticing
        return
    sys.exit(128 + signum)
