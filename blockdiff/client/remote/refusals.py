"""What a backend says when it refuses: its own words, and when to ask again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from blockdiff.client.remote.calls import HttpCall
from blockdiff.client.remote.keys import Key
from blockdiff.errors import BlockdiffError

_MOST_SAID = 200  # characters of a server's own words
_LONGEST_WAIT = 24 * 3600.0  # seconds: one that says more is not believed
_TELLING = 8  # characters of a line that must not come back in an error


class Refused(Exception):
    """An `error` after which the request may be sent again, for `patience` seconds in all, but not
    before `after` seconds have gone by."""

    def __init__(self, error: BlockdiffError, after: float = 0.0, patience: float = 0.0) -> None:
        super().__init__(error.message)
        self.error, self.after, self.patience = error, after, patience


def is_about_holes(status: int, said: str) -> bool:
    """Whether a refusal says that a model or a server cannot fill any."""
    return status in (400, 501) and any(w in said for w in ("suffix", "infill", "insert"))


def retry_after(response: httpx.Response) -> float:
    """Seconds that a server asks to wait; 0 if it does not."""
    said = response.headers.get("retry-after", "").strip()
    with contextlib.suppress(ValueError):
        return max(0.0, min(float(said), _LONGEST_WAIT))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        left = parsedate_to_datetime(said).timestamp() - time.time()
        return max(0.0, min(left, _LONGEST_WAIT))
    return 0.0


def said_by(value: Any, call: HttpCall, key: Key) -> str:
    """A server's own words on what is wrong, in one line; none if they repeat what was sent."""
    while isinstance(value, dict | list):
        if isinstance(value, list):
            value = value[0] if value else ""
        else:
            names = ("error", "message", "detail", "msg")
            value = next((value[name] for name in names if value.get(name)), "")
    said = key.hidden_in(" ".join(value.split())) if isinstance(value, str) else ""
    sent = "\n".join(_texts(call.body or {}))
    for mark in call.marks:
        sent = sent.replace(mark, "\n")
    lines = {" ".join(line.split()) for line in sent.splitlines()}
    if any(len(line) >= _TELLING and line in said for line in lines):
        return ""
    return said[:_MOST_SAID]


def _texts(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return (value,)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _texts(item)]
