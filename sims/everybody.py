"""What reaching everybody costs in a ring of product nodes: broadcasts against unicast, crawls against walks, churn.

Rings are constructed whole (`sims.constructed`), or live through a trace of comings and goings. All is judged from
above: who was up throughout, who heard what, how deep the tree was. Prints nothing; `sims.figures` does.
Trace: phones' availability, STUNner 2014 (Gossip-Learning-Framework, res/trace); a line is user, first state, start in
ms, time zone, then alternating durations in ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dht.aggregate import Outcome
from dht.arcs import Arc, place_of
from dht.certificate import Member
from dht.crawl import Crawled
from dht.identity import Identity
from dht.node import Node
from sims.churn import Transition
from sims.constructed import construct
from sims.engine import Engine
from sims.latency import Latency
from sims.link import AccessLink
from sims.network import Network
from sims.world import World

CHANNEL = 200
TOPIC = "figure"
UPLINK_BITS_PER_S = 10e6
QUEUE_BYTES = 8 << 20  # a unicast fan-out waits in it as a whole
PAYLOAD_BYTES = 1200
SETTLE_S = 10.0
SESSION_BYTES = 32  # around every plaintext
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Spread:
    """One broadcast. `took_s`: until the last member had it; `unicast_s`: the same for one datagram to each, from one
    uplink; `copies`: datagrams in all; `depth`: hops of the deepest branch; `once`: every member had it, and once."""

    took_s: float
    unicast_s: float
    copies: int
    depth: int
    once: bool


def constructed_world(
    identities: Sequence[Identity], nodes: int, latency: Latency, seed: int, link: AccessLink | None = None
) -> World:
    """A settled ring."""
    engine = Engine(seed)
    world = World(engine, Network(engine, latency), identities)
    construct(world, nodes)
    if link is not None:
        for host in world.network.hosts():
            world.network.limit(host, link)
    engine.run_for(SETTLE_S)
    return world


def broadcasts(
    identities: Sequence[Identity], nodes: int, latency: Latency, seed: int, count: int, fan_out: int | None = None
) -> list[Spread]:
    """Broadcast frames of PAYLOAD_BYTES from `count` random members over uplinks of UPLINK_BITS_PER_S."""
    link = AccessLink(UPLINK_BITS_PER_S, UPLINK_BITS_PER_S, QUEUE_BYTES)
    world = constructed_world(identities, nodes, latency, seed, link)
    heard: dict[int, list[float]] = {}

    def hear(me: int, origin: int, payloads: Sequence[bytes]) -> None:
        heard.setdefault(me, []).extend([world.engine.now] * len(payloads))

    for node in world.nodes:
        node.broadcast.on(CHANNEL, partial(hear, node.id))
        if fan_out is not None:
            node.broadcast.fan_out = fan_out
    spreads = []
    for sender in world.engine.rng.sample(world.nodes, count):
        heard.clear()
        before, began = _copies(world), world.engine.now
        sender.broadcast.send(CHANNEL, [bytes(PAYLOAD_BYTES)])
        world.engine.run_for(LIMIT_S / 3)
        times = [at for each in heard.values() for at in each]
        spreads.append(
            Spread(
                max(times) - began,
                unicast_s(world, sender, latency, link),
                _copies(world) - before,
                _depth(world, sender),
                len(heard) == len(times) == nodes - 1 and sender.id not in heard,
            )
        )
    return spreads


def unicast_s(world: World, sender: Node, latency: Latency, link: AccessLink) -> float:
    """How long one datagram with the payload takes to each other member, from one uplink; no headers of broadcasts, and
    every session there already: the best that a fan-out can do."""
    engine = Engine(world.engine.seed)
    network = Network(engine, latency)
    hosts = {node.id: network.host(place=world.hosts[node.id].place) for node in world.nodes}
    came: list[float] = []
    for node_id, host in hosts.items():
        network.limit(host, link)
        if node_id != sender.id:
            host.on_receive(lambda datagram, source: came.append(engine.now))
    began = engine.now
    for node_id, host in hosts.items():
        if node_id != sender.id:
            hosts[sender.id].send(host.endpoint, bytes(1 + PAYLOAD_BYTES + SESSION_BYTES))
    engine.run_for(LIMIT_S)
    assert len(came) == len(hosts) - 1
    return max(came) - began


def _copies(world: World) -> int:
    return sum(node.counters["broadcast_copies"] for node in world.nodes)


def _depth(world: World, sender: Node) -> int:
    nodes = {node.id: node for node in world.nodes}
    level = [(sender, Arc(place_of(sender.id), place_of(sender.id)))]
    depth = -1
    while level:
        depth += 1
        level = [(nodes[edge.id], part) for node, arc in level for edge, part in node.broadcast.children(arc)]
    return depth


@dataclass(frozen=True, slots=True)
class Crawls:
    """One ring crawled by tree, walked, and crawled with some nodes frozen. `named`: whether exactly those were
    missing."""

    tree: Crawled
    walk: Crawled | None
    stalled: Crawled
    frozen: int
    named: bool


def crawls(
    identities: Sequence[Identity],
    nodes: int,
    latency: Latency,
    seed: int,
    *,
    stalled: float = 0.05,
    deadline_s: float = 10.0,
    walk: bool = True,
) -> Crawls:
    """Crawl a settled ring from a random member."""
    world = constructed_world(identities, nodes, latency, seed)
    engine = world.engine
    node = engine.rng.choice(world.nodes)
    found: list[Crawled] = []
    node.crawls.crawl(found.append, deadline_s)
    engine.run_until(lambda: len(found) == 1, limit_s=deadline_s + 1, check_every_s=0.01)
    if walk:
        node.crawls.walk(found.append, 600.0)
        engine.run_until(lambda: len(found) == 2, limit_s=601.0)
    others = [each for each in world.nodes if each is not node]
    frozen = engine.rng.sample(others, round(stalled * nodes))
    for each in frozen:
        world.network.freeze(world.hosts[each.id])
    count = len(found)
    node.crawls.crawl(found.append, deadline_s)
    engine.run_until(lambda: len(found) > count, limit_s=deadline_s + 1, check_every_s=0.01)
    ids = {each.id for each in frozen}
    last = found[-1]
    named = {hole.id for hole in last.missing} == ids and len(last.nodes) == nodes - len(ids)
    return Crawls(found[0], found[1] if walk else None, last, len(ids), named)


@dataclass(frozen=True, slots=True)
class Churned:
    """Broadcasts in a ring under churn. Of all pairs of a broadcast and a member that was up from a while before it to
    a while after, `due`, how many got it as a frame and as a notice; `up`: members that were up, on average."""

    broadcasts: int
    up: float
    due: int
    frames: int
    notices: int
    repeated: int


def under_churn(
    identities: Sequence[Identity],
    latency: Latency,
    seed: int,
    changes: Sequence[Transition],
    *,
    duration_s: float,
    every_s: float = 15.0,
    before_s: float = 30.0,
    after_s: float = 20.0,
) -> Churned:
    """Start and crash nodes as `changes` says, and let a random member broadcast now and then."""
    engine = Engine(seed)
    world = World(engine, Network(engine, latency), identities)
    by_number: dict[int, Node] = {}
    since: dict[int, float] = {}
    got: dict[tuple[str, bytes], list[int]] = {}

    def frame(me: int, origin: int, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            got.setdefault(("frame", payload), []).append(me)

    def notice(me: int, sender: Member, value: bytes) -> None:
        got.setdefault(("notice", value), []).append(me)

    def change(number: int, up: bool) -> None:
        if up and number not in by_number:
            node = world.start(number, tuple(engine.rng.sample(sorted(by_number), min(3, len(by_number)))))
            node.broadcast.on(CHANNEL, partial(frame, node.id))
            node.notices.on(TOPIC, partial(notice, node.id))
            by_number[number], since[node.id] = node, engine.now
        elif not up and number in by_number and len(by_number) > 1:
            node = by_number.pop(number)
            del since[node.id]
            world.crash(node)

    began = engine.now
    for at, number, up in changes:
        engine.post(at if at > 0 else 0.05 * number, change, number, up)
    engine.run_for(max(60.0, 0.05 * len(identities) + 30.0))
    due: list[tuple[bytes, int, set[int], int]] = []
    outcomes: list[Outcome[None]] = []
    sent: list[bytes] = []
    while engine.now - began < duration_s:
        senders = [node for node in by_number.values() if node.member and engine.now - since[node.id] > before_s]
        if not senders:
            engine.run_for(every_s)
            continue
        sender = engine.rng.choice(senders)
        payload = b"%d" % len(sent)
        sent.append(payload)
        there = {
            node.id for node in by_number.values() if node is not sender and engine.now - since[node.id] > before_s
        }
        stamps = dict(since)
        present = len(by_number)
        sender.broadcast.send(CHANNEL, [payload])
        sender.notices.send(TOPIC, payload, outcomes.append)
        engine.run_for(after_s)
        if sender.id in since:  # a sender that died mid-way had no chance
            stayed = {node_id for node_id in there if since.get(node_id) == stamps[node_id]}
            due.append((payload, sender.id, stayed, present))
        engine.run_for(max(0.0, every_s - after_s))
    frames = sum(len(stayed & set(got.get(("frame", payload), ()))) for payload, _, stayed, _ in due)
    notices = sum(len(stayed & set(got.get(("notice", payload), ()))) for payload, _, stayed, _ in due)
    repeated = sum(len(each) - len(set(each)) for each in got.values())
    total = sum(len(stayed) for _, _, stayed, _ in due)
    return Churned(len(due), sum(up for *_, up in due) / max(1, len(due)), total, frames, notices, repeated)
