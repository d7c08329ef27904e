"""The benchmarks measure what they say, here over a tiny checkpoint; no time is asserted."""

from __future__ import annotations

import pytest

from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine.engine import Engine
from blockdiff.eval import peers, profile
from tests.unit.tiny_checkpoint import checkpoint


def test_a_profile_accounts_for_all_of_a_request() -> None:
    engine = Engine(checkpoint())
    wanted = profile.requests(2, 64, DecodingConfig(max_tokens=6), seed=1)
    report = profile.profile(engine, wanted)
    assert set(report["parts"]) == set(profile.PARTS)
    assert all(row["ms"] > 0 for row in report["parts"].values())
    assert sum(row["share"] for row in report["parts"].values()) == pytest.approx(1, abs=1e-3)
    outside = sum(report["parts"][part]["share"] for part in ("layout", "drafts", "end"))
    assert report["outside"] == pytest.approx(outside, abs=1e-3)


@pytest.mark.parametrize("mode", [Mode.AR, Mode.VERIFY])
def test_clients_who_write_at_once_write_what_each_writes_alone(mode: Mode) -> None:
    engine = Engine(checkpoint())
    found = peers.places(engine, 3, 64, seed=0)
    report = peers.clients(engine, found, mode, 3, 6)
    assert report["clients"] == report["same"] == 3
    assert report["throughput"]["low"] > 0


def test_places_are_code_that_differs() -> None:
    engine = Engine(checkpoint())
    found = peers.places(engine, 4, 64, seed=0)
    assert len({place.prompt for place in found}) == 4
    assert all(len(place.prompt) == 64 and place.typed for place in found)
