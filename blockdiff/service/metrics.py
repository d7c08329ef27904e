"""What the engine does, in numbers, for Prometheus. No metric carries text or a path."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from blockdiff.service.scheduler import Job, Scheduler
from blockdiff.service.worker import Worker
from blockdiff.types import Filled, Finished, Warmed

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_RATES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)


class Metrics:
    """Counters of one service."""

    def __init__(self, scheduler: Scheduler, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests that ended; outcome is finished or the code of the error",
            "priority", "outcome",
        )  # fmt: skip
        self._queue = self._histogram(
            "queue_seconds", "From arrival until the engine took a request up", "priority"
        )
        self._first = self._histogram(
            "first_refinement_seconds", "From arrival to the first refinement", "priority"
        )
        self._seconds = self._histogram(
            "request_seconds", "From arrival to the end of requests that finished", "priority"
        )
        self._per_forward = self._histogram(
            "tokens_per_forward", "Tokens of a finished request divided by its forwards", "mode",
            _RATES,
        )  # fmt: skip
        self._tokens = self._counter("tokens", "Tokens generated")
        self._drafted = self._counter("drafted_tokens", "Of these, drafted and accepted", "source")
        self._forwards = self._counter("forwards", "Forward passes, encoding of context excluded")
        self._context = self._counter("context_tokens", "Context tokens of finished requests")
        self._cached = self._counter("cached_tokens", "Of these, found in the cache")
        self._ahead = self._counter("ahead_tokens", "Context tokens encoded ahead of requests")
        self._dropped = self._counter("dropped_refinements", "Not sent: the reader was too slow")
        self._sums = {"context": 0, "cached": 0}
        self._gauge(
            "cached_token_ratio",
            "Share of all context tokens that was found in the cache",
            lambda: self._sums["cached"] / max(self._sums["context"], 1),
        )
        self._gauge("waiting_requests", "In the queue", lambda: scheduler.waiting)
        self._gauge("cache_entries", "Encoded contexts that are kept", worker.cache_entries)
        self._gauge("cache_bytes", "Memory that these take", worker.cache_bytes)
        self._gauge("context_speed", "Context tokens encoded per second", worker.context_speed)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"blockdiff_{name}", help_text, labels, registry=self._registry)

    def _histogram(
        self, name: str, help_text: str, label: str, buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(
            f"blockdiff_{name}", help_text, [label], buckets=buckets, registry=self._registry
        )

    def _gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        Gauge(f"blockdiff_{name}", help_text, registry=self._registry).set_function(value)

    def ended(self, job: Job) -> None:
        """Count a job that has just ended."""
        now, priority, result = time.monotonic(), job.priority.value, job.result
        outcome = getattr(result, "code", "finished")
        self._requests.labels(priority, outcome).inc()
        self._queue.labels(priority).observe((job.started or now) - job.submitted)
        if job.first_refinement is not None:
            self._first.labels(priority).observe(job.first_refinement - job.submitted)
        if isinstance(result, Warmed):
            self._ahead.inc(result.context_tokens - result.cached_tokens)
        if not isinstance(result, (Finished, Filled)):
            return
        self._seconds.labels(priority).observe(now - job.submitted)
        self._per_forward.labels(result.mode).observe(result.tokens / max(result.forwards, 1))
        self._tokens.inc(result.tokens)
        for hole in result.holes if isinstance(result, Filled) else (result,):
            for source in fields(hole.drafted):
                self._drafted.labels(source.name).inc(getattr(hole.drafted, source.name))
        self._forwards.inc(result.forwards)
        self._context.inc(result.context_tokens)
        self._cached.inc(result.cached_tokens)
        self._sums["context"] += result.context_tokens
        self._sums["cached"] += result.cached_tokens

    def dropped(self, refinements: int) -> None:
        """Count refinements that a slow reader did not get."""
        self._dropped.inc(refinements)

    def render(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)
