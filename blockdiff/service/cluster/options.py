"""What `serve run` is told: `KEY=VALUE` in a terminal, `args` in a file of Ray Serve."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from blockdiff.errors import InvalidRequest
from blockdiff.weights.catalog import DEFAULT_MODEL

_HINT = "such as: serve run blockdiff.service.cluster:app users=users.json gpus=1 replicas=2"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """A team's engine.

    Attributes:
        users: the file of `blockdiff users`: who may ask, and how much.
        model, device, dtype, download, cache_mib: as of `blockdiff serve`, for each replica.
        replicas: copies of the model that always run.
        most_replicas: copies that run while many ask; 0: no more than `replicas`.
        gpus: of one replica, also a part of one; 0: it runs on processors.
        cpus: of one replica; its threads.
        running: requests that one replica is meant to have at once; more start another replica.
        waiting: requests that wait when no replica takes another one; more are refused.
    """

    users: str
    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "auto"
    download: bool = True
    cache_mib: int = 512
    replicas: int = 1
    most_replicas: int = 0
    gpus: float = 0.0
    cpus: float = 1.0
    running: int = 8
    waiting: int = 256

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InvalidRequest(f"replicas must be 1 or more, got {self.replicas}")
        if self.most_replicas and self.most_replicas < self.replicas:
            raise InvalidRequest(f"most_replicas must be {self.replicas} or more, or 0")
        if min(self.gpus, self.cpus, self.cache_mib) < 0 or min(self.running, self.waiting) < 1:
            raise InvalidRequest("a number is too small", _HINT)

    @classmethod
    def of(cls, args: dict[str, Any]) -> ClusterOptions:
        """Of what `serve run` was given, where every value may be a string.

        Raises InvalidRequest, for a file of users that is not there as well.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in args if name not in known]:
            raise InvalidRequest(f"no option {unknown[0]!r}", f"there are {', '.join(known)}")
        if "users" not in args:
            raise InvalidRequest("users=FILE is missing", _HINT)
        users = Path(str(args["users"])).expanduser().absolute()
        if not users.is_file():
            raise InvalidRequest(f"no file {users}", "it is made by: blockdiff users add NAME")
        try:
            return msgspec.convert({**args, "users": str(users)}, cls, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error), _HINT) from None
