"""Every failure a user can meet: a code, one clear line, and what to do about it.

The code travels in JSON (`{code, message, hint}`), the exit status is what the command line
returns. Both are listed in the README.
"""

from __future__ import annotations

import errno
import os
import traceback
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit statuses of the `blockdiff` command."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INPUT_FILE = 3
    MODEL = 4
    NETWORK = 5
    RESOURCE = 6
    INTERRUPTED = 130
    PIPE_CLOSED = 141

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.INTERNAL: "internal error, a defect of blockdiff",
    ExitCode.USAGE: "bad option, position, device or request",
    ExitCode.INPUT_FILE: "the file cannot be read or written",
    ExitCode.MODEL: "the model or the engine is missing, damaged or unsupported",
    ExitCode.NETWORK: "the download failed, or the remote backend",
    ExitCode.RESOURCE: "not enough memory or disk space",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.PIPE_CLOSED: "the reader of the output went away",
}


class BlockdiffError(Exception):
    """Base of all typed errors.

    Attributes:
        message: one line that says what went wrong.
        hint: one line that says how to fix it; empty if there is nothing to do.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, str]:
        """The wire form `{code, message, hint}`."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InvalidRequest(BlockdiffError):
    """A request that contradicts itself: a bad option, an inverted or overlapping hole."""

    code = "invalid_request"
    exit_code = ExitCode.USAGE


class RequestTooLarge(InvalidRequest):
    """A request about more text than a source file may have."""

    code = "too_large"


class PositionOutside(InvalidRequest):
    """A line or column that the document does not have."""

    code = "position_outside"


class InputFileError(BlockdiffError):
    """A source file that cannot be used: missing, unreadable, binary, too large, not UTF-8."""

    code = "input_file"
    exit_code = ExitCode.INPUT_FILE


class OutputFileError(BlockdiffError):
    """The result could not be written; the original file is untouched."""

    code = "output_file"
    exit_code = ExitCode.INPUT_FILE


class IgnoreListUnreadable(BlockdiffError):
    """A `.blockdiffignore` that cannot be read, or lines of it that mean nothing."""

    code = "ignore_list"
    exit_code = ExitCode.USAGE


class ModelNotFound(BlockdiffError):
    """The model is not known, not downloaded, or only half downloaded."""

    code = "model_not_found"
    exit_code = ExitCode.MODEL


class ModelCorrupt(BlockdiffError):
    """A file of the model is damaged: wrong digest, truncated, missing or misshapen tensors."""

    code = "model_corrupt"
    exit_code = ExitCode.MODEL


class ModelUnsupported(BlockdiffError):
    """A model we know enough of to refuse: pickle weights, unknown family, no FIM layout."""

    code = "model_unsupported"
    exit_code = ExitCode.MODEL


class NotInstalled(BlockdiffError):
    """A part of the package that was left out of the installation is needed."""

    code = "not_installed"
    exit_code = ExitCode.MODEL


class EditorFailed(BlockdiffError):
    """An editor is not here, or did not take its plugin."""

    code = "editor_failed"
    exit_code = ExitCode.USAGE


class DownloadFailed(BlockdiffError):
    """No source of the model answered."""

    code = "download_failed"
    exit_code = ExitCode.NETWORK


class DiskFull(BlockdiffError):
    """Not enough room for what has to be written."""

    code = "disk_full"
    exit_code = ExitCode.RESOURCE


class OutOfMemory(BlockdiffError):
    """Not enough memory for the model or the request."""

    code = "out_of_memory"
    exit_code = ExitCode.RESOURCE


class DeviceUnavailable(BlockdiffError):
    """The device or dtype asked for does not exist on this machine."""

    code = "device_unavailable"
    exit_code = ExitCode.USAGE


class AnswerIsProse(BlockdiffError):
    """The model answered an instruction with talk about the code. Nothing was changed."""

    code = "answer_is_prose"
    exit_code = ExitCode.MODEL


class Cancelled(BlockdiffError):
    """The request was cancelled between two forwards. Nothing was changed."""

    code = "cancelled"
    exit_code = ExitCode.INTERRUPTED


class Superseded(Cancelled):
    """A newer automatic completion of the same document took the place of this one."""

    code = "superseded"


class EngineUnavailable(BlockdiffError):
    """No engine answers, and none could be started."""

    code = "engine_unavailable"
    exit_code = ExitCode.MODEL


class EngineDied(EngineUnavailable):
    """The engine went away in the middle of a request. The next one starts it again."""

    code = "engine_died"


class EngineStopping(EngineUnavailable):
    """The engine is shutting down."""

    code = "engine_stopping"


class EngineBusy(BlockdiffError):
    """Too many requests are waiting already."""

    code = "engine_busy"
    exit_code = ExitCode.RESOURCE


class EngineMismatch(BlockdiffError):
    """The engine that runs speaks another protocol, or serves another model than the one asked."""

    code = "engine_mismatch"
    exit_code = ExitCode.MODEL


class Unauthorized(BlockdiffError):
    """The engine does not accept this token, or a remote backend this key."""

    code = "unauthorized"
    exit_code = ExitCode.USAGE


class BackendFailed(EngineUnavailable):
    """A remote backend is down or silent, answers something else, or breaks its answer off."""

    code = "backend_failed"
    exit_code = ExitCode.NETWORK


class RateLimited(BlockdiffError):
    """A remote backend or a team's engine was asked too often, or a quota is used up."""

    code = "rate_limited"
    exit_code = ExitCode.NETWORK


class BackendNotAllowed(BlockdiffError):
    """The settings name a backend on another machine that the user has not allowed himself."""

    code = "backend_not_allowed"
    exit_code = ExitCode.USAGE


class AddressInUse(BlockdiffError):
    """The address an engine should listen on is taken, by another engine or another program."""

    code = "address_in_use"
    exit_code = ExitCode.USAGE


class NotPermitted(BlockdiffError):
    """The system refuses access to a folder, file, socket or port that the engine needs."""

    code = "not_permitted"
    exit_code = ExitCode.RESOURCE


class IndexUnusable(BlockdiffError):
    """The index of a workspace is damaged, or not as the files are."""

    code = "index_unusable"
    exit_code = ExitCode.INPUT_FILE


_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_MEMORY = (  # torch's words: its allocator on a CPU, on MPS, what CUDA and its libraries take
    "can't allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "ALLOC_FAILED",
)
_DEFECT_HINT = "this is a defect; run again with BLOCKDIFF_DEBUG=1 for the traceback and report it"
_EXTRAS = {
    "engine": (
        *("torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "psutil"),
        *("starlette", "uvicorn", "prometheus_client", "huggingface_hub"),
    ),
    "train": ("matplotlib", "accelerate"),
    "bench": ("xllamacpp",),
    "rivals": ("openvino", "openvino_genai"),
    "cluster": ("ray", "limits"),
}


def as_error(exception: BaseException) -> BlockdiffError:
    """The typed error for whatever went wrong; BLOCKDIFF_DEBUG=1 prints the traceback first."""
    if isinstance(exception, KeyboardInterrupt):
        return Cancelled("interrupted")
    if os.environ.get("BLOCKDIFF_DEBUG"):
        traceback.print_exception(exception)
    if isinstance(exception, BlockdiffError):
        return exception
    if isinstance(exception, ModuleNotFoundError):
        package = (exception.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                return NotInstalled(
                    f"{package} is not installed", f"pip install 'blockdiff[{extra}]'"
                )
    if is_out_of_memory(exception):
        hint = "close other programs, or lower --context-tokens; `blockdiff doctor` shows what fits"
        return OutOfMemory("not enough memory", hint)
    if isinstance(exception, OSError) and exception.errno in _DISK_FULL:
        return DiskFull(f"the disk is full: {exception}", "free some space and try again")
    reason = " ".join(str(exception).split())
    return BlockdiffError(f"{type(exception).__name__}: {reason}", _DEFECT_HINT)


def is_out_of_memory(exception: BaseException) -> bool:
    """Whether memory is what was missing, of whatever device."""
    if isinstance(exception, MemoryError) or type(exception).__name__ == "OutOfMemoryError":
        return True
    if isinstance(exception, OSError):
        return exception.errno == errno.ENOMEM
    return isinstance(exception, RuntimeError) and any(
        words in str(exception) for words in _NO_MEMORY
    )
