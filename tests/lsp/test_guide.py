"""What docs/lsp.md shows is what is sent: its examples keep to the contract."""

from __future__ import annotations

import json
import re

import pytest

from lsp_server import messages
from lsp_server.actions import Action, ActionParams
from lsp_server.messages import InfillParams, RewriteParams
from tests.lsp.editor import ROOT, schema

GUIDE = (ROOT / "docs" / "lsp.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", GUIDE, re.S)]


@pytest.mark.parametrize(
    ("key", "contract"),
    [
        ("holes", "infill-params"),
        ("edits", "outcome"),
        ("instruction", "rewrite-params"),
        ("settled", "refinement"),
        ("state", "status"),
    ],
)
def test_every_message_of_ours_has_an_example_that_keeps_to_its_contract(
    key: str, contract: str
) -> None:
    found = [example for example in EXAMPLES if key in example]
    assert found
    for example in found:
        schema(contract).validate(example)


def test_the_server_reads_the_examples() -> None:
    kinds = {"holes": InfillParams, "instruction": RewriteParams}
    for key, kind in kinds.items():
        for example in (e for e in EXAMPLES if key in e):
            messages.read(kind, example)
    (command,) = [example for example in EXAMPLES if "command" in example]
    assert messages.read(ActionParams, command["arguments"][0]).action is Action.REWRITE


def test_every_action_is_described() -> None:
    assert all(f"`{action.kind}`" in GUIDE for action in Action)


def test_the_contract_refuses_what_the_server_refuses() -> None:
    """The schemas are no looser than the code, where a schema can say it."""
    good = next(example for example in EXAMPLES if "holes" in example)
    for change in (
        {"holes": []}, {"holes": good["holes"] * 9}, {"mode": "fast"}, {"maxTokens": "8"},
        {"unknown": 1}, {"textDocument": {}}, {"seed": 1.5}, {"requestId": 7},
    ):  # fmt: skip
        bad = {**good, **change}
        assert not schema("infill-params").is_valid(bad), change
        with pytest.raises(Exception, match=r".") as failure:
            messages.read(InfillParams, bad)
        assert failure.value.code == "invalid_request"  # type: ignore[attr-defined]
