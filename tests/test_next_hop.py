"""The next hop, found by bisection, is the one that looking at every edge would choose."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from dht.envelope import Mode
from dht.ids import RING, closer
from dht.router import Router


def by_looking_at_all(me: int, joined: bool, peers: dict[int, Any], target: int, mode: Mode) -> Any:
    usable = [peer for peer in peers.values() if peer.path is not None and peer.up]
    for peer in usable:
        if peer.id == target and (peer.joined or mode is Mode.EXACT) and not peer.suspect:
            return peer
    best = None
    for peer in usable:
        nearer = best is None and (not joined or closer(target, peer.id, me))
        if peer.joined and not peer.suspect and (nearer or (best and closer(target, peer.id, best.id))):
            best = peer
    doubtful = [peer for peer in usable if peer.id == target and (peer.joined or mode is Mode.EXACT)]
    return best or next(iter(doubtful), None)


@pytest.mark.parametrize("seed", range(20))
def test_the_next_hop_is_the_nearest_usable_edge_whatever_the_table_went_through(seed: int) -> None:
    print(f"seed {seed}")
    rng = Random(seed)
    step = RING // 64  # a coarse ring, so that ids, targets and equal distances meet
    me = rng.randrange(64) * step
    peers: dict[int, Any] = {}
    edges: Any = SimpleNamespace(peers=peers)
    router = Router(me, edges, lambda envelope, hops: None, Counter())
    for _ in range(300):
        node_id = rng.randrange(64) * step
        if peers.pop(node_id, None) is None and node_id != me:
            path, up, joined, suspect = (rng.random() < share for share in (0.8, 0.9, 0.8, 0.2))
            peers[node_id] = SimpleNamespace(
                id=node_id, path="a path" if path else None, up=up, joined=joined, suspect=suspect
            )
        member = rng.random() < 0.7
        router.joined = lambda member=member: member  # type: ignore[misc]
        target, mode = rng.randrange(64) * step, rng.choice(list(Mode))
        if target != me:
            assert router.next_hop(target, mode) is by_looking_at_all(me, member, peers, target, mode)
