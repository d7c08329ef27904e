"""How a conversation becomes tokens: each family marks its turns in its own way."""

from __future__ import annotations

from collections.abc import Sequence

from blockdiff.config import ChatStyle, SpecialTokens
from blockdiff.errors import ModelUnsupported
from blockdiff.infill.healing import PromptTokenizer


def style_of(special: SpecialTokens) -> ChatStyle:
    """The checkpoint's own, or that of Qwen2.5. Raises ModelUnsupported where it has neither."""
    if special.chat is not None:
        return special.chat
    if min(special.im_start, special.im_end) < 0:
        raise ModelUnsupported(
            "the model has no chat tokens", "use an instruct model of `blockdiff models list`"
        )
    return ChatStyle((), (special.im_start, "{role}\n"), (special.im_end, "\n"))


def conversation(
    system: str, user: str, answer: str, style: ChatStyle, tokenizer: PromptTokenizer
) -> list[int]:
    """A system's and a user's turn, and the begin of the answer."""
    texts = (system + style.after_system, user, answer)
    tokens = _encoded(style.first, tokenizer)
    for role, text in zip(style.roles, texts, strict=True):
        opening = [p.replace("{role}", role) if isinstance(p, str) else p for p in style.opening]
        tokens += _encoded([*opening, text], tokenizer)
        if role != style.roles[-1]:
            tokens += _encoded(style.closing, tokenizer)
    return tokens


def _encoded(parts: Sequence[int | str], tokenizer: PromptTokenizer) -> list[int]:
    """Ids as they are; texts that follow one another are encoded as one."""
    tokens: list[int] = []
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        tokens += [*tokenizer.encode(text), part] if text else [part]
        text = ""
    return tokens + tokenizer.encode(text) if text else tokens
