"""What a member with a valid certificate and bad intentions can do to others: nothing that lasts."""

from __future__ import annotations

from dht.contact import Contact
from dht.envelope import HOP_LIMIT, Content, Envelope, Inner, Mode
from dht.exchange import Way
from dht.host import Endpoint
from dht.messages import (
    ConnectToMe,
    DuplicateIdentity,
    FindFor,
    Kind,
    Message,
    Neighbors,
    Ping,
    Pong,
    Store,
    Stored,
    Unreachable,
    pack_control,
)
from dht.node import Node, PingResult, PutResult
from dht.overlay import MAX_FINDS_A_PEER
from dht.peer import Peer
from dht.records import Record, address_name
from dht.upkeep import ALARM_LASTS_S
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities


def make_ring(nodes: int, seed: int) -> World:
    engine = Engine(seed)
    world = World(engine, Network(engine, Constant(50.0)), make_identities(nodes + 2, seed, now=START_S))
    world.grow(nodes, gap_s=0.05)
    engine.run_for(5)
    return world


def session(world: World, liar: Node, victim: Node) -> Peer:
    """The liar's edge to the victim, made if there is none."""
    contact = Contact(victim.id, victim.identity.static_public, victim.contact().endpoints)
    liar._parts.linker.link(contact)
    world.engine.run_for(1)
    return liar._parts.sessions.peers[victim.id]


def tell(liar: Node, peer: Peer, message: Message, kind: Kind = Kind.TELL, transaction: int = 0) -> None:
    liar._parts.sessions.send(peer, bytes((Inner.CONTROL,)) + pack_control(message, kind, transaction))


def route(liar: Node, source: int, target: int, message: Message) -> None:
    """Send a routed message in somebody else's name."""
    hop = liar._parts.router.next_hop(target, Mode.EXACT)
    assert hop is not None
    envelope = Envelope(HOP_LIMIT, Mode.EXACT, Content.CONTROL, source, target, pack_control(message, Kind.TELL))
    hop.send(bytes((Inner.ROUTED,)) + envelope.pack())


def pings(world: World, node: Node, target: Node, count: int = 5) -> int:
    """How many of `count` pings, a second apart, were answered."""
    answers: list[PingResult | None] = []
    for _ in range(count):
        node.ping(target.id, answers.append)
        world.engine.run_for(1.0)
    world.engine.run_for(5)
    return sum(answer is not None for answer in answers)


def strangers_in(world: World) -> tuple[Node, Node]:
    """Two nodes without an edge between them."""
    for one in world.nodes[1:]:
        for other in world.nodes[1:]:
            if one is not other and other.id not in one._parts.sessions.peers:
                return one, other
    raise AssertionError("every node has an edge to every other")


def test_a_plaintext_too_long_to_pass_on_is_refused_where_it_comes_in() -> None:
    world = make_ring(12, 1)
    liar, victim = world.nodes[3], world.nodes[7]
    peer = session(world, liar, victim)
    envelope = Envelope(HOP_LIMIT, Mode.EXACT, Content.SEALED, liar.id, world.nodes[5].id, bytes(20_000))
    before = victim.counters["bad_datagram"]
    liar._host.send(victim.contact().endpoints[0], peer.session.seal(b"\x02" + envelope.pack(), world.engine.now))
    world.engine.run_for(1)
    assert victim.counters["bad_datagram"] == before + 1


def test_questions_asked_for_others_leave_room_for_our_own() -> None:
    world = make_ring(20, 2)
    liar, victim = world.nodes[3], world.nodes[7]
    peer = session(world, liar, victim)
    answer = liar._parts.exchange._handlers.pop(3)  # the liar leaves every Find for itself without an answer
    for _ in range(50):
        for number in range(200):
            tell(liar, peer, FindFor(liar.id), Kind.ASK, number)
        world.engine.run_for(0.1)
        assert victim._parts.exchange._requests.pending <= MAX_FINDS_A_PEER + 64
    liar._parts.exchange._handlers[3] = answer
    assert victim.counters["find_for_refused"] > 5000
    assert victim.counters["edge_lost"] == 0
    assert world.whole()


def test_a_keeper_that_lies_about_sequences_cannot_silence_an_owner() -> None:
    world = make_ring(3, 3)
    owner = world.nodes[1]
    for liar in (world.nodes[0], world.nodes[2]):
        liar._parts.replicas.asked_to_store = lambda message: Stored(2, (1 << 64) - 1)  # type: ignore[method-assign]
    results: list[PutResult] = []
    for number in range(20):
        owner.put(f"name {number}", b"value", 60.0, results.append)
    world.engine.run_for(60)
    assert len(results) == 20, "every put is answered"
    for number in range(20):
        owner.withdraw(f"name {number}")


def test_a_contact_with_a_wrong_key_does_not_stand_in_for_the_right_one() -> None:
    world = make_ring(40, 4)
    one, other = strangers_in(world)
    liar = next(node for node in world.nodes if node not in (one, other))
    rng = world.engine.rng

    def lie() -> None:
        if liar._parts.router.next_hop(one.id, Mode.EXACT) is not None:
            wrong = Contact(other.id, rng.randbytes(32), (Endpoint("198.18.9.9", 9),))
            route(liar, other.id, one.id, ConnectToMe(wrong))

    for step in range(60):
        world.engine.call_later(0.2 * step, lie)
    assert pings(world, one, other) == 5


def test_a_contact_with_a_key_of_low_order_is_dropped_and_leaves_nothing_behind() -> None:
    world = make_ring(12, 5)
    liar, victim = world.nodes[3], world.nodes[7]
    peer = session(world, liar, victim)
    poisoned = Contact(victim.id + 1, bytes(32), (Endpoint("198.18.9.9", 9),))
    tell(liar, peer, Neighbors(True, liar.contact(), (poisoned,), (poisoned,)))
    world.engine.run_for(10)
    assert victim.counters["bad_contact"] >= 1
    assert not victim._parts.handshakes.pending(poisoned.id)
    world.start(12)
    assert world.engine.run_until(world.whole, limit_s=30) <= 10.0


def test_who_did_not_see_a_handshake_cannot_call_it_unreachable() -> None:
    world = make_ring(40, 6)
    one, other = strangers_in(world)
    liar = next(node for node in world.nodes if node not in (one, other))
    rng = world.engine.rng

    def lie() -> None:
        if liar._parts.router.next_hop(one.id, Mode.EXACT) is not None:
            route(liar, world.nodes[0].id, one.id, Unreachable(other.id, b"\x11\x01\0\0" + rng.randbytes(4)))

    for step in range(500):
        world.engine.call_later(0.02 * step, lie)
    assert pings(world, one, other) == 5


def test_one_peer_alone_cannot_make_a_node_advertise_somebody_elses_address() -> None:
    world = make_ring(12, 7)
    liar, victim = world.nodes[3], world.nodes[7]
    session(world, liar, victim)
    lie = Endpoint("203.0.113.9", 4444)
    liar._parts.exchange._handlers.pop(1)
    liar._parts.exchange.handle(Ping, Way.SESSION, lambda incoming, message: Pong(True, lie, 1))
    for _ in range(20):
        victim._parts.liveness.probe(victim._parts.sessions.peers[liar.id])
        world.engine.run_for(1)
    assert lie not in victim.contact().endpoints


def test_a_clock_that_lies_moves_nobodys_time() -> None:
    world = make_ring(6, 8)
    victim, liar = world.nodes[2], world.nodes[4]
    victim._parts.sessions.peers[liar.id].clock_offset_s = 30 * 86400.0
    assert victim._parts.reach.network_time() == world.engine.now


def test_a_false_alarm_about_our_identity_lapses() -> None:
    world = make_ring(6, 9)
    liar, victim = world.nodes[2], world.nodes[4]
    tell(liar, session(world, liar, victim), DuplicateIdentity(Endpoint("203.0.113.9", 1)))
    world.engine.run_for(1)
    assert victim.alarm is not None
    world.engine.run_for(ALARM_LASTS_S)
    assert victim.alarm is None


def test_a_record_for_an_address_that_its_owner_does_not_hold_changes_nothing() -> None:
    world = make_ring(12, 10)
    liar, owner, reader = world.nodes[3], world.nodes[5], world.nodes[9]
    name = address_name(owner.identity.member.address4)
    results: list[PutResult] = []
    owner.put(name, b"mine", 3600.0, results.append)
    world.engine.run_for(3)
    assert results[0].ok
    honest = Record.sign(owner.identity, name, b"mine", 1, int(world.engine.now) + 3600)
    forged = bytearray(honest.raw)
    at = forged.index(b"mine")
    forged[at : at + 4] = b"evil"
    for node in world.nodes:
        if node is not liar:
            tell(liar, session(world, liar, node), Store(honest.key, bytes(forged), True), Kind.ASK, 1)
    world.engine.run_for(3)
    read: list[bytes] = []
    reader.get(name, lambda result: read.extend(record.value for record in result.records))
    world.engine.run_for(5)
    assert read == [b"mine"]
