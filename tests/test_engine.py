"""Virtual time: order, repeatability, and hosts that freeze and die."""

from __future__ import annotations

import gc
import weakref

import pytest

from dht.host import Endpoint
from sims.agenda import SWEEP_ABOVE
from sims.engine import START, Engine, HostState
from sims.errors import NeverHappened
from sims.latency import Constant
from sims.network import Network


def test_time_passes_only_from_event_to_event() -> None:
    engine = Engine(seed=1)
    seen: list[float] = []
    for delay_s in (2.0, 0.5, 1.0):
        engine.call_later(delay_s, lambda: seen.append(engine.now - START))
    engine.run_for(1.5)
    assert seen == [0.5, 1.0]
    assert engine.now == START + 1.5
    engine.run_until(START + 10)
    assert seen == [0.5, 1.0, 2.0]
    assert engine.now == START + 10


def test_running_to_an_instant_gone_by_does_nothing() -> None:
    engine = Engine(seed=1)
    engine.run_for(5.0)
    assert engine.run_until(START) == 0
    assert engine.now == START + 5


def test_events_of_one_instant_run_first_come_first_served() -> None:
    engine = Engine(seed=1)
    order: list[str] = []

    def note(what: str) -> None:
        order.append(what)
        if what == "timer":
            engine.post(0.0, note, "from within")

    engine.call_later(1.0, lambda: note("timer"))
    engine.post(1.0, note, "delivery")
    engine.call_later(1.0, lambda: note("another"))
    engine.run_for(1.0)
    assert order == ["timer", "delivery", "another", "from within"]


def test_a_run_stops_soon_after_its_goal_is_reached() -> None:
    engine = Engine(seed=1)
    count: list[int] = []

    def tick() -> None:
        count.append(1)
        engine.call_later(1.0, tick)

    tick()
    took_s = engine.run_until(lambda: len(count) >= 10, limit_s=60)
    assert 9.0 <= took_s <= 9.1 + 1e-6
    engine.run_until(lambda: len(count) >= 20, limit_s=60, check_every_s=0)
    assert (len(count), engine.now) == (20, START + 19)


def test_a_goal_that_holds_already_takes_no_time() -> None:
    engine = Engine(seed=1)
    assert engine.run_until(lambda: True, limit_s=0) == 0


@pytest.mark.parametrize("check_every_s", [0.0, 0.1])
def test_a_goal_that_never_comes_true_names_itself_and_the_seed(check_every_s: float) -> None:
    engine = Engine(seed=4711)
    engine.call_later(1.0, lambda: None)

    def ring_is_consistent() -> bool:
        return False

    with pytest.raises(NeverHappened, match=r"seed 4711: 'ring_is_consistent' .* 30 simulated seconds"):
        engine.run_until(ring_is_consistent, limit_s=30, check_every_s=check_every_s)
    assert engine.now == START + 30


def test_checks_run_after_every_event_and_not_for_cancelled_timers() -> None:
    engine = Engine(seed=1)
    instants: list[float] = []
    engine.after_event.append(lambda: instants.append(engine.now - START))
    engine.call_later(1.0, lambda: None)
    engine.call_later(2.0, lambda: None).cancel()
    engine.post(3.0, lambda: None)
    engine.run_for(5.0)
    assert instants == [1.0, 3.0]
    assert engine.events == 2


def test_an_error_in_an_event_reaches_whoever_runs_the_world() -> None:
    engine = Engine(seed=1)

    def fail() -> None:
        raise AssertionError("our own fault")

    engine.call_later(1.0, fail)
    with pytest.raises(AssertionError, match="our own fault"):
        engine.run_for(2.0)


def test_cancelled_timers_neither_pile_up_nor_hold_what_they_would_have_called() -> None:
    class Heavy:
        def run(self) -> None:
            raise AssertionError("was cancelled")

    engine = Engine(seed=1)
    kept = [engine.call_later(10.0, lambda: None) for _ in range(100)]
    heavy = Heavy()
    alive = weakref.ref(heavy)
    for _ in range(20 * SWEEP_ABOVE):
        engine.call_later(1000.0, heavy.run).cancel()
    del heavy
    gc.collect()
    assert alive() is None
    assert len(engine._agenda) <= len(kept) + 2 * SWEEP_ABOVE
    engine.run_for(2000.0)
    assert engine.events == 100


def gossip(seed: int, loss: float = 0.1) -> Engine:
    """A small lively world."""
    engine = Engine(seed)
    network = Network(engine, Constant(rtt_ms=30), loss=loss, duplicate=0.05, jitter_s=0.02)
    hosts = [network.host() for _ in range(20)]
    for host in hosts:

        def received(datagram: bytes, source: Endpoint, host=host) -> None:  # type: ignore[no-untyped-def]
            if len(datagram) > 1:
                host.call_later(host.rng.random() / 10, lambda: host.send(source, datagram[:-1]))

        host.on_receive(received)
        host.send(engine.rng.choice(hosts).endpoint, engine.rng.randbytes(50))
    engine.run_for(20)
    return engine


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_always_gives_the_same_run(seed: int) -> None:
    one, other = gossip(seed), gossip(seed)
    assert (one.trace_hash, one.events, one.rng.random()) == (other.trace_hash, other.events, other.rng.random())
    assert one.events > 100


def test_other_seeds_and_other_worlds_give_other_runs() -> None:
    assert len({gossip(seed).trace_hash for seed in range(5)} | {gossip(0, loss=0.2).trace_hash}) == 6


def test_asking_for_the_trace_hash_does_not_change_it() -> None:
    engine, other = Engine(seed=1), Engine(seed=1)
    for size in range(5000):
        engine.trace(1, 2, size)
        other.trace(1, 2, size)
        if size % 100 == 0:
            assert engine.trace_hash == engine.trace_hash
    assert engine.trace_hash == other.trace_hash != Engine(seed=1).trace_hash


def test_a_frozen_host_does_nothing_until_it_thaws_and_then_catches_up_in_order() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Constant(rtt_ms=20))
    alice, bob = network.host(), network.host()
    seen: list[str] = []
    bob.on_receive(lambda datagram, source: seen.append(datagram.decode()))
    for number in (3, 1, 2):
        bob.call_later(float(number), lambda number=number: seen.append(f"timer {number}"))  # type: ignore[misc]
    cancelled = bob.call_later(2.5, lambda: seen.append("cancelled"))
    network.freeze(bob)
    bob.send(alice.endpoint, b"a frozen process sends nothing")
    for number in range(3):
        alice.send(bob.endpoint, f"datagram {number}".encode())
    engine.run_for(10)
    cancelled.cancel()
    assert seen == []
    assert alice.received_datagrams == 0
    network.thaw(bob)
    assert seen == [], "called back synchronously"
    assert bob.now() == START + 10, "the clock goes on while a process is stopped"
    engine.run_for(0)
    assert seen == ["datagram 0", "datagram 1", "datagram 2", "timer 1", "timer 2", "timer 3"]


def test_a_host_frozen_again_before_it_has_caught_up_loses_nothing() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Constant(rtt_ms=20))
    alice, bob = network.host(), network.host()
    seen: list[str] = []
    bob.on_receive(lambda datagram, source: seen.append("datagram"))
    bob.call_later(1.0, lambda: seen.append("timer"))
    network.freeze(bob)
    alice.send(bob.endpoint, b"x")
    engine.run_for(5)
    network.thaw(bob)
    network.freeze(bob)
    engine.run_for(5)
    assert seen == []
    network.thaw(bob)
    network.thaw(bob)
    engine.run_for(1)
    assert seen == ["datagram", "timer"]


def test_the_socket_of_a_frozen_host_holds_only_so_much() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Constant(rtt_ms=20))
    alice, bob = network.host(), network.host()
    network.freeze(bob)
    for _ in range(300):
        alice.send(bob.endpoint, bytes(1000))
    engine.run_for(1)
    network.thaw(bob)
    engine.run_for(1)
    assert bob.received_datagrams == 212
    assert network.counters["unread"] == 88


def test_a_crashed_host_is_silent_for_good() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Constant(rtt_ms=20))
    alice, bob = network.host(), network.host()
    seen: list[str] = []
    bob.on_receive(lambda datagram, source: seen.append("datagram"))
    bob.call_later(0.5, lambda: seen.append("timer"))
    alice.send(bob.endpoint, b"under way")
    network.crash(bob)
    network.crash(bob)
    bob.call_later(1.0, lambda: seen.append("later timer"))
    bob.send(alice.endpoint, b"from the grave")
    network.thaw(bob)
    network.freeze(bob)
    engine.run_for(5)
    assert seen == []
    assert bob.state is HostState.DOWN
    assert alice.received_datagrams == 0


def test_a_host_frozen_and_then_crashed_never_wakes() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Constant(rtt_ms=20))
    bob = network.host()
    seen: list[str] = []
    bob.call_later(0.5, lambda: seen.append("timer"))
    network.freeze(bob)
    engine.run_for(1)
    network.crash(bob)
    network.thaw(bob)
    engine.run_for(1)
    assert seen == []
