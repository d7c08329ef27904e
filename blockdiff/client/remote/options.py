"""Which backend is asked, and where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from blockdiff.client.connections import Address, address_of
from blockdiff.client.remote.fim import Fim
from blockdiff.errors import InvalidRequest


class Backend(str, Enum):
    """Who answers."""

    LOCAL = "local"  # our own engine
    OPENAI = "openai"  # any server with `/v1/completions`: vLLM, SGLang, LM Studio
    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    MISTRAL = "mistral"
    INCEPTION = "inception"


_URLS = {
    Backend.LLAMACPP: "http://127.0.0.1:8080",
    Backend.OLLAMA: "http://127.0.0.1:11434",
    Backend.MISTRAL: "https://api.mistral.ai",
    Backend.INCEPTION: "https://api.inceptionlabs.ai",
}
_MODELS = {Backend.MISTRAL: "codestral-latest", Backend.INCEPTION: "mercury-edit-2"}


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Attributes:
    url: where it is; empty: where such a backend is by default.
    model: by the backend's own name; empty: its only one, or the one for code.
    fim: how a hole is marked, for `openai` and `ollama`.
    ca_file: certificates to trust, as a PEM file; empty: those of the system.
    allow_plain_http: let code and key travel unencrypted to another machine.
    told: the user named it for this one command, so that it needs no further leave.
    """

    backend: Backend
    url: str = ""
    model: str = ""
    fim: Fim = Fim.AUTO
    ca_file: str = ""
    allow_plain_http: bool = False
    told: bool = False
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        if self.backend is Backend.LOCAL:
            raise InvalidRequest("the local engine is no remote backend")
        url = self.url or _URLS.get(self.backend, "")
        if not url:
            raise InvalidRequest(
                f"the backend {self.backend.value} needs the URL of a server",
                "such as http://127.0.0.1:8000",
            )
        if self.backend is Backend.OLLAMA and not self.model:
            raise InvalidRequest(
                "ollama needs the name of a model", "such as qwen2.5-coder:1.5b-base"
            )
        address = address_of(
            url, ca_file=self.ca_file, allow_plain_http=self.allow_plain_http, with_path=True
        )
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "model", self.model or _MODELS.get(self.backend, ""))

    @property
    def name(self) -> str:
        """As people read it: `mistral at api.mistral.ai`."""
        return f"{self.backend.value} at {urlsplit(self.address.url).netloc}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what leave and keys are given for."""
        return self.address.origin

    @property
    def is_here(self) -> bool:
        """Whether it listens on this machine."""
        return self.address.is_here

    def at(self, path: str) -> str:
        """The full URL of a path."""
        return self.address.url.rstrip("/") + path

    def under(self, path: str) -> str:
        """The full URL of a path of the OpenAI kind; a URL with a path of its own has that in place
        of `/v1`."""
        return self.at(path if urlsplit(self.at("")).path else f"/v1{path}")
