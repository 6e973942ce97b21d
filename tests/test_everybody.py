"""Broadcasts, notices and crawls in a ring of real nodes, with sessions and all."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from dht.aggregate import About, Outcome, Reason
from dht.arcs import Arc, place_of
from dht.branch_messages import MAX_HOPS, Ask, Asked, Verdict
from dht.certificate import Member
from dht.counters import Greatest
from dht.crawl import Crawled, Sight, consistency
from dht.errors import BadDatagram
from dht.exchange import Incoming
from dht.node import MAIN_RING, Node, NodeConfig
from dht.notices import JOURNAL, MAX_AGE_S, MAX_NOTICE_BYTES, WINDOW, Notice, Notices, prove
from dht.packing import Fields, pack
from dht.storage import MemoryStorage
from sims.engine import Engine
from sims.everybody import constructed_world
from sims.latency import Constant
from sims.network import Network
from sims.plain import PLAIN
from sims.world import World
from tests.identities import START_S, make_identities

NODES = 60
CHANNEL = 9
TOPIC = "weather"


class Everybody:
    """A whole ring, and what its members hear."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        engine = Engine(seed)
        self.world = World(engine, Network(engine, Constant(50.0)), make_identities(NODES + 1, seed, now=START_S))
        for number in range(NODES):
            known = (engine.rng.randrange(0, number),) if number else ()
            self.world.start(number, known, NodeConfig(version="1.2.3"))
            engine.run_for(0.05)
        engine.run_until(self.world.whole, limit_s=60)
        engine.run_for(10)
        self.frames: Counter[tuple[int, bytes]] = Counter()
        self.notices: Counter[tuple[int, int, bytes]] = Counter()
        for node in self.nodes:
            node.broadcast.on(CHANNEL, partial(self._frames, node.id))
            node.notices.on(TOPIC, partial(self._notice, node.id))

    @property
    def nodes(self) -> list[Node]:
        return self.world.nodes

    def _frames(self, me: int, origin: int, payloads: Sequence[bytes]) -> None:
        self.frames.update((me, payload) for payload in payloads)

    def _notice(self, me: int, sender: Member, value: bytes) -> None:
        self.notices[me, sender.id, value] += 1

    def answer(self, begin: Callable[[Callable[[object], None]], None], limit_s: float = 60.0) -> object:
        answers: list[object] = []
        begin(answers.append)
        self.world.engine.run_until(lambda: bool(answers), limit_s=limit_s, check_every_s=0.01)
        return answers[0]

    def crawled(self, node: Node, deadline_s: float = 10.0) -> Crawled:
        found = self.answer(lambda done: node.crawls.crawl(done, deadline_s))
        assert isinstance(found, Crawled)
        return found

    def walked(self, node: Node, deadline_s: float = 60.0) -> Crawled:
        found = self.answer(lambda done: node.crawls.walk(done, deadline_s), deadline_s + 1)
        assert isinstance(found, Crawled)
        return found

    def told(self, node: Node, value: bytes, deadline_s: float = 20.0) -> Outcome[None]:
        outcome = self.answer(lambda done: node.notices.send(TOPIC, value, done, deadline_s))
        assert isinstance(outcome, Outcome)
        return outcome


@pytest.fixture(scope="module")
def everybody() -> Iterator[Everybody]:
    """One ring for all tests of this module that leave it as it was: making it takes most of the time."""
    yield Everybody(1)


def test_frames_reach_every_node_once(everybody: Everybody) -> None:
    sender = everybody.world.engine.rng.choice(everybody.nodes)
    before = sum(node.counters["broadcast_copies"] for node in everybody.nodes)
    sender.broadcast.send(CHANNEL, [b"one", b"two", b"x" * 5000])
    everybody.world.engine.run_for(2)
    for payload in (b"one", b"two", b"x" * 5000):
        hearers = [me for me, heard in everybody.frames if heard == payload]
        assert len(hearers) == NODES - 1 and sender.id not in hearers
    assert set(everybody.frames.values()) == {1}
    assert sum(node.counters["broadcast_copies"] for node in everybody.nodes) - before == 3 * (NODES - 1)


def test_a_notice_reaches_every_node_once_under_its_senders_name(everybody: Everybody) -> None:
    sender = everybody.nodes[7]
    outcome = everybody.told(sender, b"rain")
    assert (outcome.reached, outcome.missing) == (NODES, ())
    hearers = [me for (me, origin, value), times in everybody.notices.items() if value == b"rain" and times == 1]
    assert len(hearers) == NODES - 1 and sender.id not in hearers
    assert {origin for (_, origin, value) in everybody.notices if value == b"rain"} == {sender.id}


def test_notices_that_nobody_would_take_are_refused_where_they_are_sent(everybody: Everybody) -> None:
    notices = everybody.nodes[0].notices
    with pytest.raises(ValueError, match="at most"):
        notices.send(TOPIC, bytes(MAX_NOTICE_BYTES + 1))
    with pytest.raises(ValueError, match="topic"):
        notices.send("", b"")
    with pytest.raises(ValueError, match="taken"):
        notices.on(TOPIC, lambda sender, value: None)


def handed(victim: Node, liar: Node, raw: bytes, origin: int, label: int) -> None:
    """The liar hands the victim a notice for the victim's own place only. Raises BadDatagram."""
    place = place_of(victim.id)
    message = Ask(label, origin, Arc(place, place + 1), 3, 5000, "notice", raw)
    peer = victim.parts.sessions.peers[liar.id]
    handler = victim.parts.exchange._handlers[Ask.CODE][2]
    handler(Incoming(liar.id, peer, None, 1, lambda message: None), Ask.read(Fields.parse(pack(message.fields()))))


def neighbours(everybody: Everybody) -> tuple[Node, Node]:
    victim = everybody.nodes[11]
    successor = victim.ring_view().successors[0]
    return victim, next(node for node in everybody.nodes if node.id == successor)


def test_a_member_cannot_speak_in_anothers_name_nor_repeat_or_carry_over_what_it_said(everybody: Everybody) -> None:
    victim, liar = neighbours(everybody)
    honest = everybody.nodes[30]
    assert honest not in (victim, liar)
    now_us = int(everybody.world.engine.now * 1e6)
    true = Notice.sign(honest.identity, MAIN_RING, TOPIC, b"sun", now_us)
    handed(victim, liar, true, honest.id, 1)
    handed(victim, liar, true, honest.id, 2)  # again
    assert everybody.notices[victim.id, honest.id, b"sun"] == 1
    assert victim.counters["notice_repeated"] == 1
    forged = bytearray(true)
    forged[forged.index(b"sun")] ^= 1
    mine = Notice.sign(liar.identity, MAIN_RING, TOPIC, b"hail", now_us)
    other_ring = Notice.sign(honest.identity, "a group", TOPIC, b"fog", now_us)
    old = Notice.sign(honest.identity, MAIN_RING, TOPIC, b"snow", now_us - int((MAX_AGE_S + 1) * 1e6))
    for label, raw in enumerate((bytes(forged), mine, other_ring, old, true[:-1], true[:20], b""), start=3):
        with pytest.raises(BadDatagram):
            handed(victim, liar, raw, honest.id, label)
    assert not any(value in (b"hail", b"fog", b"snow") for (_, _, value) in everybody.notices)


def test_old_notices_stay_heard_when_the_window_has_moved_on() -> None:
    """However many new ones a member is made to forget the old ones for."""
    heard: list[bytes] = []
    identity = make_identities(1, 3, now=START_S)[0]
    notices = Notices.__new__(Notices)
    notices._heard, notices._counters = OrderedDict(), Counter()
    notices._greatest = Greatest(storage := MemoryStorage(), JOURNAL)
    notices._topics = {TOPIC: lambda sender, value: heard.append(value)}
    about = About(identity.member.id, 1, 1)
    for number in range(3 * WINDOW):
        notices._take(Notice(identity.member, TOPIC, 1000 + number, b"%d" % number), about)
    for number in range(3 * WINDOW):
        notices._take(Notice(identity.member, TOPIC, 1000 + number, b"again"), about)
    assert len(heard) == 3 * WINDOW and b"again" not in heard
    # Nor by a process that begins anew with what is on disk.
    notices._heard, notices._greatest = OrderedDict(), Greatest(storage, JOURNAL)
    for number in range(3 * WINDOW):
        notices._take(Notice(identity.member, TOPIC, 1000 + number, b"again"), about)
    notices._take(Notice(identity.member, TOPIC, 1000 + 3 * WINDOW, b"new"), about)
    assert len(heard) == 3 * WINDOW + 1 and heard[-1] == b"new"


def test_a_crawl_sees_every_node_as_it_is(everybody: Everybody) -> None:
    for node in everybody.world.engine.rng.sample(everybody.nodes, 3):
        crawled = everybody.crawled(node)
        assert crawled.complete and crawled.missing == ()
        assert [sight.id for sight in crawled.nodes] == sorted(each.id for each in everybody.nodes)
        assert crawled.consistency == 1.0
        for sight in crawled.nodes:
            seen = next(each for each in everybody.nodes if each.id == sight.id)
            view = seen.ring_view()
            assert (sight.successors, sight.predecessors, sight.fingers) == (
                view.successors,
                view.predecessors,
                view.fingers,
            )
            assert (sight.name, sight.version) == (seen.identity.member.name, "1.2.3")


def test_a_walk_sees_the_same_and_takes_many_times_as_long(everybody: Everybody) -> None:
    node = everybody.nodes[5]
    crawled, walked = everybody.crawled(node), everybody.walked(node)
    assert walked.complete and walked.nodes == crawled.nodes
    print(f"{NODES} nodes: tree {crawled.took_s:.2f} s, walk {walked.took_s:.2f} s")
    assert crawled.took_s <= walked.took_s / 5  # a tenth at 1,000 nodes: see sims.everybody


def test_a_walk_that_runs_out_of_time_says_how_far_it_came(everybody: Everybody) -> None:
    walked = everybody.walked(everybody.nodes[5], 0.5)
    assert 1 < len(walked.nodes) < NODES and not walked.complete
    assert walked.took_s == pytest.approx(0.5, abs=0.02)
    assert walked.missing[-1].reason is Reason.LATE


def test_the_index_counts_who_is_not_where_a_list_says() -> None:
    def sight(node_id: int, *predecessors: int) -> Sight:
        return Sight(node_id, "n", "", None, (), predecessors, (), 0)

    assert consistency([sight(1)]) == 1.0
    assert consistency([sight(1, 2), sight(2, 1)]) == 1.0
    ring = [sight(1, 4, 3), sight(2, 1, 4), sight(3, 2, 1), sight(4, 3, 2)]
    assert consistency(ring) == 1.0
    assert consistency([sight(1, 3, 2), *ring[1:]]) == 6 / 8
    assert consistency([sight(1), *ring[1:]]) == 6 / 8


@pytest.mark.parametrize("seed", [2])
def test_a_crawl_with_stalled_nodes_ends_in_time_and_names_them(seed: int) -> None:
    everybody = Everybody(seed)
    asker, *others = everybody.nodes
    stalled = {node.id for node in everybody.world.engine.rng.sample(others, NODES // 20)}
    for node_id in stalled:
        everybody.world.network.freeze(everybody.world.hosts[node_id])
    crawled = everybody.crawled(asker)
    print(f"seed {seed}: {crawled.took_s:.1f} s")
    assert crawled.took_s <= 10.0
    assert {sight.id for sight in crawled.nodes} == {node.id for node in everybody.nodes} - stalled
    assert {hole.id for hole in crawled.missing} == stalled
    outcome = everybody.told(asker, b"storm")
    assert outcome.reached == NODES - len(stalled), "a notice is repaired too"


@pytest.mark.parametrize("seed", [10, 15])
def test_a_crawl_of_a_larger_ring_misses_nobody_and_names_none_but_the_stalled(seed: int) -> None:
    """Parts of it, with the dead in them or empty, are in nobody's hands, and have to be looked into."""
    identities = make_identities(200, seed, now=START_S, suite=PLAIN)
    world = constructed_world(identities, 200, Constant(100.0), seed)
    asker = world.engine.rng.choice(world.nodes)
    stalled = {node.id for node in world.engine.rng.sample([each for each in world.nodes if each is not asker], 10)}
    for node_id in stalled:
        world.network.freeze(world.hosts[node_id])
    found: list[Crawled] = []
    asker.crawls.crawl(found.append)
    world.engine.run_until(lambda: bool(found), limit_s=11)
    assert {sight.id for sight in found[0].nodes} == {node.id for node in world.nodes} - stalled, f"seed {seed}"
    assert [hole.id for hole in found[0].missing if hole.id not in stalled] == [], f"seed {seed}"
    assert len(found[0].missing) == len(stalled), f"seed {seed}"


def test_a_ring_is_as_deep_as_promised(everybody: Everybody) -> None:
    def depth(node: Node, arc: Arc, hops: int) -> int:
        children = node.broadcast.children(arc)
        by_id = {each.id: each for each in everybody.nodes}
        return max([hops, *(depth(by_id[edge.id], part, hops + 1) for edge, part in children)])

    deepest = max(depth(node, Arc(place_of(node.id), place_of(node.id)), 0) for node in everybody.nodes[:10])
    assert deepest <= 1.5 * math.log2(NODES) < MAX_HOPS


def test_a_notice_proves_itself_or_is_refused() -> None:
    identity = make_identities(1, 5, now=START_S)[0]
    raw = Notice.sign(identity, "r", TOPIC, b"value", 12)
    notice = prove(identity.network, "r", raw)
    assert (notice.sender.id, notice.topic, notice.value, notice.sequence) == (identity.member.id, TOPIC, b"value", 12)
    for at in range(0, len(raw), 7):
        broken = bytearray(raw)
        broken[at] ^= 0x20
        with pytest.raises(BadDatagram):
            prove(identity.network, "r", bytes(broken))
    assert Asked(Verdict.TAKEN).fields() == {0: 0}
