"""The engine of a team, on Ray Serve: `serve run blockdiff.service.cluster:app users=FILE`."""

from blockdiff.service.cluster.deploy import app

__all__ = ["app"]
