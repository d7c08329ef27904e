"""What the Python compiler refuses, asked without running anything.

Texts go to a child process that compiles and never executes them. It is kept for the next text,
has a limit of memory, and is killed and replaced when an answer takes too long or a text crashes
it: deep nesting can.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blockdiff.system import child

TIME_LIMIT_S = 1.0
MOST_CHARACTERS = 300_000  # about a third of a second
_START_LIMIT_S = 10.0  # of the child, on a machine that is busy

# `symtable` parses and resolves names in linear time; what `compile` adds (`return` outside of
# functions, repeated keywords) depends on the construct alone, and code for a module of many
# functions takes time quadratic in their number.
_CHILD = """
import sys, warnings
from symtable import symtable
warnings.simplefilter("ignore")
try:
    import resource
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = int(sys.argv[1])
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
inlet, outlet = sys.stdin.buffer, sys.stdout.buffer

def refusal(judge, text):
    try:
        judge(text)
    except SyntaxError as error:
        return error.lineno or 1, error.offset or 1
    return None

def names(text):
    symtable(text, "<text>", "exec")

def code(text):
    if len(text) > int(sys.argv[2]):
        return names(text)
    compile(text, "<part>", "exec", dont_inherit=True)

def judged(text, part):
    if text:
        place = refusal(names, text)
        if place:
            return "text %d %d" % place
    place = part and refusal(code, part)
    if not place:
        return "accepted"
    if text and refusal(names, part):
        return "accepted"  # cut out badly, as inside a string
    return "part %d %d" % place

outlet.write(b"ready\\n")
outlet.flush()
while True:
    sizes = inlet.readline().split()
    if not sizes:
        break
    text, part = (inlet.read(int(size)).decode("utf-8") for size in sizes)
    try:
        answer = judged(text, part)
    except BaseException:  # too deep, too large, null bytes: nothing is known
        answer = "unknown"
    outlet.write(answer.encode() + b"\\n")
    outlet.flush()
"""
_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH")  # what an interpreter may need to start
_MEMORY = 1 << 30  # bytes of address space
_MOST_CODE = 60_000  # characters that code is generated for


class NotJudged(Exception):
    """There is no compiler, or it did not come to an end with this text."""


def refusal(text: str, part: tuple[int, int]) -> int | None:
    """Where in `text` the compiler of this Python stops; None if it accepts it.

    Code is generated for `text[slice(*part)]` only, a construct that can stand alone; a longer
    text than `MOST_CHARACTERS` is judged by that part alone.

    Raises:
        NotJudged: out of time, out of memory, nested too deep, too long, or no interpreter.
    """
    if text[:1] == "\ufeff":  # a byte order mark is the file's, not the program's
        found = refusal(text[1:], (max(part[0] - 1, 0), part[1] - 1))
        return None if found is None else found + 1
    first, last = part
    whole = "" if len(text) > MOST_CHARACTERS else text
    if "\0" in text or last - first > MOST_CHARACTERS:
        raise NotJudged
    answer = _compiler.ask(_plain(whole), _plain(text[first:last]))
    if answer == "accepted":
        return None
    match = re.fullmatch(r"(text|part) (\d+) (-?\d+)", answer)
    if match is None:
        raise NotJudged
    start, end = (0, len(text)) if match[1] == "text" else part
    return start + _offset(text[start:end], int(match[2]), int(match[3]))


def _plain(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # a lone surrogate becomes one `?`


def _offset(text: str, line: int, column: int) -> int:
    """From a line and a column, both counted from one, to an offset. O(length)."""
    start = 0
    for number, found in enumerate(re.finditer(r"\r\n|\r|\n|\Z", text), 1):
        if number == line:
            return min(start + max(column - 1, 0), found.start())
        start = found.end()
    return len(text)


@dataclass(slots=True)
class _Compiler:
    """The child, started when it is first needed. Threads take turns."""

    process: child.Popen[bytes] | None = None
    owner: int = 0  # the process that started it: after a fork the pipes are another's
    folder: tempfile.TemporaryDirectory[str] | None = None  # an empty one, where it runs
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, text: bytes, part: bytes) -> str:
        """The child's answer. Raises NotJudged."""
        if not sys.executable:
            raise NotJudged
        with self.lock:
            process = self.process
            if process is None or process.poll() is not None or self.owner != os.getpid():
                process = self._started()
            request = b"%d %d\n" % (len(text), len(part)) + text + part
            answer = _answer(process, request, TIME_LIMIT_S)
            if not answer:
                self.process = None
                raise NotJudged
            return answer

    def _started(self) -> child.Popen[bytes]:
        self.process = None
        try:
            if self.folder is None or not os.path.isdir(self.folder.name):
                self.folder = tempfile.TemporaryDirectory(prefix="blockdiff-")
            folder = Path(self.folder.name)
            process = start_interpreter(["-c", _CHILD, str(_MEMORY), str(_MOST_CODE)], folder)
        except OSError as error:
            raise NotJudged from error
        if _answer(process, b"", _START_LIMIT_S) != "ready":
            raise NotJudged
        self.process, self.owner = process, os.getpid()
        return process


def start_interpreter(arguments: list[str], folder: Path) -> child.Popen[bytes]:
    """This Python, isolated: no site packages, no environment, no folder of a project."""
    return child.start(
        [sys.executable, "-I", "-S", "-B", *arguments],
        folder,
        {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        stdin=child.PIPE,
        stdout=child.PIPE,
        stderr=child.NO_OUTPUT,
    )


def _answer(process: child.Popen[bytes], request: bytes, seconds: float) -> str:
    """One line of the child's; empty if it ended or took too long, and then it is gone."""
    assert process.stdin is not None and process.stdout is not None
    late = threading.Timer(seconds, process.kill)
    late.start()
    answer = b""
    try:
        with suppress(OSError):
            process.stdin.write(request)
            process.stdin.flush()
            answer = process.stdout.readline()
    finally:
        late.cancel()
    if not answer.endswith(b"\n"):
        process.kill()
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
        return ""
    return answer.decode().strip()


_compiler = _Compiler()
