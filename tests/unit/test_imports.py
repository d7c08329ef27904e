"""One road: imports only go down the table of rooms, file by file, and none goes round in a circle.

Imports inside functions and under TYPE_CHECKING count like any other. A new folder of the package
needs a line in `MAY`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from blockdiff.syntax import grammars

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LIGHT = "light"  # the files that lie loose in `blockdiff/`, and nothing else

# The rooms that each room may import besides itself; the light files are open to all.
_BELOW_ENGINE = {"system", "infill", "diffusion", "model", "syntax", "weights"}
_BELOW_TRAIN = {"system", "diffusion", "infill", "model", "syntax", "weights"}
_BELOW_EVAL = {"engine", "train", *_BELOW_ENGINE}
_BELOW_SERVICE = {"engine", "client", *_BELOW_ENGINE}
MAY: dict[str, set[str]] = {
    LIGHT: set(),
    "system": set(),
    "syntax": {"system"},
    "weights": {"system"},
    "workspace": {"syntax", "weights", "system"},
    "client": {"infill", "syntax", "weights", "system"},  # text of remote backends ends like ours
    "model": {"weights", "system"},
    "infill": {"syntax", "system"},
    "diffusion": {"model", "weights", "system"},
    "train": _BELOW_TRAIN,
    "engine": _BELOW_ENGINE,
    "service": _BELOW_SERVICE,
    "eval": {"workspace", *_BELOW_EVAL},
    "bench": {"eval", *_BELOW_EVAL},
    "lab": _BELOW_EVAL | {"eval"},
    "cli": {"bench", "lab", "eval", "service", "workspace", *_BELOW_EVAL, *_BELOW_SERVICE},
    "lsp_server": {"client", "workspace", "syntax", "weights", "system"},
}
LIGHT_ROOMS = ("system", "syntax", "weights", "client", "workspace", LIGHT)
LOOSE = {"__init__", "__main__", "types", "config", "errors"}
HEAVY = ("torch", "transformers", "numpy", "tokenizers", "safetensors", "gguf", "matplotlib")
PACKAGES = ("blockdiff", "lsp_server")


@cache
def modules() -> dict[str, Path]:
    """Every module of both packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    first, *rest = module.split(".")
    if first == "lsp_server":
        return first
    inner = rest[0] if rest else ""
    path = modules().get(f"blockdiff.{inner}")
    if path is not None and path.name == "__init__.py":
        return inner
    return "cli" if inner == "__main__" else LIGHT


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of ours that one imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module)
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else base for name in names}
    return frozenset(name for name in found if name in modules() and name != module)


def absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return str(node.module)
    package = module.split(".")
    if modules()[module].name != "__init__.py":
        package = package[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def test_only_five_files_lie_loose() -> None:
    assert {path.stem for path in (ROOT / "blockdiff").glob("*.py")} == LOOSE


def test_every_room_is_on_the_road() -> None:
    assert {room_of(module) for module in modules()} == set(MAY)


@pytest.mark.parametrize("room", MAY)
def test_imports_only_go_down_the_road(room: str) -> None:
    allowed = MAY[room] | {room, LIGHT}
    climbs = [
        f"{module} imports {other}"
        for module in modules()
        if room_of(module) == room
        for other in sorted(imports_of(module))
        if room_of(other) not in allowed
    ]
    assert not climbs


def circles() -> list[list[str]]:
    """Strongly connected files, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imports_of(module):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            place = stack.index(module)
            found.append(sorted(stack[place:]))
            del stack[place:]

    for module in modules():
        if module not in index:
            visit(module)
    return [group for group in found if len(group) > 1]


def test_no_import_goes_round_in_a_circle() -> None:
    assert not circles()


# Of libraries, which have no other way to it.
FOREIGN = {
    "torch._int_mm", "torch._weight_int8pack_mm", "os._exit", "hashlib._Hash",
    "self._workspace", "self._include_headers", "self._serialize_message", "self._converter",
    "self._result_types", "self._request_futures", "server.protocol._converter",
}  # fmt: skip


def test_no_file_reaches_for_what_is_private_to_another() -> None:
    """Neither `from module import _name` nor `thing._name` where the file does not make it."""
    reached = []
    for module in modules():
        tree = tree_of(module)
        own = names_made_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                ours = absolute(node, module).split(".")[0] in PACKAGES
                reached += [f"{module}: {a.name}" for a in node.names if ours and private(a.name)]
            elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
                if ast.unparse(node) not in FOREIGN:
                    reached.append(f"{module}:{node.lineno} {ast.unparse(node)}")
    assert not reached


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_made_in(tree: ast.Module) -> set[str]:
    """Private names that a file itself defines: functions, classes, fields, attributes it sets."""
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            made.add(node.attr)
    return made


def types_made_in(tree: ast.Module) -> set[str]:
    """Public classes, protocols and names of types that a file defines, `SOME_CONSTANT` is none."""
    made = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in made if name[0].isupper() and not name.isupper()}


def test_no_name_of_a_type_is_defined_twice() -> None:
    """One word, one meaning: who reads a name need not ask which module it is of."""
    homes: dict[str, list[str]] = {}
    for module in modules():
        for name in types_made_in(tree_of(module)):
            homes.setdefault(name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


# Which libraries are installed with what


def module_of(requirement: str) -> str:
    return re.split(r"[>\[;]", requirement)[0].replace("-", "_").removesuffix("_py")


def declared() -> dict[str, set[str]]:
    """Modules by the extra that installs them; "" is what every installation has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {module_of(wanted) for wanted in wanted_ones}
        for extra, wanted_ones in groups.items()
    }


def libraries_of(module: str, *, at_once: bool) -> set[str]:
    """What a module imports that is neither ours nor Python's; `at_once`: with itself."""
    later = {
        inner
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree_of(module)):
        if at_once and node in later:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(absolute(node, module).split(".")[0])
    return found - set(PACKAGES) - sys.stdlib_module_names - {"tomllib"}


def test_what_runs_without_the_engine_needs_none_of_its_libraries() -> None:
    """An installation without extras: for an engine on another machine."""
    light = [m for m in modules() if room_of(m) in LIGHT_ROOMS or room_of(m) == "lsp_server"]
    light += ["blockdiff.cli.app", "blockdiff.cli.infill", "blockdiff.cli.join"]
    for module in light:
        assert libraries_of(module, at_once=True) <= declared()[""], module


def test_every_library_is_declared_and_every_declared_one_is_used() -> None:
    used = set().union(*(libraries_of(module, at_once=False) for module in modules()))
    used |= {module for module, _ in grammars._GRAMMARS.values()}  # by their names
    groups = declared()
    assert used <= set().union(*groups.values())
    serving = groups[""] | groups["grammars"] | groups["engine"]
    assert serving - used == {"blockdiff"}


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


STARTED = [m for m in modules() if room_of(m) in LIGHT_ROOMS and not m.endswith("__main__")]


@pytest.mark.parametrize(
    "module", [*STARTED, *(f"blockdiff.cli.{name}" for name in ("app", "infill", "models", "join"))]
)
def test_light_modules_start_without_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & set(HEAVY)


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
    code = f"from blockdiff.cli.app import run\nassert run({line.split()!r}) == 0"
    assert not loaded_by(code) & set(HEAVY)


@pytest.mark.skipif(os.name == "nt", reason="no resource usage of children")
def test_help_is_there_at_once() -> None:
    import resource

    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    subprocess.run(
        [sys.executable, "-m", "blockdiff", "--help"], cwd=ROOT, capture_output=True, check=True
    )
    # Of the processor, not of the clock: tests run on busy machines.
    assert seconds() - before < 0.5
