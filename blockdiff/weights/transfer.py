"""One file over HTTP into a `Partial`: as many connections as it takes, never from the start.

The hub's own client forgets what an interrupted process had fetched of a file; here it stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from blockdiff.weights.partial import Partial

CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_CONNECTIONS = 20  # a broken download is resumed, as long as each connection brought something

Report = Callable[[str, int, int], None]


class SourceFailed(Exception):
    """What one source said, in one line."""


def is_offline() -> bool:
    """Whether the user wants nothing to be fetched, in the words of the hub's own client."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def fill(url: str, size: int, partial: Partial, report: Report) -> None:
    """Append what is missing of the `size` bytes at `url`. Raises SourceFailed."""
    import httpx

    for _ in range(_CONNECTIONS):
        before = partial.size
        try:
            _stream(url, size, partial, report)
        except httpx.HTTPError as error:
            if partial.size == before:
                raise SourceFailed(one_line(error)) from error
        if partial.size == size:
            return
        if partial.size == before:
            break
        time.sleep(0.5)
    raise SourceFailed(f"stopped after {partial.size} of {size} bytes")


def _stream(url: str, size: int, partial: Partial, report: Report) -> None:
    import httpx

    headers = {"Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
    timeout = httpx.Timeout(_READ_SECONDS, connect=CONNECT_SECONDS)
    with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as got:
        got.raise_for_status()
        if got.status_code != httpx.codes.PARTIAL_CONTENT:
            partial.truncate(0)
        for chunk in got.iter_bytes():
            if partial.size + len(chunk) > size:
                raise SourceFailed(f"sent more than the {size} bytes the file has")
            partial.append(chunk)
            report("hub", partial.size, size)


def one_line(problem: object) -> str:
    """The first line of a message that says anything, at most 200 characters."""
    lines = str(problem).split("\n")
    text = next((line.strip() for line in lines if line.strip()), type(problem).__name__)
    return text if len(text) <= 200 else text[:199] + "…"
