"""The libraries that programs use, as they are, at the compatible endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blockdiff.client.endpoint import Runtime
from tests.unit.compat_world import AFTER, BEFORE, CURSOR, TEXT, Compat, compat

PROMPT = BEFORE + CURSOR
CODE = [{"role": "user", "content": "sort\n```\nb\na\n```"}]
REWRITTEN = f"```\n{TEXT}\n```"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compat]:
    with compat(Runtime(tmp_path_factory.mktemp("compat") / "run")) as made:
        yield made


class OpenAI:
    """How its users ask; `Denied` and `Refused` are what they catch."""

    def __init__(self, world: Compat, token: str) -> None:
        openai = pytest.importorskip("openai")
        self.Denied, self.Refused = openai.AuthenticationError, openai.BadRequestError
        self._client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=token, max_retries=0)

    def models(self) -> list[str]:
        return [model.id for model in self._client.models.list()]

    def whole(self, **more: Any) -> str:
        made = self._client.completions.create(model="m", prompt=PROMPT, suffix=AFTER, **more)
        return str(made.choices[0].text)

    def stream(self) -> Iterator[str]:
        asked = {"model": "m", "prompt": PROMPT, "suffix": AFTER, "stream": True}
        with self._client.completions.create(**asked) as chunks:
            for chunk in chunks:
                yield chunk.choices[0].text

    def rewrite(self) -> str:
        made = self._client.chat.completions.create(model="m", messages=CODE)
        return str(made.choices[0].message.content)


class Mistral:
    def __init__(self, world: Compat, token: str) -> None:
        library = pytest.importorskip("mistralai.client")
        self.Denied = self.Refused = library.errors.SDKError
        self._client = library.Mistral(server_url=world.url, api_key=token)

    def models(self) -> list[str]:
        return [model.id for model in self._client.models.list().data]

    def whole(self, **more: Any) -> str:
        made = self._client.fim.complete(model="m", prompt=PROMPT, suffix=AFTER, **more)
        return str(made.choices[0].message.content)

    def stream(self) -> Iterator[str]:
        with self._client.fim.stream(model="m", prompt=PROMPT, suffix=AFTER) as chunks:
            for chunk in chunks:
                yield chunk.data.choices[0].delta.content


class Ollama:
    def __init__(self, world: Compat, token: str) -> None:
        library = pytest.importorskip("ollama")
        self.Denied = self.Refused = library.ResponseError
        headers = {"Authorization": f"Bearer {token}"}
        self._client = library.Client(host=world.url, headers=headers)

    def models(self) -> list[str]:
        assert "insert" in self._client.show("m").capabilities
        return [model.model for model in self._client.list().models]

    def whole(self, **more: Any) -> str:
        made = self._client.generate("m", PROMPT, suffix=AFTER, options=more)
        return str(made.response)

    def stream(self) -> Iterator[str]:
        for chunk in self._client.generate("m", PROMPT, suffix=AFTER, stream=True):
            yield chunk.response

    def rewrite(self) -> str:
        return str(self._client.chat("m", CODE).message.content)


Library = OpenAI | Mistral | Ollama
each = pytest.mark.parametrize("made", [OpenAI, Mistral, Ollama])


@each
def test_a_library_reads_what_is_written(
    world: Compat, made: Callable[[Compat, str], Library]
) -> None:
    library = made(world, world.token)
    assert library.models() == ["scripted"]
    assert library.whole() == TEXT
    assert "".join(library.stream()) == TEXT
    if not isinstance(library, Mistral):
        assert library.rewrite() == REWRITTEN


@each
def test_a_library_that_closes_its_stream_ends_the_writing(
    world: Compat, made: Callable[[Compat, str], Library]
) -> None:
    library, cancelled = made(world, world.token), world.engine.cancelled
    world.engine.go.clear()
    stream = library.stream()
    assert next(stream) == TEXT.split("\n")[0]
    stream.close()
    world.until(lambda: world.engine.cancelled > cancelled)
    world.engine.go.set()


@each
def test_a_library_shows_why_it_was_refused(
    world: Compat, made: Callable[[Compat, str], Library]
) -> None:
    stranger = made(world, "wrong")
    with pytest.raises(stranger.Denied, match="the token is missing or wrong"):
        stranger.whole()
    library = made(world, world.token)
    with pytest.raises(library.Refused, match="temperature must be 0..10, got 99"):
        library.whole(temperature=99)
