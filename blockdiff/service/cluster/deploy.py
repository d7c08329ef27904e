"""The application of Ray Serve: a gateway, and replicas behind it."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from blockdiff.service.cluster.gateway import Gateway
from blockdiff.service.cluster.options import ClusterOptions
from blockdiff.service.cluster.replica import Replica
from blockdiff.service.cluster.routing import PrefixRouter
from blockdiff.service.launcher import ServeOptions

_MOST_STREAMS = 10_000  # at the gateway, which only passes on; quotas and `waiting` limit earlier
_ROOM = 4  # times what a replica should have: commands overtake completions only where both are
_LAST_SECONDS = 300.0  # for what is written where a replica is stopped: the longest take minutes
_HEAD = {"node:__internal_head__": 0.001}  # the gateway runs where the file of users is


def application(args: dict[str, Any]) -> serve.Application:
    """What `serve run blockdiff.service.cluster:app KEY=VALUE ...` runs. Raises InvalidRequest."""
    options = ClusterOptions.of(args)
    engine = ServeOptions(
        model=options.model,
        device=options.device,
        dtype=options.dtype,
        download=options.download,
        cache_mib=options.cache_mib,
    )
    replicas = serve.deployment(
        Replica,
        name="engine",
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas or options.min_replicas,
            target_ongoing_requests=options.target_ongoing_requests,
            upscale_delay_s=options.upscale_delay_s,
            downscale_delay_s=options.downscale_delay_s,
        ),
        graceful_shutdown_timeout_s=_LAST_SECONDS,
        max_ongoing_requests=_ROOM * options.target_ongoing_requests,
        max_queued_requests=options.waiting,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,
            request_router_kwargs={"spare": options.target_ongoing_requests},
        ),
    )
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        num_replicas=1,
        graceful_shutdown_timeout_s=_LAST_SECONDS,
        max_ongoing_requests=_MOST_STREAMS,
        ray_actor_options={"num_cpus": 0, "resources": _HEAD},
    )
    return gateway.bind(replicas.bind(engine), options)
