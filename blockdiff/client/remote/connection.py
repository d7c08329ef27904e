"""One request to a backend: sent again while nothing has come back, read object by object.

What goes wrong is a typed error, in which neither the key nor a line of anybody's text appears.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from blockdiff.client.connections import Connections, unreachable
from blockdiff.client.remote import keys
from blockdiff.client.remote.calls import HttpCall, Sent
from blockdiff.client.remote.keys import Key
from blockdiff.client.remote.options import BackendOptions
from blockdiff.client.remote.refusals import Refused, is_about_holes, retry_after, said_by
from blockdiff.errors import (
    BackendFailed,
    BlockdiffError,
    InvalidRequest,
    ModelNotFound,
    ModelUnsupported,
    RateLimited,
    Unauthorized,
)

DONE: dict[str, Any] = {}
"""What a stream yields for its end mark."""

_TIMEOUT = httpx.Timeout(10.0, read=60.0, pool=None)  # a long prompt on a CPU takes its time
_AUTOMATIC_TIMEOUT = httpx.Timeout(3.0, read=10.0, pool=None)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 4.0  # seconds between two tries, doubled each time
# Seconds of trying again, in all.
_PATIENCE = 2.0
_PATIENCE_WITH_LIMIT = 20.0
_PATIENCE_WITH_LOADING = 30.0  # of a model: such a server says 503
_MOST_BYTES = 8 << 20  # of an answer


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request will be sent once more; `why` in a few words."""

    why: str
    seconds: float


class Connection:
    """To one backend. Safe to use from any number of tasks of one event loop."""

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._connections = Connections(options.address)
        self._key: Key | None = None
        self._looking = asyncio.Lock()
        self._limited_until = 0.0

    async def aclose(self) -> None:
        """Cut it as soon as nothing runs over it any more."""
        await self._connections.leave()

    async def key(self) -> Key:
        """Raises Unauthorized where there is none and nothing goes without, InvalidRequest."""
        async with self._looking:
            if self._key is None:
                origin = self._options.origin
                found = await asyncio.to_thread(keys.find, origin)
                if not found.value and keys.needs_key(origin):
                    raise Unauthorized(
                        f"there is no key for {origin}; looked in {found.source}",
                        keys.hint(origin),
                    )
                self._key = found
            return self._key

    async def sent(self, call: HttpCall) -> Sent:
        """A call as it would be sent."""
        found = await asyncio.to_thread(keys.find, self._options.origin)
        value = f"Bearer (from {found.source})" if found.value else f"none in {found.source}"
        headers = {"Authorization": value}
        return Sent("GET" if call.body is None else "POST", call.url, headers, call.body)

    async def get(self, call: HttpCall) -> dict[str, Any]:
        """The answer to a call that is one object. Raises as `objects`."""
        async with contextlib.aclosing(self.objects(call, patient=False)) as found:
            async for value in found:
                if not isinstance(value, Waiting):
                    return value
        raise self._failed("sent nothing")

    async def objects(
        self, call: HttpCall, *, patient: bool
    ) -> AsyncGenerator[dict[str, Any] | Waiting, None]:
        """The JSON objects of an answer in order, `DONE` for an end mark. Closing it cancels.

        A `patient` call is made again while the backend is busy, as it asks for, and until the
        first object; before each time comes a `Waiting`.

        Raises:
            BackendFailed: it is down, silent, no such backend, or its answer breaks off.
            RateLimited, Unauthorized, ModelNotFound, ModelUnsupported, InvalidRequest: it says so.
        """
        key = await self.key()
        async with self._connections.used() as http:
            async with contextlib.aclosing(self._tried(http, call, key, patient)) as found:
                async for value in found:
                    yield value

    async def _tried(
        self, http: httpx.AsyncClient, call: HttpCall, key: Key, patient: bool
    ) -> AsyncGenerator[dict[str, Any] | Waiting, None]:
        began = time.monotonic()
        pause, started = _FIRST_PAUSE, False
        if not patient and (left := self._limited_until - began) > 0:
            raise self._limited("", left)
        while True:
            try:
                async with self._posted(http, call, key, patient) as response:
                    async for value in self._read(response, call, key):
                        started = True
                        yield value
                return
            except (httpx.HTTPError, Refused) as error:
                refused = self._explained(error)
            seconds = max(pause, refused.after)
            over = time.monotonic() - began + seconds > refused.patience
            if started or not patient or over:
                raise refused.error from None
            yield Waiting(refused.error.message, seconds)
            await asyncio.sleep(seconds)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextlib.asynccontextmanager
    async def _posted(
        self, http: httpx.AsyncClient, call: HttpCall, key: Key, patient: bool
    ) -> AsyncIterator[httpx.Response]:
        headers = {"Authorization": f"Bearer {key.value}"} if key.value else {}
        timeout = _TIMEOUT if patient else _AUTOMATIC_TIMEOUT
        method, body = ("GET", None) if call.body is None else ("POST", _encoded(call.body))
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with http.stream(
            method, call.url, content=body, headers=headers, timeout=timeout
        ) as response:
            if response.status_code != 200:
                text = (await _whole(response)).decode("utf-8", "replace")
                raise self._refusal(response, text, call, key)
            yield response

    async def _read(
        self, response: httpx.Response, call: HttpCall, key: Key
    ) -> AsyncIterator[dict[str, Any]]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise self._failed("answers with a web page")
        async for line in _lines(response, whole=kind == "application/json"):
            name, colon, data = line.partition(b":")
            if name == b"data" and colon:
                line = data.strip()
            elif name == b"error" and colon:  # of older llama.cpp
                line = b'{"error":' + data + b"}"
            elif not name or name in (b"event", b"id", b"retry"):
                continue
            if not line:  # an empty event: it is still there
                continue
            if line == b"[DONE]":
                yield DONE
                return
            yield self._object(line, call, key)

    def _object(self, text: bytes, call: HttpCall, key: Key) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._failed("answers with something else than JSON objects")
        if value.get("error") or value.get("object") == "error":  # the second of older vLLM
            said = said_by(value, call, key)
            reason = said or "it says no more"
            raise BackendFailed(f"{self._options.name} gave up: {reason}", "ask again")
        return value

    def _refusal(self, response: httpx.Response, text: str, call: HttpCall, key: Key) -> Refused:
        """What a status that is not 200 means."""
        status, name, after = response.status_code, self._options.name, retry_after(response)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        said = said_by(value, call, key) if isinstance(value, dict | list) else ""
        reason = f": {said}" if said else f" (HTTP status {status})"
        if status == 429:
            self._limited_until = time.monotonic() + after
            return Refused(self._limited(reason, after), after, _PATIENCE_WITH_LIMIT)
        if status >= 500 and not is_about_holes(status, said):
            loading = _PATIENCE_WITH_LOADING if status == 503 else _PATIENCE
            hint = f"ask again in {after:.0f} s" if after else "ask again; its own log says more"
            return Refused(BackendFailed(f"{name} fails{reason}", hint), after, loading)
        return Refused(self._refused_for_good(status, said, reason, bool(key.value)))

    def _refused_for_good(
        self, status: int, said: str, reason: str, with_key: bool
    ) -> BlockdiffError:
        name = self._options.name
        if status in (401, 403):
            self._key = None  # look again: the user may give another
            verb = "does not accept the key" if with_key else "wants a key"
            return Unauthorized(f"{name} {verb}{reason}", keys.hint(self._options.origin))
        if status == 404 and "model" in said.lower():
            return ModelNotFound(f"{name} has no such model{reason}", "set engine.model")
        if is_about_holes(status, said):
            hint = "name the family of the model as engine.fim, or take a model that can infill"
            return ModelUnsupported(f"{name} cannot fill a hole{reason}", hint)
        if status in (400, 413, 422):
            hint = "where it is too long, lower context.mostTokens"
            return InvalidRequest(f"{name} refuses the request{reason}", hint)
        if 300 <= status < 400:
            return self._failed("points to another address, which is not followed")
        return self._failed(f"refuses the request{reason}")

    def _limited(self, reason: str, seconds: float) -> RateLimited:
        hint = f"ask again in {seconds:.0f} s" if seconds else "ask again a little later"
        return RateLimited(f"{self._options.name} limits how often it is asked{reason}", hint)

    def _failed(self, what: str) -> BackendFailed:
        hint = "check engine.backend and engine.url, and what else listens there"
        return BackendFailed(f"{self._options.name} {what}", hint)

    def _explained(self, error: httpx.HTTPError | Refused) -> Refused:
        if isinstance(error, Refused):
            return error
        name = self._options.name
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            found = unreachable(self._options.address, error, self._options.backend.value)
            hint = found.hint or "is it running, and is engine.url right?"
            return Refused(BackendFailed(found.message, hint), 0.0, _PATIENCE)
        if isinstance(error, httpx.ProxyError):
            said = " ".join(str(error).split())
            hint = "check the proxy that the environment names, such as HTTPS_PROXY"
            return Refused(BackendFailed(f"the proxy does not lead to {name}: {said}", hint))
        if isinstance(error, httpx.TimeoutException):
            return Refused(BackendFailed(f"{name} is silent", "it may be stuck; ask again"))
        return Refused(BackendFailed(f"{name} broke its answer off", "ask again"), 0.0, _PATIENCE)


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


async def _whole(response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > _MOST_BYTES:
            break
        parts.append(part)
    return b"".join(parts)


async def _lines(response: httpx.Response, *, whole: bool) -> AsyncIterator[bytes]:
    """Lines that end at LF and nowhere else: JSON may hold the other characters that a text is
    split at (U+2028, U+0085), and httpx splits there. An answer that is said to be one `whole`
    object is one line if it is."""
    if whole:
        text = await _whole(response)
        for line in [text] if _is_json(text) else text.split(b"\n"):
            if line.strip():
                yield line.strip()
        return
    rest, size = b"", 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > _MOST_BYTES:
            raise httpx.RemoteProtocolError("the answer has no end")
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield line.strip()
    if rest.strip():
        yield rest.strip()


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
