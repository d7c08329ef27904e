"""What `serve run` is told: `KEY=VALUE` in a terminal, `args` in a file of Ray Serve."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from blockdiff.config import CACHE_MIB
from blockdiff.errors import InvalidRequest
from blockdiff.weights.catalog import DEFAULT_MODEL

_HINT = "such as: serve run blockdiff.service.cluster:app users=users.json gpus=1 min_replicas=2"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """A team's engine. What is named as in Ray's `AutoscalingConfig` is what it is there.

    Attributes:
        users: the file of `blockdiff users`: who may ask, and how much.
        model, device, dtype, download, cache_mib: as of `blockdiff serve`, for each replica.
        min_replicas: copies of the model that always run.
        max_replicas: copies that run while many ask; 0: no more than `min_replicas`.
        target_ongoing_requests: of one replica, those that wait included; more start another one.
        upscale_delay_s: seconds that there have to be more of them before one is started.
        downscale_delay_s: seconds that there have to be fewer before one is stopped.
        gpus: of one replica, also a part of one; 0: it runs on processors.
        cpus: of one replica; its threads.
        waiting: requests that wait when no replica takes another one; more are refused.
    """

    users: str
    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "auto"
    download: bool = True
    cache_mib: int = CACHE_MIB
    min_replicas: int = 1
    max_replicas: int = 0
    target_ongoing_requests: int = 8
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    gpus: float = 0.0
    cpus: float = 1.0
    waiting: int = 256

    def __post_init__(self) -> None:
        least = {
            "min_replicas": 1, "target_ongoing_requests": 1, "waiting": 1, "upscale_delay_s": 0,
            "downscale_delay_s": 0, "gpus": 0, "cpus": 0, "cache_mib": 0,
        }  # fmt: skip
        if self.max_replicas:
            least["max_replicas"] = self.min_replicas
        for name, bound in least.items():
            if not getattr(self, name) >= bound:  # a NaN neither
                raise InvalidRequest(f"{name} must be {bound} or more, got {getattr(self, name)}")

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
