"""Conversations in the marks of every family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from hub_folder import write
from toy_tokenizers import ToyTokenizer

from blockdiff.config import ChatStyle, Layout
from blockdiff.errors import ModelUnsupported
from blockdiff.infill.layout import build_prompt
from blockdiff.infill.turns import conversation, style_of
from blockdiff.model.load.hub_config import kind_of
from blockdiff.model.load.hub_tokenizer import load_tokenizer
from blockdiff.types import Hole, InfillRequest

QWEN = ["<|im_start|>", "<|im_end|>"]
LLADA = ["<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LING = ["<role>", "</role>", "<|role_end|>"]
SEED = ["<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"]

# As the chat templates that are published with LLaDA-8B-Instruct, LLaDA2.0-mini and Seed-Coder.
PUBLISHED = {
    "llada": (
        LLADA,
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA",
    ),
    "llada2": (
        LING,
        "<role>SYSTEM</role>S<|role_end|><role>HUMAN</role>U<|role_end|><role>ASSISTANT</role>A",
    ),
    "llada2, whose roles are text": (
        LING[2:],
        "<role>SYSTEM</role>S<|role_end|><role>HUMAN</role>U<|role_end|><role>ASSISTANT</role>A",
    ),
    "seed": (
        SEED,
        "<[begin▁of▁sentence]>system\nS\n\n<[end▁of▁sentence]><[begin▁of▁sentence]>user\nU"
        "<[end▁of▁sentence]><[begin▁of▁sentence]>assistant\nA",
    ),
    "qwen": (
        QWEN,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA",
    ),
}


def folder_with(tmp_path: Path, marks: list[str]) -> Path:
    """A checkpoint whose tokenizer has these marks in place of Qwen's."""
    folder = write(tmp_path / "it", "dream")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    for token in content["added_tokens"]:
        if not token["content"].startswith(("<|im_", "<|fim", "<|re")):
            continue
        token["content"] = marks.pop(0) if marks else f"<unused {token['id']}>"
    path.write_text(json.dumps(content), "utf-8")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_turns_are_those_of_the_published_template(name: str, tmp_path: Path) -> None:
    marks, expected = PUBLISHED[name]
    folder = folder_with(tmp_path, list(marks))
    made = load_tokenizer(folder, kind_of(folder), 290)
    ids = conversation("S", "U", "A", style_of(made.special), made)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert backend.decode(ids, skip_special_tokens=False) == expected
    assert [i for i in ids if made.is_special(i)] == [
        i for i in backend.encode(expected, add_special_tokens=False).ids if made.is_special(i)
    ]
    ends = {"<|im_end|>", "<|eot_id|>", "<|role_end|>", "<[end▁of▁sentence]>"} & set(marks)
    assert {backend.token_to_id(end) for end in ends} <= set(made.special.stop)


def test_the_chat_layout_uses_them() -> None:
    toy = ToyTokenizer()
    start, end = toy.special.fim_prefix, toy.special.fim_suffix
    toy.special = replace(
        toy.special, im_start=-1, im_end=-1, chat=ChatStyle((), (start, "{role}: "), (end,))
    )
    document = "a = 1\nb = \n"
    wanted = InfillRequest(document, Hole(10, 10), "a.py", "python")
    shown = toy.show(build_prompt(wanted, toy, Layout.CHAT).tokens)
    assert shown.startswith("<|fim_prefix|>system: You are") and shown.count("<|fim_suffix|>") == 2
    assert shown.endswith("<|fim_prefix|>assistant: ```python\nb = ")


def test_without_any_marks_there_is_no_conversation(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, [])
    made = load_tokenizer(folder, kind_of(folder), 290)
    with pytest.raises(ModelUnsupported, match="no chat tokens"):
        style_of(made.special)
