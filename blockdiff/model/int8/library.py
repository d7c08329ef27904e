"""Int8 arithmetic on packed weights, by a small library compiled on this machine.

The C files beside this one are compiled for this very processor at first use and kept in the cache
folder. A library that others can have written is never loaded: it would run as we do. Their
threads are those of torch: both run on one OpenMP pool.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from blockdiff.errors import DeviceUnavailable, NotPermitted
from blockdiff.system import child, private
from blockdiff.weights import folders

_HERE = Path(__file__).parent
SOURCES = [_HERE / f"{name}.c" for name in ("linear_int8", "tiles", "stack", "attention")]
HEADERS = sorted(_HERE.glob("*.h"))
_FLAGS = ["-O3", "-march=native", "-std=c11", "-shared", "-fPIC"]
_ALIGNED = 64  # bytes of a cache line
_SECONDS = 120.0  # a compiler that takes longer hangs
HINT = "install gcc or clang, or: pip install ziglang"


class MatrixPart(ctypes.Structure):
    """Some rows of a matrix, as the library takes them."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class Matrix(ctypes.Structure):
    """A matrix, as the library takes it: parts one above the other; none where there is none."""

    _fields_ = [("parts", ctypes.c_void_p), ("n_parts", ctypes.c_int64)]


class Library:
    """The library.

    Attributes:
        backend: instructions that it uses: `avx512-vnni`, `avx-vnni`, `avx2` or `portable`.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError for a file that is no such library."""
        library = ctypes.CDLL(str(path))
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        library.blockdiff_backend.restype = ctypes.c_char_p
        library.blockdiff_scratch.restype = integer
        library.blockdiff_scratch.argtypes = [integer, integer]
        library.blockdiff_linear.restype = None
        library.blockdiff_linear.argtypes = [
            pointer, integer, pointer, integer, integer, pointer, pointer, pointer, ctypes.c_uint,
        ]  # fmt: skip
        library.blockdiff_stack_scratch.restype = integer
        library.blockdiff_stack_scratch.argtypes = [pointer, ctypes.c_uint]
        library.blockdiff_stack.restype = None
        library.blockdiff_stack.argtypes = [pointer, pointer, pointer, ctypes.c_uint]
        library.blockdiff_row.restype = None
        library.blockdiff_row.argtypes = [integer, pointer, integer, integer, pointer]
        self._library = library
        self._fork = _openmp()
        self.backend = str(library.blockdiff_backend().decode())

    def linear(self, parts: ctypes.Array[MatrixPart], x: Tensor, n_out: int) -> Tensor:
        """x (m, k) W^T + b, float32 and contiguous, as (m, n_out)."""
        m, k = x.shape
        out = torch.empty(m, n_out)
        scratch = torch.empty(self._library.blockdiff_scratch(m, k), dtype=torch.uint8)
        self._library.blockdiff_linear(
            parts, len(parts), x.data_ptr(), m, k, out.data_ptr(), scratch.data_ptr(),
            self._fork, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def stack(self, forward: ctypes.Structure) -> None:
        """Run layers over a stream in place; see `fused`, which describes the forward."""
        at, threads = ctypes.addressof(forward), torch.get_num_threads()
        size = self._library.blockdiff_stack_scratch(at, threads)
        scratch = torch.empty(size + _ALIGNED, dtype=torch.uint8)
        start = scratch.data_ptr() + -scratch.data_ptr() % _ALIGNED
        self._library.blockdiff_stack(at, start, self._fork, threads)

    def rows(self, part: MatrixPart, k: int, indices: Sequence[int]) -> Tensor:
        """Rows of a matrix, float32, (indices, k). Raises IndexError for one that is not there."""
        if indices and not (0 <= min(indices) and max(indices) < part.n):
            raise IndexError(f"rows {min(indices)} to {max(indices)} of a matrix of {part.n}")
        out = torch.empty(len(indices), k)
        for at, index in enumerate(indices):
            self._library.blockdiff_row(part.kind, part.packed, k, index, out[at].data_ptr())
        return out


@cache
def loaded() -> Library:
    """The library, compiled if it is not yet. Raises DeviceUnavailable where that cannot be."""
    name = f"linear-int8-{_key()}.so"
    folder = own_folder("native")
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="blockdiff-", ignore_cleanup_errors=True) as lent:
            return _compiled(Path(lent) / name)  # once loaded it does not need its file
    try:
        with private.pinned(folder / name) as path:
            return Library(path)
    except (OSError, AttributeError, NotPermitted):
        pass  # none yet, cut short, of another machine, or open to others: made again
    return _compiled(folder / name)


@cache
def available() -> str:
    """Why int8 cannot be used, or nothing."""
    try:
        loaded()
    except DeviceUnavailable as error:
        return error.message
    return ""


def is_fast() -> bool:
    """Whether int8 is worth its while here: with vector instructions for it."""
    return not available() and loaded().backend != "portable"


def own_folder(name: str) -> Path | None:
    """A folder for what is compiled: of the cache, or if others share that, of the user's own.

    None where others can write to both.
    """
    roots = dict.fromkeys((folders.cache_root(), folders.own_cache_root()))
    return next((folder for root in roots if _is_ours(folder := root / name)), None)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can put a library into `folder`, which is made if need be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sys.platform != "win32" and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode & ~private.WRITE)
        private.check_folder(folder, private.WRITE)
    except (OSError, NotPermitted):
        return False
    return os.access(folder, os.W_OK)


def _compiled(path: Path) -> Library:
    compilers = _compilers()
    if not compilers:
        raise DeviceUnavailable("int8 needs a C compiler, none was found", HINT)
    said = ""
    for compiler in compilers:
        scratch = None
        try:
            handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
            os.close(handle)
            scratch = Path(name)
            command = [*compiler, *_FLAGS, *map(str, SOURCES), "-o", name, "-lm"]
            ran = child.run(command, seconds=_SECONDS)
            if ran.returncode == 0:
                scratch.chmod(0o700)
                library = Library(scratch)
                os.replace(scratch, path)
                return library
            said = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        except (OSError, AttributeError, child.Failed) as error:
            said = str(error)
        finally:
            if scratch is not None:
                scratch.unlink(missing_ok=True)
    raise DeviceUnavailable(f"int8 is not available, compiling it failed: {said}", HINT)


def _compilers() -> list[list[str]]:
    """Commands that may compile C, the best first."""
    wanted = os.environ.get("CC", "").split()
    names = [wanted] if wanted else []
    names += [[name] for name in ("cc", "gcc", "clang")]
    found = [[path, *name[1:]] for name in names if (path := child.which(name[0]))]
    if importlib.util.find_spec("ziglang"):  # a compiler that comes as a package
        found.append([sys.executable, "-m", "ziglang", "cc"])
    return found


def _key() -> str:
    """Another one for another processor or source: code for one may not run on the other."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (*SOURCES, *HEADERS)))
    digest.update(" ".join(_FLAGS).encode() + processor())
    return digest.hexdigest()[:16]


def processor() -> bytes:
    """What code that is compiled for this processor alone depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    found = dict.fromkeys(line for line in lines if line.startswith(wanted))
    return "\n".join([platform.system(), platform.machine(), *found]).encode()


def _openmp() -> ctypes.c_void_p | None:
    """How torch's own OpenMP starts threads; None: no threads."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None
