"""A ring that is whole from its first instant: for worlds too large to grow node by node.

Every node gets what it would have after growing and settling: near lists, an edge and a session to each of their
members, one finger a distance (of a few random candidates the one with the shortest round trip, as `dht.fingers`
chooses), and the certificates of all its peers, so that keys are renewed by compact handshakes. Keys have random ages
and edges were heard at random times before now: nothing happens in step. Only descriptors are not in the DHT yet; the
nodes publish them when they start, by the protocol.

It draws from the world's generator and sends nothing. It judges nothing either: that the protocol, left alone, changes
nothing here, and builds the same near lists itself, is for tests to show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from dht.ids import BITS, RING
from dht.liveness import ADJACENT_S, EDGE_S
from dht.node import Node
from dht.noise import KEY_BYTES
from dht.ring import NEAR
from dht.session import REKEY_AFTER_S, Keypair
from sims.world import World

CANDIDATES = 4  # for a finger; of so many the nearest by round trip is taken


def construct(world: World, count: int) -> None:
    """Build `count` nodes in an empty `world`, tie them into one ring, and start them. Raises ValueError for a world
    that has nodes, or a ring of fewer than two."""
    if world.nodes:
        raise ValueError("a ring is constructed in a world without nodes")
    if count < 2:
        raise ValueError(f"a ring is constructed of two nodes or more, not {count}")
    for number in range(count):
        world.build(number)
    ring = sorted(world.nodes, key=lambda node: node.id)
    ids = [node.id for node in ring]
    length = min(NEAR, count - 1)
    for place, node in enumerate(ring):
        after = [ring[(place + step) % count] for step in range(1, length + 1)]
        before = [ring[(place - step) % count] for step in range(1, length + 1)]
        node.parts.near.lists.join([each.id for each in after], [each.id for each in before])
        for neighbor in after:
            _tie(world, node, neighbor)
        for neighbor in before:
            _tie(world, node, neighbor)
    for place, node in enumerate(ring):
        # What the near lists cover needs no fingers, and smaller rings have none.
        if count > 2 * NEAR:
            for finger in _fingers(world, ring, ids, place):
                _tie(world, node, finger)
                node.parts.fingers.hold(finger.id)
    for node in world.nodes:
        node.start(())
        for peer in list(node.parts.sessions.peers.values())[:1]:
            node.parts.acquaintances.edge_up(peer)  # so that it saves whom it knows


def _fingers(world: World, ring: Sequence[Node], ids: Sequence[int], place: int) -> list[Node]:
    """One node for every distance [2^i, 2^(i+1)) behind the last successor that has any."""
    rng, latency = world.engine.rng, world.network.latency
    me, here = ids[place], world.hosts[ids[place]].place
    covered = (ids[(place + NEAR) % len(ids)] - me) % RING
    found = []
    for exponent in range(BITS - 1, covered.bit_length() - 2, -1):
        first = bisect_left(ids, (me + (1 << exponent)) % RING)
        beyond = bisect_left(ids, (me + (2 << exponent)) % RING)
        width = (beyond - first) % len(ids)
        if not width:
            continue
        candidates = [ring[(first + rng.randrange(0, width)) % len(ids)] for _ in range(min(CANDIDATES, width))]
        found.append(min(candidates, key=lambda node: latency.one_way_s(here, world.hosts[node.id].place)))
    return found


def _tie(world: World, one: Node, other: Node) -> None:
    """Let two nodes have shaken hands, some time ago. Nothing when they have."""
    if other.id in one.parts.sessions.peers:
        return
    rng, now = world.engine.rng, world.engine.now
    forth, back = rng.randbytes(KEY_BYTES), rng.randbytes(KEY_BYTES)
    born_at = now - REKEY_AFTER_S * rng.random()
    adjacent = other.id in one.parts.near.lists.adjacent() or one.id in other.parts.near.lists.adjacent()
    heard_at = now - rng.random() * (ADJACENT_S if adjacent else EDGE_S)
    ours, theirs = one.parts.sessions.new_index(), other.parts.sessions.new_index()
    suite = one.identity.suite
    _have(world, one, other, Keypair(forth, back, False, ours, theirs, born_at, True, suite.aead), heard_at)
    _have(world, other, one, Keypair(back, forth, False, theirs, ours, born_at, False, suite.aead), heard_at)


def _have(world: World, one: Node, other: Node, keypair: Keypair, heard_at: float) -> None:
    """Give `one` its half of an edge to `other`."""
    parts, identity = one.parts, other.identity
    here, there = world.hosts[one.id], world.hosts[other.id]
    parts.handshakes.know(identity.member, identity.static_public)
    peer = parts.sessions.admit(identity.member, identity.static_public)
    peer.instance = other.parts.handshakes.instance
    peer.said(other.parts.handshakes.features, other.parts.handshakes.datagram_bytes)
    peer.declared = other.contact().endpoints
    peer.joined = peer.told_joined = peer.up = True
    parts.sessions.install(peer, keypair)
    if not keypair.initiator:
        peer.session.keep_only(keypair)  # the initiator has used it
    peer.came_by(there.endpoint, heard_at)
    peer.take(there.endpoint, heard_at)
    peer.heard_at = peer.wanted_at = heard_at
    peer.measured(2.0 * world.network.latency.one_way_s(here.place, there.place))
