"""Data flows one way, and so do the imports; what an editor starts stays free of torch.

    lsp_server → client → light modules, and what reads text (`TEXT`)
    cli → everything
    service → engine → infill, diffusion → model → light modules
    train → model, diffusion, infill; eval → engine and train, which it measures, too

A light module is any single file of the package that is not the command line. Light modules import
light modules only, without a cycle. A new folder of the package needs a line in `MAY`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "blockdiff"

# The folders that each folder may import; light modules are open to all.
MAY: dict[str, set[str]] = {
    "model": set(),
    "diffusion": {"model"},
    "infill": {"model", "diffusion"},
    "engine": {"model", "diffusion", "infill"},
    "service": {"model", "diffusion", "infill", "engine"},
    "train": {"model", "diffusion", "infill"},
    "eval": {"model", "diffusion", "infill", "engine", "train"},
}
TOP = ("cli", "doctor", "__main__")  # the command line and what only it uses
# Of `infill`, what the language server shares: what is open in a text, how its lines begin and end.
TEXT = ("blockdiff.infill.nesting", "blockdiff.infill.whitespace")
HEAVY = ("torch", "transformers", "numpy", "tokenizers", "safetensors", "gguf", "matplotlib")


def is_top(part: str) -> bool:
    return part in TOP or part.startswith("cli_")


def part_of(module: str) -> str:
    """`blockdiff.engine.scheduler` belongs to `engine`, `blockdiff` itself to the empty part."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports() -> dict[str, dict[str, str]]:
    """For every part, the other parts it imports and a file where it does.

    Imports inside functions and under TYPE_CHECKING count too.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        relative = path.relative_to(ROOT)
        parts = relative.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[part_of(module)]  # also a part that imports nothing
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in imported(node, relative):
                if name.split(".")[0] == PACKAGE and part_of(name) != part_of(module):
                    found[part_of(module)].setdefault(part_of(name), str(relative))
    return dict(found)


def imported(node: ast.AST, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"{path}:{node.lineno}: a relative import"
    return [
        f"{node.module}.{alias.name}" if node.module == PACKAGE else str(node.module)
        for alias in node.names
        # `from blockdiff import __version__` names no module
        if node.module != PACKAGE or not alias.name.startswith("__")
    ]


def light_parts() -> list[str]:
    return [part for part in imports() if part and part not in MAY and not is_top(part)]


def test_every_folder_has_a_place_on_the_road() -> None:
    folders = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders <= set(MAY)


@pytest.mark.parametrize("part", MAY)
def test_a_folder_imports_only_what_lies_below_it(part: str) -> None:
    allowed = MAY[part] | set(light_parts()) | {""}
    climbs = {f"{part} imports {o}: {f}" for o, f in imports().get(part, {}).items()
              if o not in allowed}  # fmt: skip
    assert not climbs


def test_light_modules_import_light_modules_only() -> None:
    light = {*light_parts(), ""}
    climbs = {
        f"{part} imports {other}: {file}"
        for part in light
        for other, file in imports().get(part, {}).items()
        if other not in light
    }
    assert not climbs


def test_light_modules_have_no_cycle() -> None:
    remaining = {part: set(imports()[part]) & set(light_parts()) for part in light_parts()}
    while free := [part for part, needs in remaining.items() if not needs]:
        for part in free:
            del remaining[part]
        for needs in remaining.values():
            needs.difference_update(free)
    assert not remaining, "these import one another in a circle"


def test_the_language_server_reaches_the_engine_through_the_client_only() -> None:
    allowed = {*light_parts(), ""}
    for path in sorted((ROOT / "lsp_server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in imported(node, path) if not relative_import(node) else []:
                if name.split(".")[0] == PACKAGE and name not in TEXT:
                    assert part_of(name) in allowed, f"{path} imports {name}"


def relative_import(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.level > 0


# What really gets loaded


def loaded_by(code: str) -> set[str]:
    """Top-level packages in `sys.modules` after running `code` in a fresh interpreter."""
    report = "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    run = subprocess.run(
        [sys.executable, "-c", code + report],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", [*sorted(light_parts()), "cli", "cli_infill", "cli_models"])
def test_light_modules_start_without_torch(module: str) -> None:
    assert not loaded_by(f"import {PACKAGE}.{module}") & set(HEAVY)


@pytest.mark.skipif(not (ROOT / "lsp_server" / "__init__.py").exists(), reason="not there yet")
def test_the_language_server_starts_without_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "lsp_server").rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    assert not loaded_by("import lsp_server, " + ", ".join(modules)) & set(HEAVY)


@pytest.mark.parametrize("line", ["--help", "infill --help", "version", "models list"])
def test_commands_that_need_no_model_run_without_torch(line: str) -> None:
    code = f"from blockdiff.cli import run\nassert run({line.split()!r}) == 0"
    assert not loaded_by(code) & set(HEAVY)


@pytest.mark.skipif(os.name == "nt", reason="no resource usage of children")
def test_help_is_there_at_once() -> None:
    import resource

    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    subprocess.run(
        [sys.executable, "-m", PACKAGE, "--help"], cwd=ROOT, capture_output=True, check=True
    )
    # Of the processor, not of the clock: tests run on busy machines.
    assert seconds() - before < 0.5
