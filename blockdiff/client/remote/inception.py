"""Inception's Mercury: `/v1/fim/completions`, and `/v1/edit/completions` for rewriting.

The edit endpoint writes a marked region anew, by what was edited before it. An instruction stands
there as the last of these edits; without one the model mends what it would. It does not stream.
"""

from __future__ import annotations

from typing import Any

from blockdiff.client.remote.around import Around, Instructed
from blockdiff.client.remote.calls import HttpCall, Wire
from blockdiff.client.remote.commented import with_snippets

_NO_STOP = ["<|endoftext|>"]  # without one of ours it ends at every blank line
_TAGS = (
    "recently_viewed_code_snippets", "recently_viewed_code_snippet", "current_file_content",
    "code_to_edit", "edit_diff_history", "cursor",
)  # fmt: skip


class InceptionWire(Wire):
    __slots__ = ()

    def fill(self, around: Around, model: str) -> HttpCall:
        body: dict[str, Any] = {
            "model": model,
            "prompt": with_snippets(around, around.before + around.begun),
            "suffix": around.after,
            "max_tokens": around.most_tokens,
            "stop": _NO_STOP,
            "stream": True,
            **_sampling(around),
        }
        return HttpCall(self.options.under("/fim/completions"), body)

    def rewrite(self, asked: Instructed, model: str) -> HttpCall:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": _edit(asked)}],
            "max_tokens": asked.around.most_tokens,
            **_sampling(asked.around),
        }
        return HttpCall(self.options.under("/edit/completions"), body, unchanged="None")


def _sampling(around: Around) -> dict[str, Any]:
    """Its own choice where ours is the likeliest token: it draws whole blocks."""
    decoding = around.decoding
    if decoding.greedy:
        return {}
    return {"temperature": min(decoding.temperature, 1.0), "top_p": decoding.top_p}


def _edit(asked: Instructed) -> str:
    around = asked.around
    snippets = [
        _tagged("recently_viewed_code_snippet", f"code_snippet_file_path: {path}\n{_plain(text)}")
        for path, text in around.snippets
    ]
    region = _plain(around.begun + asked.text) + "<|cursor|>"
    file = f"current_file_path: {around.path}\n{_plain(around.before)}"
    file += f"{_tagged('code_to_edit', region)}\n{_plain(around.after.removeprefix(chr(10)))}"
    return "\n\n".join(
        (
            _tagged("recently_viewed_code_snippets", "\n\n".join(snippets)),
            _tagged("current_file_content", file.rstrip("\n")),
            _tagged("edit_diff_history", _history(asked.instruction)),
        )
    )


def _history(instruction: str) -> str:
    lines = _plain(instruction).splitlines()
    return "\n".join(f"# {line}" for line in lines)


def _tagged(name: str, text: str) -> str:
    return f"<|{name}|>\n{text}\n<|/{name}|>"


def _plain(text: str) -> str:
    """Text that makes none of the tags."""
    for name in _TAGS:
        for mark in (f"<|{name}|>", f"<|/{name}|>"):
            text = text.replace(mark, f"< {mark[1:]}")
    return text
