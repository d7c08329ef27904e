"""Published checkpoints from a hub: what is fetched, resumed, refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import COMMIT, DRAFTER, NAME, REPO, Repository, write_catalog

from blockdiff.cli.app import run
from blockdiff.errors import (
    DownloadFailed,
    ExitCode,
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
)
from blockdiff.types import no_op
from blockdiff.weights import download, folders, store, transfer
from blockdiff.weights.store import Status

WEIGHTS = random.Random(3).randbytes(300_000)
FILES = {
    "config.json": b'{"model_type": "Dream"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "modeling_dream.py": b"raise RuntimeError('never fetched')",
    "pytorch_model.bin": b"a pickle",
    "assets/picture.safetensors": b"in a folder of its own",
    "README.md": b"words",
}
WANTED = {"config.json", "tokenizer.json", "model.safetensors"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    made = Repository(dict(FILES))
    write_catalog(tmp_path / "models")
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BLOCKDIFF_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    with made.running():
        yield made


def test_weights_tokenizer_and_config_come_code_and_pickles_do_not(hub: Repository) -> None:
    with pytest.raises(ModelNotFound, match="not downloaded"):
        store.resolve(NAME)
    seen: list[tuple[int, int]] = []
    files = download.pull(NAME, progress=lambda phase, done, total: seen.append((done, total)))
    assert {p.name for p in files.base.iterdir()} == WANTED | {"verified.json"}
    assert all((files.base / name).read_bytes() == FILES[name] for name in WANTED)
    asked = {path.split("/")[-1] for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked == WANTED
    total = sum(len(FILES[name]) for name in WANTED)
    assert seen == sorted(seen) and seen[-1] == (total, total)
    assert store.state(NAME).status is Status.PRESENT
    assert store.resolve(NAME).base == files.base


def test_what_is_there_is_not_fetched_again(hub: Repository) -> None:
    download.pull(NAME)
    hub.requests.clear()
    download.pull(NAME)
    assert not hub.requests


def test_a_broken_download_goes_on_where_it_stopped(hub: Repository) -> None:
    hub.break_at = [10**6, 10**6, 100_000, *[0] * 20]  # the two small files, then the weights
    with pytest.raises(DownloadFailed, match="model.safetensors"):
        download.pull(NAME)
    assert store.state(NAME).status is Status.PARTIAL
    with pytest.raises(ModelNotFound, match="half downloaded"):
        store.resolve(NAME)
    hub.break_at = []
    hub.requests.clear()
    files = download.pull(NAME)
    assert (files.base / "model.safetensors").read_bytes() == WEIGHTS
    gets = [(path, asked) for method, path, asked in hub.requests
            if method == "GET" and "/resolve/" in path]  # fmt: skip
    assert len(gets) == 1 and (gets[0][1] or "").startswith("bytes=100000-")


def test_a_file_that_is_not_the_announced_one_is_refused(hub: Repository) -> None:
    hub.announced["model.safetensors"] = "0" * 64
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors"):
        download.pull(NAME)
    folder = folders.folder_of(NAME)
    assert not (folder / "model.safetensors").exists()
    assert store.state(NAME).status is Status.PARTIAL


def test_a_file_that_is_gone_or_cut_is_noticed_and_fetched_again(hub: Repository) -> None:
    folder = download.pull(NAME).base
    (folder / "model.safetensors").write_bytes(WEIGHTS[:1000])
    assert store.state(NAME).status is Status.PARTIAL
    assert (download.pull(NAME).base / "model.safetensors").read_bytes() == WEIGHTS


def test_pickled_weights_alone_are_refused(hub: Repository) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(ModelUnsupported, match="pickled"):
        download.pull(NAME)
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


def test_another_revision_than_the_pinned_one_is_not_what_is_there(
    hub: Repository, tmp_path: Path
) -> None:
    write_catalog(tmp_path / "models", revision="")
    download.pull(NAME)
    assert store.state(NAME).status is Status.PRESENT
    write_catalog(tmp_path / "models", revision="d" * 40)
    assert store.state(NAME).status is Status.PARTIAL
    write_catalog(tmp_path / "models", revision=COMMIT)
    assert store.state(NAME).status is Status.PRESENT


def test_a_folder_at_hand_is_used_where_it_is(hub: Repository, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        download.pull(NAME, source=tmp_path)
    assert f"--model {tmp_path}" in caught.value.hint
    with pytest.raises(InvalidRequest) as caught:
        download.pull(DRAFTER, source=Path("relative"))
    assert f"--drafter {Path('relative').absolute()}" in caught.value.hint


def test_with_a_drafter_comes_its_target(
    hub: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "pull", DRAFTER, "--no-target"]) == ExitCode.OK
    assert "not for the tests of others" in capsys.readouterr().err
    assert [store.state(name).status for name in (DRAFTER, NAME)] == [
        Status.PRESENT, Status.ABSENT
    ]  # fmt: skip
    assert run(["models", "pull", DRAFTER]) == ExitCode.OK
    assert store.state(NAME).status is Status.PRESENT
    assert (store.resolve_drafter(DRAFTER) / "model.safetensors").read_bytes() == WEIGHTS


def test_no_hub_is_one_line_and_a_status(
    hub: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run(["models", "pull", NAME]) == ExitCode.NETWORK
    said = capsys.readouterr().err
    assert REPO in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "foo://x"), ("NO_PROXY", "x,fe11::/16"), ("SSLKEYLOGFILE", "/no/such/folder/x")],
)
def test_what_the_environment_says_of_the_way_may_be_wrong(
    hub: Repository,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with transfer.Partial(tmp_path / "part", no_op) as partial:
        with pytest.raises(transfer.SourceFailed, match="environment"):
            transfer.fill(f"{hub.url}/x", 9, partial, no_op)


def test_terms_are_shown_before_the_download_and_in_the_list(
    hub: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_catalog(tmp_path / "models", terms="not for commercial use")
    assert run(["models", "pull", NAME]) == ExitCode.OK
    said = capsys.readouterr()
    assert "warning: MIT: not for commercial use" in said.err
    assert run(["models", "list"]) == ExitCode.OK
    assert "MIT (!)" in capsys.readouterr().out
    assert run(["models", "info", NAME]) == ExitCode.OK
    out = capsys.readouterr().out
    for fact in ("not for commercial use", REPO, COMMIT, "in int4", "in int8", "in bfloat16"):
        assert fact in out
    assert run(["models", "remove", NAME, "--yes"]) == ExitCode.OK
    assert store.state(NAME).status is Status.ABSENT
