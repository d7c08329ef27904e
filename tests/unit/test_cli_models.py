"""`blockdiff models` as a person meets it: output, messages, exit statuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_world import DATA, FILE, NAME, SHA256, Hub, World

from blockdiff.errors import ExitCode


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    hub = Hub()
    made = World(tmp_path, hub)
    for key, value in made.env.items():
        monkeypatch.setenv(key, value)
    with hub.running():
        yield made


def test_pull_list_info_remove(world: World, tmp_path: Path) -> None:
    world.use_hub()
    status, out, _ = world.run("list")
    assert status == 0
    assert out.split() == (
        "NAME STATE SIZE LICENCE CAN tiny-model absent 200 kB MIT infill, rewrite".split()
    )

    status, out, err = world.run("pull", NAME)
    assert (status, out) == (0, f"{NAME} is ready in {world.folder}\n"), err
    assert "hub" in err and "MB" in err
    assert world.base.read_bytes() == DATA
    assert "present" in world.run("list")[1]

    status, out, _ = world.run("info", NAME)
    assert status == 0
    for fact in (str(world.base), SHA256, "MIT", "64 tokens", "5 MB in float32", "someone/tiny"):
        assert fact in out
    assert "none: copies from the text draft" in out

    status, _, err = world.run("remove", NAME)  # nobody there to say yes
    assert status == ExitCode.USAGE and "--yes" in err and world.base.exists()
    status, out, _ = world.run("remove", NAME, "--yes")
    assert (status, out) == (0, f"removed {NAME}, 200 kB freed\n")
    assert not world.folder.exists()


def test_pull_from_a_file(world: World, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(DATA)
    status, _, err = world.run("pull", NAME, "--from", str(tmp_path))
    assert status == 0, err
    assert world.base.read_bytes() == DATA


def test_a_partial_download_shows_its_share(world: World) -> None:
    world.folder.mkdir(parents=True)
    world.partial.write_bytes(DATA[: len(DATA) // 2])
    assert "partial (50%)" in world.run("list")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "says", "hint"),
    [
        (["pull", "nope"], ExitCode.MODEL, "no model is called nope", "models list"),
        (["info", "tiny-modle"], ExitCode.MODEL, "tiny-modle", "did you mean tiny-model?"),
        (["remove", NAME, "--yes"], ExitCode.MODEL, "the cache holds nothing of", ""),
        (["pull", NAME, "--from", "/no/where"], ExitCode.INPUT_FILE, "/no/where", "--from"),
        (["pull", NAME], ExitCode.NETWORK, "no source of tiny-model answered", "--from PATH"),
    ],
)
def test_failures(
    world: World, arguments: list[str], status: ExitCode, says: str, hint: str
) -> None:
    got, out, err = world.run(*arguments)
    assert got == status
    assert out == ""
    assert says in next(line for line in err.splitlines() if line.startswith("error: "))
    assert hint in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_full_disk_has_its_own_status(world: World) -> None:
    world.write_catalog(prepared_size=10**18)
    status, _, err = world.run("pull", NAME)
    assert status == ExitCode.RESOURCE and "free some space" in err


def test_a_wrong_file_has_its_own_status(world: World, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"x" * len(DATA))
    status, _, err = world.run("pull", NAME, "--from", str(tmp_path / FILE))
    assert status == ExitCode.MODEL and SHA256 in err
