"""Who may use a team's engine, and what it is told: the file of users, the options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockdiff.errors import InvalidRequest, RateLimited
from blockdiff.service.cluster.options import ClusterOptions
from blockdiff.service.cluster.users import Quotas, UsersFile


@pytest.fixture
def users(tmp_path: Path) -> UsersFile:
    return UsersFile(tmp_path / "users.json")


def test_a_token_is_its_users_alone_and_is_not_in_the_file(
    users: UsersFile, tmp_path: Path
) -> None:
    ada, bob = users.add("ada", "", 8), users.add("bob", "", 1)
    assert users.identify(ada.encode()) == "ada" and users.identify(bob.encode()) == "bob"
    for wrong in (b"", b"x", ada[:-1].encode(), b"\xff"):
        assert users.identify(wrong) is None
    file = tmp_path / "users.json"
    assert ada not in file.read_text() and file.stat().st_mode & 0o077 == 0
    assert users.identify(users.add("ada", "", 8).encode()) == "ada"
    assert users.identify(ada.encode()) is None  # she has another now


def test_whoever_serves_sees_what_changes(users: UsersFile, tmp_path: Path) -> None:
    serving = UsersFile(tmp_path / "users.json")
    assert serving.identify(b"early") is None  # no file yet
    ada, bob = users.add("ada", "", 8).encode(), users.add("bob", "", 8).encode()
    assert serving.identify(ada) == "ada"
    (tmp_path / "users.json").write_text('{"ada": ')
    assert serving.identify(ada) == "ada"  # half a file changes nothing
    (tmp_path / "users.json").unlink()
    assert serving.identify(ada) is None and serving.identify(bob) is None


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "must be an object"),
        ({"ada": {}}, "ada.token_sha256 is missing"),
        ({"ada": {"token_sha256": "x"}}, "64 hexadecimal digits"),
        ({"ada": {"token_sha256": DIGEST, "at_once": 0}}, "at_once must be 1 or more"),
        ({"ada": {"token_sha256": DIGEST, "quotas": ""}}, "quotas"),
        ({"a/b": {"token_sha256": DIGEST}}, "is no name of a user"),
        ({"a": {"token_sha256": DIGEST}, "b": {"token_sha256": DIGEST}}, "two users have one"),
    ],
)
def test_a_file_that_means_nothing_is_refused(
    users: UsersFile, tmp_path: Path, table: Any, message: str
) -> None:
    (tmp_path / "users.json").write_text(json.dumps(table))
    with pytest.raises(InvalidRequest, match=message):
        users.read()


def test_quotas_are_counted_and_given_back(users: UsersFile) -> None:
    pytest.importorskip("limits", reason="limits is not installed; `make cluster-check` does")
    with pytest.raises(InvalidRequest, match="is no quota"):
        users.add("eve", "often", 1)
    token = users.add("ada", "3/day", 2).encode()
    assert users.identify(token) == "ada"
    quotas = Quotas(users)
    first, second = quotas.enter("ada"), quotas.enter("ada")
    with pytest.raises(RateLimited, match="2 requests of ada are running"):
        quotas.enter("ada")
    first()
    first()  # who says so twice gives back one
    quotas.enter("ada")
    with pytest.raises(RateLimited, match="2 requests of ada are running"):
        quotas.enter("ada")
    second()
    with pytest.raises(RateLimited, match="the quota of ada"):
        quotas.enter("ada")
    users.remove("ada")
    assert users.identify(token) is None
    with pytest.raises(RateLimited, match="may not ask any more"):
        quotas.enter("ada")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "users=FILE is missing"),
        ({"users": "nowhere.json"}, "no file"),
        ({"replica": "2"}, "no option 'replica'"),
        ({"min_replicas": "two"}, "min_replicas"),
        ({"min_replicas": "0"}, "min_replicas must be 1 or more, got 0"),
        ({"min_replicas": "3", "max_replicas": "2"}, "max_replicas must be 3 or more, got 2"),
        ({"max_replicas": "-1"}, "max_replicas must be 1 or more, got -1"),
        ({"target_ongoing_requests": "0"}, "target_ongoing_requests must be 1 or more"),
        ({"upscale_delay_s": "-1"}, "upscale_delay_s must be 0 or more"),
        ({"downscale_delay_s": "nan"}, "downscale_delay_s must be 0 or more"),
        ({"gpus": "-1"}, "gpus must be 0 or more"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, args: dict[str, str], message: str
) -> None:
    file = tmp_path / "users.json"
    file.write_text("{}")
    named = {} if not args else {"users": str(file)}
    with pytest.raises(InvalidRequest, match=message):
        ClusterOptions.of(named | args)


def test_options_may_all_be_strings(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    file.write_text("{}")
    told = {"users": str(file), "gpus": "0.5", "min_replicas": "2", "download": "false"}
    options = ClusterOptions.of(told)
    assert (options.gpus, options.min_replicas, options.download) == (0.5, 2, False)
    assert options.max_replicas == 0 and Path(options.users) == file
