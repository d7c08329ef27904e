"""`blockdiff doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import blockdiff
from blockdiff.cli import console
from blockdiff.errors import BlockdiffError, ExitCode
from blockdiff.model.load.hub_config import read_json
from blockdiff.syntax.grammars import LANGUAGES, grammar_of
from blockdiff.weights import folders, store
from blockdiff.weights.catalog import DEFAULT_MODEL, catalog, drafters, find, published
from blockdiff.weights.footprint import StackShape, drafter_shape, shape_of

_GIB = 2**30
_FAST_FEATURES = (
    ("avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")  # x86
    + ("bf16", "i8mm", "dotprod", "sve")  # Arm
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        fix: what to do; empty where nothing is wrong.
        exit_code: status of the command if this is the first problem.
    """

    name: str
    value: str
    fix: str = ""
    exit_code: ExitCode = ExitCode.OK

    @property
    def ok(self) -> bool:
        return self.exit_code is ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "ok": self.ok, "fix": self.fix}


def examine(model: str = DEFAULT_MODEL, drafter: str = "") -> list[Check]:
    """Every check, in the order they are shown; of a drafter, by name or folder, where one is."""
    torch, torch_check = _torch()
    checks = [
        Check("blockdiff", blockdiff.__version__),
        Check("python", f"{platform.python_version()} ({sys.executable})"),
        Check("platform", f"{platform.platform()}, {os.cpu_count()} cores"),
        torch_check,
    ]
    if torch is not None:
        checks += [*_devices(torch), _int8(), _default_device()]
    checks += [_grammars(), *_model(model)]
    if drafter:
        checks.append(_drafter(drafter, model))
    return [*checks, _memory(model, drafter), *_disk(model)]


def exit_code(checks: list[Check]) -> ExitCode:
    """Status of the first problem, OK if there is none."""
    return next((check.exit_code for check in checks if not check.ok), ExitCode.OK)


def render(checks: list[Check]) -> str:
    """The report as lines of text."""
    lines = []
    for check in checks:
        lines.append(f"{'ok' if check.ok else 'BAD':<4} {check.name:<10} {check.value}")
        if not check.ok:
            lines.append(f"{'':<4} {'':<10} fix: {check.fix}")
    return "\n".join(lines)


def _torch() -> tuple[ModuleType | None, Check]:
    try:
        import torch
    except ModuleNotFoundError as error:
        failure = console.as_error(error)
        return None, Check("torch", "not installed", failure.hint, failure.exit_code)
    except (ImportError, OSError) as error:  # a wheel for another machine, a missing library
        reason = " ".join(str(error).split())
        fix = "reinstall it: pip install --force-reinstall -c constraints.txt torch"
        return None, Check("torch", f"does not load: {reason}", fix, ExitCode.MODEL)
    versions = [str(torch.__version__)]
    for package in ("transformers", "tokenizers", "safetensors", "gguf"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return torch, Check("torch", ", ".join(versions))


def _devices(torch: Any) -> list[Check]:
    checks = [Check("cpu", _cpu(torch))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = f"{properties.total_memory / _GIB:.0f} GiB"
            checks.append(Check(f"cuda:{index}", f"{properties.name}, {memory}"))
    else:
        built = f"built for CUDA {torch.version.cuda}, no GPU found" if torch.version.cuda else ""
        checks.append(Check("cuda", built or "this torch is built without it"))
    mps = torch.backends.mps.is_available()
    if mps or sys.platform == "darwin":
        checks.append(Check("mps", "available" if mps else "not available"))
    return checks


def _cpu(torch: Any) -> str:
    """The processor and those of its features that decide how fast bf16 and int8 are."""
    parts = [torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(AttributeError, RuntimeError):  # newer than some torch, absent on some
        features = torch.cpu.get_capabilities()
        parts.insert(0, str(features.get("cpu_name") or platform.machine()))
        parts += [name for name in _FAST_FEATURES if features.get(name)]
    return f"{' '.join(parts)}, {torch.get_num_threads()} threads"


def _default_device() -> Check:
    from blockdiff.engine.devices import choose_device

    device = choose_device("auto")
    return Check("default", f"device {device}, dtype {_default_dtype()}")


def _default_dtype() -> str:
    """What `--dtype auto` is here; empty without torch."""
    try:
        from blockdiff.engine.devices import choose_device, choose_dtype
    except ImportError:
        return ""
    return str(choose_dtype("auto", choose_device("auto"))).removeprefix("torch.")


def _int8() -> Check:
    """Whether a CPU computes in int8, which is several times as fast; not having it is no error."""
    from blockdiff.model.int8 import library

    if reason := library.available():
        return Check("int8", f"{reason}; a CPU then takes bfloat16, slower: {library.HINT}")
    return Check("int8", library.loaded().backend)


def _grammars() -> Check:
    """The languages whose code is parsed. All else works without, so that none is no error."""
    there = [name for name in sorted(LANGUAGES) if grammar_of(name) is not None]
    missing = ", ".join(sorted(LANGUAGES.difference(there)))
    value = ", ".join(there) or "none"
    if missing:
        value += f"; {missing} cannot be parsed: pip install 'blockdiff[grammars]'"
    return Check("grammars", value)


def _model(name: str) -> list[Check]:
    pull = f"blockdiff models pull {name}"
    try:
        if name in published():
            found = store.state(name)
            there = found.status is store.Status.PRESENT
            state = f"{name}, {'downloaded' if there else 'not downloaded'}"
            code = ExitCode.OK if there else ExitCode.MODEL
            return [Check("model", state, "" if there else pull, code)]
        entry = find(name)
        found = store.state(name)
    except BlockdiffError as error:
        return [Check("model", error.message, error.hint, error.exit_code)]
    size = f"{found.bytes / 1e6:.0f} of {found.total / 1e6:.0f} MB"
    if found.status is store.Status.PRESENT:
        prepared = "unpacked" if found.prepared_bytes else "unpacked at first use"
        value, fix = f"{name}, downloaded, {prepared}", ""
    elif found.status is store.Status.PARTIAL:
        value, fix = f"{name}, half downloaded ({size})", f"continue: {pull}"
    elif found.status is store.Status.CORRUPT:
        value, fix = f"{name}, damaged ({size})", f"download it again: {pull}"
    else:
        value, fix = f"{name}, not downloaded ({found.total / 1e6:.0f} MB)", pull
    checks = [Check("model", value, fix, ExitCode.MODEL if fix else ExitCode.OK)]
    adapter = store.files_of(entry).adapter
    checks.append(Check("adapter", str(adapter) if adapter else "none: copies from the text draft"))
    return checks


def _drafter(name: str, model: str) -> Check:
    try:
        folder = store.resolve_drafter(name)
        _shape_of_drafter(name)
    except BlockdiffError as error:
        return Check("drafter", error.message, error.hint, error.exit_code)
    known = drafters().get(name)
    if known and model in {**catalog(), **published()} and known.target != model:
        value = f"{name} drafts for {known.target}, not {model}"
        return Check("drafter", value, f"use --model {known.target}", ExitCode.MODEL)
    return Check("drafter", f"{name}, downloaded" if known else str(folder))


def _shape_of_drafter(name: str) -> StackShape:
    """By what the catalogue says of it, else by its `config.json`. Raises as `resolve_drafter`."""
    if known := drafters().get(name):
        return drafter_shape(known.config, name)
    folder = store.resolve_drafter(name)
    return drafter_shape(read_json(folder / "config.json"), str(folder))


def _memory(model: str, drafter: str = "") -> Check:
    free = available_memory()
    if free is None:
        return Check("memory", "unknown")
    value = f"{free / _GIB:.1f} GiB available"
    with contextlib.suppress(BlockdiffError, ValueError):
        other = published().get(model)
        if other is not None:
            shape = shape_of(other.config, model)
            dtypes = [dtype for dtype in shape.dtypes if dtype != "int4"]
            needs = {dtype: shape.footprint(dtype).total for dtype in dtypes}
        else:
            needs = dict(find(model).memory)
        what = "the model needs"
        if drafter:
            beside, what = _shape_of_drafter(drafter), "the model and its drafter need"
            both = [dtype for dtype in beside.dtypes if dtype in needs]
            needs = {dtype: needs[dtype] + beside.footprint(dtype).total for dtype in both}
        need = min(needs.values())
        if free < need:
            value += f", {what} {need / _GIB:.1f}"
            return Check("memory", value, "close other programs", ExitCode.RESOURCE)
    return Check("memory", value)


def available_memory() -> int | None:
    """Bytes a process can still take without swapping; None without psutil.

    The limit of a container (cgroup v2) counts too.
    """
    try:
        import psutil
    except ModuleNotFoundError:  # comes with the engine
        return None
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # ValueError: the limit is the word `max`
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
        free = min(free, max(limit - used, 0))
    return free


def _disk(model: str) -> list[Check]:
    root = folders.cache_root()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    value = f"{free / _GIB:.1f} GiB free"
    need = 0
    with contextlib.suppress(BlockdiffError):
        found = store.state(model)
        if found.status is not store.Status.PRESENT:
            need += found.total - found.bytes
        if not found.prepared_bytes:
            base = find(model).base
            need += base.size if _default_dtype() == "int8" else base.prepared_size
    disk = Check("disk", value)
    if free < need:
        fix = f"free some, or set BLOCKDIFF_CACHE to a folder with {need / _GIB:.1f} GiB"
        disk = Check("disk", f"{value}, {need / _GIB:.1f} needed", fix, ExitCode.RESOURCE)
    cache = Check("cache", str(root))
    if not os.access(folder, os.W_OK):
        fix = "make it writable, or set BLOCKDIFF_CACHE to another folder"
        cache = Check("cache", f"{root} (not writable)", fix, ExitCode.RESOURCE)
    return [disk, cache]
