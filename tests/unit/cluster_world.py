"""A team's engine on Ray in miniature: replicas of a tiny checkpoint on cores of this machine."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import ray
import torch
from ray import serve
from transformers import Qwen2Config, Qwen2ForCausalLM

from blockdiff.client.client import EngineClient, EngineOptions
from blockdiff.config import DecodingConfig, Mode
from blockdiff.service.cluster import app
from blockdiff.service.cluster.users import UsersFile
from blockdiff.types import Hole, InfillRequest
from tests.unit.tiny_checkpoint import tokenizer

_GONE_SECONDS = 20.0


@dataclass(frozen=True)
class Team:
    """A running cluster, its address, and the tokens of ada, who may do all, and bob: three
    requests in a day, one at a time."""

    url: str
    users: UsersFile
    ada: str
    bob: str
    model: Path

    def client(self, token: str = "") -> EngineClient:
        return EngineClient(EngineOptions(self.url, token or self.ada))

    def http(self, token: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {token or self.ada}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def pids(self) -> list[int]:
        """Processes of the replicas."""
        states = serve.get_deployment_handle("engine", "default").broadcast("state").results()
        return sorted(state.health.pid for state in states)

    def replicas(self) -> dict[str, int]:
        """How many there are in each of Ray's states."""
        deployment = serve.status().applications["default"].deployments["engine"]
        return {str(state): n for state, n in deployment.replica_states.items() if n}

    def deploy(self, **options: object) -> None:
        """As `serve run` does, or again with other options."""
        told = {"device": "cpu", "dtype": "float32", "model": self.model}
        told |= {"users": self.model.with_name("users.json"), **options}
        serve.run(app({name: str(value) for name, value in told.items()}))


def checkpoint(folder: Path, width: int = 32, layers: int = 2) -> Path:
    """A Qwen2 of random weights."""
    words = tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=words.vocab_size, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.2,
        eos_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words.save(folder / "tokenizer.json")
    return folder


def request(
    document: str, at: int, tokens: int = 8, seed: int = 0, path: str = ""
) -> InfillRequest:
    decoding = DecodingConfig(mode=Mode.AR, max_tokens=tokens, temperature=1.0, seed=seed)
    return InfillRequest(document, Hole(at, at), path=path, decoding=decoding)


@contextmanager
def team(folder: Path, model: Path, **options: object) -> Iterator[Team]:
    """With options of the application; nothing of it is left afterwards."""
    users = UsersFile(folder / "users.json")
    ada, bob = users.add("ada", "", 64), users.add("bob", "3/day", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = _processes()
    os.environ["RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"  # 10 is long to wait
    try:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        made = Team(f"http://127.0.0.1:{port}", users, ada, bob, model)
        made.deploy(**options)
        yield made
    finally:
        serve.shutdown()
        ray.shutdown()
        end = time.monotonic() + _GONE_SECONDS
        while (left := _processes() - before) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, "Ray left processes behind"


def _processes() -> set[int]:
    """Those that this one has started."""
    return {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}
