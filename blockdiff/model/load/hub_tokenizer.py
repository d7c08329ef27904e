"""The tokenizer of a published checkpoint, and which of its ids mean what.

A folder has a tokenizer.json, or the files of the older kind, vocab.json and merges.txt (Dream).
What the ids mean is the business of `kinds`; names that other families use for them do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from blockdiff.config import ChatStyle, SpecialTokens
from blockdiff.errors import ModelCorrupt, ModelNotFound
from blockdiff.model.load.hub_config import special_tokens
from blockdiff.model.load.kinds import DiffusionKind, Family
from blockdiff.model.load.tokenizer import Tokenizer

_CHAT_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|role_end|>", "<[end▁of▁sentence]>", "<|endoftext|>",
    "<turn|>",
)  # fmt: skip


def load_tokenizer(folder: Path, kind: DiffusionKind, vocab_size: int) -> Tokenizer:
    """Reads the tokenizer of a folder; ids the file does not list become unused ones.

    Raises:
        ModelNotFound: there is none.
        ModelCorrupt: it does not parse, lists more ids than the model has rows, or lacks the mask.
        ModelUnsupported: it is not byte-level BPE.
    """
    full = folder / "tokenizer.json"
    names = special_tokens(folder) or {}
    if full.is_file():
        made = Tokenizer.from_file(full, vocab_size)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        made = _from_parts(folder, names, vocab_size)
    else:
        raise ModelNotFound(f"{folder} holds no tokenizer.json", "give a complete folder")
    if made.vocab_size > vocab_size:
        raise ModelCorrupt(
            f"{folder}: the tokenizer has {made.vocab_size} ids, the model {vocab_size} rows"
        )
    if kind.mask_token_id is not None and not made.is_special(kind.mask_token_id):
        raise ModelCorrupt(f"{folder}: the tokenizer has no mask token {kind.mask_token_id}")
    special = made.special
    ends = [names[name] for name in _CHAT_ENDS if name in names]
    if kind.fim is not None:
        special = replace(
            special,
            fim_prefix=kind.fim.prefix,
            fim_suffix=kind.fim.suffix,
            fim_middle=kind.fim.middle,
        )
    made.special = replace(
        special,
        mask=-1 if kind.mask_token_id is None else kind.mask_token_id,
        stop=tuple(dict.fromkeys((*kind.stop, *special.stop, *ends))),
        chat=_chat_style(names),
    )
    _refuse_outside(_ids(made.special, kind, folder), vocab_size, folder)
    return made


def frame_of(folder: Path, kind: DiffusionKind) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that stand before and behind an infill in place, as the checkpoint was trained.

    DreamOn saw whole documents, from their begin to their end token; the others parts of them.
    """
    if kind.family is not Family.DREAMON:
        return (), ()
    names = special_tokens(folder) or {}
    settings = folder / "tokenizer_config.json"
    named: Any = None
    if settings.is_file():
        try:
            named = json.loads(settings.read_text("utf-8")).get("bos_token")
        except (OSError, ValueError, AttributeError) as error:
            raise ModelCorrupt(f"{settings}: {error}") from error
    name = named.get("content") if isinstance(named, dict) else named
    begin = names.get(str(name), kind.bos_token_id)
    end = kind.delete_token_id
    return () if begin is None else (begin,), () if end is None else (end,)


def _ids(special: SpecialTokens, kind: DiffusionKind, folder: Path) -> Iterator[int]:
    """All that a layout, a conversation or a frame may put into a sequence."""
    yield from (getattr(special, role.name) for role in fields(special) if role.type == "int")
    yield from special.stop
    marks = (kind.expand_token_id, kind.delete_token_id, kind.split_token_id)
    yield from (token for token in marks if token is not None)
    for part in frame_of(folder, kind):
        yield from part
    if (chat := special.chat) is not None:
        yield from (t for t in (*chat.first, *chat.opening, *chat.closing) if isinstance(t, int))


def _refuse_outside(ids: Iterable[int], vocab_size: int, folder: Path) -> None:
    for token in ids:
        if token >= vocab_size:
            raise ModelCorrupt(
                f"{folder}: a special token has the id {token}, the model {vocab_size} rows"
            )


def _chat_style(names: dict[str, int]) -> ChatStyle | None:
    """How a conversation is marked, by the tokens there are; None: as in Qwen2.5, or not at all."""
    if {"<|im_start|>", "<|im_end|>"} <= names.keys():
        return None
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= names.keys():  # LLaDA
        begin = names.get("<|startoftext|>", names.get("<|begin_of_text|>"))
        header = (names["<|start_header_id|>"], "{role}", names["<|end_header_id|>"], "\n\n")
        return ChatStyle(() if begin is None else (begin,), header, (names["<|eot_id|>"],))
    if "<|role_end|>" in names:  # LLaDA2
        marks = tuple(names.get(mark, mark) for mark in ("<role>", "</role>"))
        opening = (marks[0], "{role}", marks[1])
        roles = ("SYSTEM", "HUMAN", "ASSISTANT")
        return ChatStyle((), opening, (names["<|role_end|>"],), roles)
    if {"<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"} <= names.keys():  # Seed-Coder
        begin, end = names["<[begin▁of▁sentence]>"], names["<[end▁of▁sentence]>"]
        return ChatStyle((), (begin, "{role}\n"), (end,), after_system="\n\n")
    if {"<|turn>", "<turn|>"} <= names.keys():  # Gemma 4
        start = names.get("<bos>")
        return ChatStyle(
            () if start is None else (start,),
            (names["<|turn>"], "{role}\n"),
            (names["<turn|>"], "\n"),
            ("system", "user", "model"),
        )
    return None


def _from_parts(folder: Path, names: dict[str, int], vocab_size: int) -> Tokenizer:
    """From vocab.json and merges.txt, split as Qwen2 splits; `names` are the special tokens."""
    try:
        vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#v")]
        if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
            raise ValueError("the ids of vocab.json have gaps")
        if any(len(merge) != 2 for merge in merges):
            raise ValueError("a line of merges.txt has not two parts")
        by_id = {token: name for name, token in names.items() if name != "mask_token"}
        most = max(vocab_size, max(by_id, default=0) + 1)
        special = [by_id.get(i, f"[PAD{i}]") for i in range(len(tokens), most)]
        return Tokenizer.from_vocabulary(tokens, merges, special)
    except ModelCorrupt:
        raise
    except Exception as error:  # the backend raises bare Exception
        raise ModelCorrupt(f"{folder}: damaged vocab.json or merges.txt: {error}") from error
