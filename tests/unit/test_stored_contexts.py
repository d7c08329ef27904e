"""An engine that starts goes on where the one before it ended, with the same bits or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blockdiff.cli.app import run as command
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.engine import Engine
from blockdiff.engine.stored_contexts import BLOCK
from blockdiff.infill.layout import Prompt, build_prompt
from blockdiff.service import worker
from blockdiff.system import blobs
from blockdiff.types import Finished, Hole, InfillRequest
from blockdiff.weights import folders
from tests.unit import tiny
from tests.unit.scripted_service import collect, run, served, until
from tests.unit.tiny_checkpoint import checkpoint

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes")
LINE = "print(area(3, 4))\n"
MUCH = 1 << 30


def request(document: str = LINE * 9) -> InfillRequest:
    decoding = DecodingConfig(max_tokens=4)
    return InfillRequest(document, Hole(len(LINE) * 6, len(LINE) * 6), "a.py", decoding=decoding)


def prompt(wanted: InfillRequest) -> Prompt:
    point = checkpoint()
    return build_prompt(wanted, point.tokenizer, point.drafting.layout)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "contexts"


def started(root: Path, point: Checkpoint | None = None, budget: int = MUCH) -> Engine:
    engine = Engine(point or checkpoint())
    engine.store_in(root, budget)
    return engine


def ask(engine: Engine, wanted: InfillRequest) -> Finished:
    *_, end = engine.infill(wanted)
    assert isinstance(end, Finished)
    return end


def stop(engine: Engine) -> None:
    for _ in engine.storing():
        pass


def written(root: Path, *wanted: InfillRequest) -> Finished:
    """What an engine writes that stops then; the last of several."""
    engine = started(root)
    ends = [ask(engine, one) for one in wanted or [request()]]
    stop(engine)
    return ends[-1]


def files(root: Path) -> list[Path]:
    """The latest used last."""
    return sorted(root.glob("*/*"), key=lambda path: path.stat().st_mtime_ns)


def whole_blocks(wanted: InfillRequest) -> int:
    """Of the tokens that a request leaves in its cache: all but the last."""
    return (len(prompt(wanted).tokens) - 1) // BLOCK


def test_the_next_engine_writes_the_same_and_encodes_only_what_is_left(root: Path) -> None:
    before = written(root)
    after = ask(started(root), request())
    assert after.cached_tokens == whole_blocks(request()) * BLOCK > 0 == before.cached_tokens
    assert (after.text, after.tokens) == (before.text, before.tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_come_back_bit_for_bit(root: Path, dtype: torch.dtype) -> None:
    point = checkpoint()
    model = tiny.transformer(point.transformer.config).to(dtype)
    first = started(root, replace(point, model=model, adapter=None))
    tokens = prompt(request()).tokens
    ar = DecodingConfig(mode=Mode.AR, max_tokens=2)
    with first.behind(tokens, ar) as sampler:
        sampler.prefill(tokens)
        encoded = sampler.cache.fork()
    stop(first)
    second = started(root, replace(point, model=model, adapter=None))
    with second.behind(tokens, ar) as sampler:
        restored = sampler.cache.length
        assert restored == (len(tokens) - 1) // BLOCK * BLOCK
        same = encoded.fork(length=restored).committed_all()
        assert torch.equal(sampler.cache.committed_all(), same)


def test_of_a_text_that_changed_what_stands_before_the_change_is_used(root: Path) -> None:
    was = request()
    written(root, was)
    changed = request(was.document[: 4 * len(LINE)] + "x = 1\n" + was.document[4 * len(LINE) :])
    end = ask(started(root), changed)
    pairs = list(zip(prompt(was).tokens, prompt(changed).tokens, strict=False))
    alike = next(i for i, (a, b) in enumerate(pairs) if a != b)
    assert end.cached_tokens == alike // BLOCK * BLOCK > 0
    assert end.text == ask(Engine(checkpoint()), changed).text


def test_what_memory_knows_better_is_not_read(root: Path) -> None:
    written(root)
    engine = started(root)
    first, again = ask(engine, request()), ask(engine, request())
    assert again.cached_tokens > first.cached_tokens
    longer = request(LINE * 12)  # begins alike; on disk there is no more than in memory
    assert ask(engine, longer).text == ask(Engine(checkpoint()), longer).text


def test_another_model_or_another_arithmetic_finds_nothing(root: Path) -> None:
    written(root)
    point = checkpoint()
    shape = point.transformer.config
    others = {
        "weights": replace(point, model=tiny.transformer(shape, seed=1)),
        "numbers": replace(point, model=tiny.transformer(shape).to(torch.bfloat16), adapter=None),
        "what is said of the weights": replace(point, weights="others"),
    }
    for name, other in others.items():
        wanted = replace(request(), decoding=DecodingConfig(mode=Mode.AR, max_tokens=2))
        assert ask(started(root, other), wanted).cached_tokens == 0, name


# --- files that cannot be used -------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    """With the file of another block, whole in itself."""
    shutil.copyfile(files(path.parent.parent)[0], path)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def give_away(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give files away")
    os.chown(path, 65534, 65534)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "damaged": (flip, "is damaged and was removed"),
    "cut short": (lambda path: os.truncate(path, 99), "is damaged and was removed"),
    "too long": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "is damaged"),
    "empty": (lambda path: os.truncate(path, 0), "is damaged"),
    "of other tokens": (swap, "is damaged"),
    "a link": (link, "is a link"),
    "open": (lambda path: path.chmod(0o644), "other users can read it"),
    "of another user": (give_away, "belongs to another user"),
    "a folder": (replace_by_folder, "is no regular file"),
    "in an open folder": (lambda path: path.parent.chmod(0o755), "other users can enter it"),
}


@posix
@pytest.mark.parametrize("bad", list(BAD))
def test_a_file_that_cannot_be_used_is_said_and_the_text_is_the_same(
    root: Path, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = written(root)
    breaks, word = BAD[bad]
    second = files(root)[-2]  # of the context: the first block is dated last
    breaks(second)
    with caplog.at_level(logging.WARNING):
        engine = started(root)
        end = ask(engine, request())
    assert end.text == before.text
    assert end.cached_tokens == (0 if bad == "in an open folder" else BLOCK)
    assert [word in record.message for record in caplog.records] == [True]
    assert LINE[:5] not in caplog.text
    if "folder" not in bad:  # what could not be used is gone, and comes anew
        stop(engine)
        assert ask(started(root), request()).cached_tokens == whole_blocks(request()) * BLOCK


@posix
def test_nobody_else_may_look_whatever_the_umask(root: Path) -> None:
    before = os.umask(0)
    try:
        written(root)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in root.glob("*/*")}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (root, *root.glob("*"))}
    assert (modes, folders) == ({0o600}, {0o700})


# --- how much is kept ----------------------------------------------------------------------------


def test_the_budget_holds_and_the_least_recently_used_go_first(root: Path) -> None:
    first, second = request(), request("x = " + LINE * 9)
    written(root, first)
    size = files(root)[0].stat().st_size
    blocks = whole_blocks(first)
    small = started(root, budget=size * (blocks + 1))
    ask(small, second)
    stop(small)
    assert sum(path.stat().st_size for path in files(root)) <= size * (blocks + 1)
    assert ask(started(root), second).cached_tokens == whole_blocks(second) * BLOCK
    assert ask(started(root), first).cached_tokens == BLOCK * (blocks + 1 - whole_blocks(second))
    none = started(root, budget=size // 2)
    ask(none, first)
    stop(none)
    assert files(root) == []


def test_of_states_of_one_text_only_the_latest_is_stored(root: Path) -> None:
    states = [request(LINE * 9 + f"x = {number}\n" * 4) for number in range(3)]
    written(root, *states)
    assert len(files(root)) == whole_blocks(states[-1])


def test_a_full_disk_is_said_and_nothing_is_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blobs, "_LEAST_FREE", 1 << 62)
    engine = started(root)
    end = ask(engine, request())
    stop(engine)
    stop(engine)
    assert len(caplog.records) == 1 and "of the disk" in caplog.text
    assert files(root) == [] and ask(engine, request()).text == end.text


@posix
def test_a_root_that_is_not_ours_alone_is_left_as_it_is(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    written(root)
    assert "other users can enter it" in caplog.text
    assert list(root.iterdir()) == []


# --- the service ---------------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    yield Runtime(tmp_path / "run")


def served_answer(runtime: Runtime, root: Path, after: Callable[[], bool]) -> Finished:
    async def story() -> Finished:
        async with EngineClient(runtime=runtime) as client:
            end = (await collect(client, request()))[-1]
            await until(after)
            again = (await collect(client, request()))[-1]
        assert isinstance(end, Finished) and isinstance(again, Finished) and again.text == end.text
        return end

    with served(runtime, lambda report: started(root)):
        found: Finished = run(story())
        return found


def test_a_service_stores_when_it_ends_and_the_next_one_is_warm(
    runtime: Runtime, root: Path
) -> None:
    cold = served_answer(runtime, root, lambda: files(root) == [])
    warm = served_answer(runtime, root, lambda: True)
    assert warm.cached_tokens == whole_blocks(request()) * BLOCK > cold.cached_tokens
    assert warm.text == cold.text


def test_a_service_at_rest_stores_and_goes_on(
    runtime: Runtime, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_REST_SECONDS", 0.01)
    served_answer(runtime, root, lambda: len(files(root)) == whole_blocks(request()))


def test_the_command_shows_and_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path))
    assert command(["contexts"]) == 0 and capsys.readouterr().out.startswith("0 B in ")
    written(folders.contexts_folder())
    size = blobs.size_below(folders.contexts_folder())
    assert command(["contexts"]) == 0 and f"{size / 1000:.0f} kB in" in capsys.readouterr().out
    assert command(["contexts", "--forget"]) == 0
    assert f"{size / 1000:.0f} kB freed" in capsys.readouterr().out
    assert not folders.contexts_folder().exists()
