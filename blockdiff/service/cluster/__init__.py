"""The engine of a team, on Ray Serve: `serve run blockdiff.service.cluster:app users=FILE`.

options   what `serve run` is told
users     who may ask, and how much
gateway   where clients come: the endpoints, and which replica is asked
routing   the replica that has read most of a request already
replica   one copy of the model
deploy    both as an application of Ray Serve
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def app(args: dict[str, Any]) -> Application:
    """What Ray Serve runs. Raises InvalidRequest for options that mean nothing."""
    from blockdiff.service.cluster import deploy

    return deploy.application(args)
