"""When a peer is asked for a sign of life, doubted, given up or left alone: `dht.liveness` on a scripted node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from dht.host import Endpoint
from dht.liveness import (
    ADJACENT_S,
    EDGE_S,
    FRESH_S,
    GRAIN_S,
    IDLE_PEER_S,
    LAPSE_S,
    MAX_PAUSE_S,
    MIN_PROBE_S,
    PROBES,
    SLEPT_S,
    SUSPECT_AFTER_S,
    TICK_S,
    Liveness,
)
from dht.peer import FIRST_PATIENCE_S, Peer
from dht.sessions import Sessions
from sims.engine import Engine, HostState
from sims.latency import Constant
from sims.network import Network
from tests.identities import make_identities

SEED = 7
RTT_S = 0.1


class Watched:
    """A node whose peers answer probes after `rtt_s` while they are in `alive`. Notes what liveness says, and when."""

    def __init__(self, peers: int = 1) -> None:
        print(f"seed {SEED}")
        self.engine = Engine(SEED)
        self.host = Network(self.engine, Constant(100.0)).host()
        self.sessions = Sessions(self.host, lambda *_: None, lambda *_: None, Counter())
        self.liveness = Liveness(self.host, self.sessions)
        self.adjacent: tuple[int, ...] = ()
        self.wanted: set[int] = set()
        self.edge_s = EDGE_S
        self.rtt_s = RTT_S
        self.pings: list[tuple[float, int]] = []
        self.silences: defaultdict[int, list[float]] = defaultdict(list)  # before each, by peer
        self.said: list[tuple[str, float, int]] = []
        self.ticks = 0
        self.liveness.adjacent = lambda: self.adjacent
        self.liveness.edge_interval_s = lambda: self.edge_s
        self.liveness.interval_s = self._interval_s
        self.liveness.ping = self._ping
        self.liveness.suspected = lambda peer: self.said.append(("suspected", self.engine.now, peer.id))
        self.liveness.lost = self._lost
        self.liveness.slept = lambda gap_s: self.said.append(("slept", self.engine.now, round(gap_s)))
        self.peers = []
        for number, identity in enumerate(make_identities(peers, SEED)):
            peer = self.sessions.admit(identity.member, identity.static_public)
            peer.take(Endpoint("192.0.2.1", 1000 + number), self.engine.now)
            peer.up = True
            peer.rtt_s = RTT_S
            self.peers.append(peer)
        self.alive = {peer.id for peer in self.peers}
        self.wanted = set(self.alive)
        self.liveness.start()

    @property
    def peer(self) -> Peer:
        return self.peers[0]

    def _interval_s(self, peer: Peer) -> float | None:
        if peer.id in self.adjacent:
            return ADJACENT_S
        return self.edge_s if peer.id in self.wanted else None

    def _ping(self, peer: Peer) -> None:
        self.pings.append((self.engine.now, peer.id))
        self.silences[peer.id].append(self.engine.now - peer.path_heard_at)
        if peer.id in self.alive:
            self.engine.post(self.rtt_s, self._answered, peer)

    def _answered(self, peer: Peer) -> None:
        peer.heard_in_use(self.engine.now)
        self.liveness.answered()

    def _lost(self, peer: Peer, dead: bool) -> None:
        self.said.append(("dead" if dead else "lapsed", self.engine.now, peer.id))
        self.sessions.remove(peer)

    def when(self, what: str) -> float:
        """When it was said, the first time."""
        return next(at for said, at, _ in self.said if said == what)

    def every(self, pause_s: float, action: Callable[[], object]) -> None:
        """Do something again and again."""

        def again() -> None:
            action()
            self.engine.post(pause_s, again)

        self.engine.post(pause_s, again)


def test_an_idle_edge_is_probed_once_an_interval_and_an_adjacent_one_more_often() -> None:
    node = Watched(2)
    node.adjacent = (node.peers[1].id,)
    node.engine.run_for(300.0)
    assert node.said == []
    # What is due waits at most for the next tick.
    for peer, interval_s in zip(node.peers, (EDGE_S, ADJACENT_S), strict=True):
        silences = node.silences[peer.id]
        assert silences
        assert all(interval_s - GRAIN_S <= silent_s <= interval_s + TICK_S for silent_s in silences), silences


def test_who_is_heard_is_not_probed() -> None:
    node = Watched()
    node.adjacent = (node.peer.id,)
    node.every(ADJACENT_S - 0.1, lambda: node.peer.heard_in_use(node.engine.now))
    node.engine.run_for(200.0)
    assert node.pings == [] and node.said == []


def test_a_dead_adjacent_peer_is_lost_within_six_seconds() -> None:
    for after_s in (0.0, 0.3, 1.7, 3.9):
        node = Watched()
        node.adjacent = (node.peer.id,)
        node.engine.run_for(20.0 + after_s)
        node.alive.clear()
        died_at = node.engine.now
        node.engine.run_for(10.0)
        assert [said for said, _, _ in node.said] == ["suspected", "dead"]
        assert node.when("dead") - died_at <= 6.0
        assert len([at for at, _ in node.pings if at >= node.when("suspected") - 1.0]) >= PROBES - 1


@pytest.mark.parametrize("after_s", [5.0, 5.4, 5.9, 6.3])
def test_what_is_unanswered_is_asked_for_soon_though_the_interval_is_long(after_s: float) -> None:
    node = Watched()
    node.engine.run_for(after_s)
    node.alive.clear()
    asked_at = node.engine.now
    node.sessions.sent(node.peer, 100, asked_at)
    node.engine.run_for(10.0)
    first = node.pings[0][0]
    assert SUSPECT_AFTER_S <= first - asked_at <= SUSPECT_AFTER_S + TICK_S
    assert node.when("dead") - first <= PROBES * (MIN_PROBE_S + TICK_S)


def test_an_answer_in_time_leaves_everybody_in_peace() -> None:
    node = Watched()
    node.engine.run_for(5.0)
    for _ in range(40):
        node.sessions.sent(node.peer, 100, node.engine.now)
        node.engine.run_for(0.5)
        node.peer.heard_in_use(node.engine.now)
        node.engine.run_for(0.1)
    assert node.pings == [] and node.said == []


def test_who_becomes_adjacent_is_watched_as_such_at_once() -> None:
    node = Watched()
    node.engine.run_for(10.0)
    node.adjacent = (node.peer.id,)
    node.engine.run_for(MAX_PAUSE_S + TICK_S)
    assert len(node.pings) == 1  # silent for longer than an adjacent peer may be
    node.alive.clear()
    node.engine.run_for(6.0)
    assert [said for said, _, _ in node.said] == ["suspected", "dead"]


def test_a_shorter_interval_counts_at_once() -> None:
    node = Watched()
    node.engine.run_for(20.0)
    node.edge_s = 10.0
    node.engine.run_for(MAX_PAUSE_S + TICK_S)
    assert len(node.pings) == 1


def test_an_edge_that_nobody_wants_lapses_before_a_nat_forgets_it() -> None:
    node = Watched()
    node.wanted.clear()
    began = node.engine.now
    node.engine.run_for(60.0)
    assert node.pings == [] and [said for said, _, _ in node.said] == ["lapsed"]
    assert LAPSE_S <= node.when("lapsed") - began <= LAPSE_S + TICK_S


def test_an_edge_that_is_wanted_again_before_it_lapses_is_probed_instead() -> None:
    node = Watched()
    node.wanted.clear()
    node.engine.run_for(EDGE_S + 1.0)
    node.wanted.add(node.peer.id)
    node.engine.run_for(2 * TICK_S)
    assert len(node.pings) == 1 and node.said == []
    node.engine.run_for(20.0)
    assert node.said == []


def test_a_peer_without_an_edge_is_forgotten_when_long_idle_unless_a_group_asks() -> None:
    node = Watched(2)
    idle, asked = node.peers
    for peer in node.peers:
        peer.take(None, node.engine.now)
    node.engine.run_for(EDGE_S)
    node.liveness.overlay_interval_s = lambda peer: EDGE_S if peer is asked else None
    node.engine.run_for(IDLE_PEER_S + EDGE_S)
    assert idle.id not in node.sessions.peers and asked.id in node.sessions.peers
    assert {node_id for _, node_id in node.pings} == {asked.id}
    assert len(node.pings) == pytest.approx(IDLE_PEER_S / EDGE_S, abs=2)


def test_who_never_came_up_is_forgotten() -> None:
    node = Watched()
    node.peer.up = False
    node.engine.run_for(IDLE_PEER_S + TICK_S + MAX_PAUSE_S)
    assert node.sessions.peers == {} and node.pings == [] and node.said == []


@pytest.mark.parametrize("after_s", [10.0, 10.5, 11.1, 11.6])
def test_who_is_entrusted_with_a_question_is_doubted_within_two_round_trips(after_s: float) -> None:
    node = Watched()
    node.engine.run_for(after_s)
    node.alive.clear()
    entrusted_at = node.engine.now
    node.liveness.entrust(node.peer)
    node.engine.run_for(10.0)
    assert node.when("suspected") - entrusted_at == pytest.approx(2 * RTT_S, abs=1e-6)
    assert node.when("dead") - entrusted_at <= MIN_PROBE_S + PROBES * TICK_S + GRAIN_S


@pytest.mark.parametrize("far_s", [0.3, 0.6, 0.95])
def test_who_is_far_and_was_never_pinged_is_not_doubted_for_it(far_s: float) -> None:
    node = Watched()
    node.rtt_s, node.peer.rtt_s = far_s, None  # it shook hands with us, so only it knows how far away we are
    node.engine.run_for(FRESH_S)
    node.liveness.entrust(node.peer)
    node.engine.run_for(EDGE_S - 1.0)
    assert len(node.pings) == 1 and node.said == []


def test_who_dies_before_it_was_pinged_is_doubted_all_the_same() -> None:
    node = Watched()
    node.peer.rtt_s = None
    node.alive.clear()
    node.engine.run_for(FRESH_S)
    entrusted_at = node.engine.now
    node.liveness.entrust(node.peer)
    node.engine.run_for(30.0)
    assert node.when("suspected") - entrusted_at == pytest.approx(FIRST_PATIENCE_S, abs=1e-6)
    assert node.when("dead") - entrusted_at <= PROBES * (FIRST_PATIENCE_S + TICK_S) + GRAIN_S


def test_who_answers_now_sooner_now_later_is_given_the_time() -> None:
    node = Watched()
    steady_s = node.peer.patience_s(0.0)
    assert steady_s == 2 * RTT_S
    for _ in range(20):
        node.peer.measured(RTT_S)
    assert node.peer.patience_s(0.0) == pytest.approx(steady_s), "what never varies is as before"
    for _ in range(20):
        for rtt_s in (0.05, 0.05, 0.05, 0.65):
            node.peer.measured(rtt_s)
    assert 0.65 < node.peer.patience_s(0.0) < 2.0
    assert node.peer.patience_s(3.0) == 3.0
    for _ in range(20):
        for rtt_s in (0.05, 1.95):
            node.peer.measured(rtt_s)
    assert node.peer.patience_s(0.0) <= 2.5, "nobody is waited for for ever"
    for _ in range(60):
        node.peer.measured(RTT_S)
    assert node.peer.patience_s(0.0) == pytest.approx(steady_s, rel=0.01)


def test_a_machine_that_slept_is_told_so_and_one_that_was_slow_is_not() -> None:
    for pause_s, slept in ((SLEPT_S + 3.0, True), (SLEPT_S - 3.0, False)):
        node = Watched()
        node.engine.run_for(10.0)
        node.host.halt(HostState.FROZEN)
        node.engine.run_for(pause_s)
        node.host.thaw()
        node.engine.run_for(1.0)
        assert any(said == "slept" for said, _, _ in node.said) is slept


def test_a_hundred_idle_peers_cost_hardly_more_ticks_than_one() -> None:
    ticks = []
    for count in (1, 100):
        node = Watched(count)
        node.engine.run_for(60.0)
        before, asked = node.engine.events, len(node.pings)
        node.engine.run_for(270.0)
        pings = len(node.pings) - asked
        assert pings == pytest.approx(count * 270.0 / (EDGE_S + RTT_S), abs=count)
        ticks.append(node.engine.events - before - pings)  # every answer was an event too
        print(f"{count} peers: {ticks[-1]} ticks, {pings} pings")
    # A ping may come between two pauses; no second tick looks whether it was answered.
    assert ticks[0] <= 270.0 / MAX_PAUSE_S + 270.0 / EDGE_S + 2
    assert ticks[1] <= 270.0 / TICK_S


def test_a_peer_that_is_heard_wakes_nobody() -> None:
    node = Watched()
    node.adjacent = (node.peer.id,)
    node.every(0.9, lambda: node.peer.heard_in_use(node.engine.now))
    node.engine.run_for(60.0)
    before = node.engine.events
    node.engine.run_for(270.0)
    ticks = node.engine.events - before - round(270.0 / 0.9)
    assert node.pings == [] and ticks <= 270.0 / MAX_PAUSE_S + 2
