"""Which replica gets a request: the one that has read most of its text already.

Ray's own `PrefixCacheAffinityRouter` comes with vLLM and the rest of `ray[llm]`, waits for another
process twice for every request, and never answers one with an empty prompt; this one is local.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from blockdiff.service.cluster.messages import ReplicaCall

_CHUNK = 64  # characters
_MOST_CHUNKS = 256  # of one request: what comes behind them belongs to the same document
_MOST_KNOWN = 65_536  # chunks that are remembered of each replica
_SPARE = 8  # requests that a replica may have more than another before its texts go there


class PrefixRouter(RequestRouter):  # type: ignore[misc]
    """Longest known beginning first, then the replica with the fewest requests."""

    def initialize_state(self, spare: int = _SPARE) -> None:
        self._spare = spare
        self._known: dict[ReplicaID, OrderedDict[int, None]] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas: of a later one only if those before take no more requests."""
        lengths = {replica.replica_id: 0 for replica in candidate_replicas}
        for known in set(self._known) - set(lengths):
            del self._known[known]
        chunks = list(_chunks(pending_request)) if pending_request is not None else []
        for replica_id in lengths:
            lengths[replica_id] = self._length(replica_id, chunks)
        busy = {replica: self.replica_queue_len_cache.get(replica) or 0 for replica in lengths}
        least = min(busy.values(), default=0)

        def rank(replica: RunningReplica) -> tuple[int, int, int]:
            name = replica.replica_id
            spared = busy[name] - least > self._spare
            held = len(self._known.get(name, ()))
            return -1 if spared else lengths[name], -busy[name], -held

        ordered = sorted(candidate_replicas, key=rank, reverse=True)
        return [[replica] for replica in ordered]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        known = self._known.setdefault(replica_id, OrderedDict())
        for chunk in _chunks(pending_request):
            known[chunk] = None
            known.move_to_end(chunk)
        while len(known) > _MOST_KNOWN:
            known.popitem(last=False)

    def _length(self, replica: ReplicaID, chunks: list[int]) -> int:
        """How many chunks from the beginning a replica has read."""
        known = self._known.get(replica, OrderedDict())
        return next((i for i, chunk in enumerate(chunks) if chunk not in known), len(chunks))


def _chunks(pending: PendingRequest) -> Iterator[int]:
    """The text of a request in parts, each of which stands for all before it as well."""
    asked = next((value for value in pending.args if isinstance(value, ReplicaCall)), None)
    if asked is None:
        return
    chain = hash(asked.path)
    if asked.path:
        yield chain
    text = asked.beginning
    for at in range(0, min(len(text), _CHUNK * _MOST_CHUNKS), _CHUNK):
        chain = hash((chain, text[at : at + _CHUNK]))
        yield chain
