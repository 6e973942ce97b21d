"""What the simulated network does to datagrams, and what it counts."""

from __future__ import annotations

import pytest

from dht.host import Endpoint
from sims.engine import START, Engine, SimHost
from sims.latency import Constant, Matrix
from sims.network import Network


class World:
    """A network and its hosts, each with a list of (seconds since the start, datagram, source)."""

    def __init__(self, hosts: int, seed: int = 1, loss: float = 0.0, duplicate: float = 0.0, jitter_s: float = 0.0):
        self.engine = Engine(seed)
        self.network = Network(self.engine, Constant(rtt_ms=100), loss=loss, duplicate=duplicate, jitter_s=jitter_s)
        self.inbox: dict[SimHost, list[tuple[float, bytes, Endpoint]]] = {}
        self.hosts = [self.add(self.network.host()) for _ in range(hosts)]

    def add(self, host: SimHost) -> SimHost:
        inbox = self.inbox[host] = []
        host.on_receive(lambda datagram, source: inbox.append((self.engine.now - START, datagram, source)))
        return host

    def reaches(self, a: SimHost, b: SimHost) -> bool:
        before = b.received_datagrams
        a.send(b.endpoint, b"are you there?")
        self.engine.run_for(1.0)
        return b.received_datagrams > before


def test_a_datagram_takes_half_a_round_trip() -> None:
    world = World(hosts=2)
    alice, bob = world.hosts
    alice.send(bob.endpoint, b"hello")
    assert world.inbox[bob] == []
    world.engine.run_for(1.0)
    ((at, datagram, source),) = world.inbox[bob]
    assert at == pytest.approx(0.05, abs=1e-6)
    assert (datagram, source) == (b"hello", alice.endpoint)


def test_even_without_latency_nothing_arrives_synchronously() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Constant(rtt_ms=0))
    alice = network.host()
    seen: list[bytes] = []
    alice.on_receive(lambda datagram, source: seen.append(datagram))
    alice.send(alice.endpoint, b"to myself")
    assert seen == []
    engine.run_for(0)
    assert seen == [b"to myself"]


def test_bytes_are_counted_with_their_headers_whatever_becomes_of_them() -> None:
    world = World(hosts=2)
    alice, bob = world.hosts
    alice.send(bob.endpoint, bytes(100))
    alice.send(Endpoint("192.0.2.9", 9), bytes(10))
    world.engine.run_for(1.0)
    assert (alice.sent_datagrams, alice.sent_bytes) == (2, 100 + 10 + 2 * 28)
    assert (bob.received_datagrams, bob.received_bytes) == (1, 128)
    assert world.network.counters == {"unaddressed": 1}
    carol = world.network.host(Endpoint("2001:db8::1", 7000))
    carol.send(Endpoint("2001:db8::2", 7000), bytes(100))
    assert carol.sent_bytes == 148


def test_hosts_get_addresses_of_their_own_that_are_never_used_again() -> None:
    world = World(hosts=300)
    assert len({host.endpoint for host in world.hosts}) == 300
    assert world.hosts[0].endpoint == Endpoint("10.0.0.1", 7000)
    assert world.hosts[255].endpoint == Endpoint("10.0.1.0", 7000)
    world.network.crash(world.hosts[7])
    assert world.network.host().endpoint not in {host.endpoint for host in world.hosts}


def test_two_hosts_cannot_live_at_one_endpoint() -> None:
    world = World(hosts=2)
    alice, bob = world.hosts
    with pytest.raises(ValueError, match=r"already lives at 10\.0\.0\.1:7000"):
        world.network.host(alice.endpoint)
    with pytest.raises(ValueError, match="already lives"):
        world.network.move(bob, alice.endpoint)


def test_the_network_knows_who_lives_where() -> None:
    world = World(hosts=3)
    alice, bob, carol = world.hosts
    assert world.network.at(bob.endpoint) is bob
    world.network.crash(bob)
    assert world.network.at(bob.endpoint) is None
    assert world.network.hosts() == [alice, carol]


def test_a_restarted_host_is_where_it_was_and_gets_what_was_meant_for_its_former_self() -> None:
    engine = Engine(seed=1)
    network = Network(engine, Matrix([[0, 10, 300], [10, 0, 300], [300, 300, 0]]))
    alice, _, carol = network.host(), network.host(), network.host()
    assert [alice.place, carol.place] == [0, 2]
    carol.send(alice.endpoint, b"under way while it restarts")
    network.crash(alice)
    again = network.host(alice.endpoint)
    assert (again.place, again.index) == (0, 3)
    seen: list[bytes] = []
    again.on_receive(lambda datagram, source: seen.append(datagram))
    engine.run_for(1.0)
    assert seen == [b"under way while it restarts"]
    assert alice.received_datagrams == 0


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_duplicates_come_as_often_as_asked(seed: int) -> None:
    world = World(hosts=2, seed=seed, loss=0.2, duplicate=0.1)
    alice, bob = world.hosts
    for _ in range(10_000):
        alice.send(bob.endpoint, b"x")
    world.engine.run_for(1.0)
    assert bob.received_datagrams == pytest.approx(10_000 * 1.1 * 0.8, rel=0.03)
    assert world.network.counters["lost"] == pytest.approx(2200, rel=0.1)
    assert world.network.counters["duplicated"] == pytest.approx(1000, rel=0.15)
    assert bob.received_datagrams == 10_000 + world.network.counters["duplicated"] - world.network.counters["lost"]


def test_jitter_delays_and_reorders() -> None:
    world = World(hosts=2, jitter_s=0.03)
    alice, bob = world.hosts
    alice.send_batch(bob.endpoint, [bytes([number]) for number in range(100)])
    world.engine.run_for(1.0)
    instants = [at for at, _, _ in world.inbox[bob]]
    assert len(instants) == 100
    assert min(instants) >= 0.05 - 1e-6
    assert 0.07 < max(instants) < 0.0801
    order = [datagram[0] for _, datagram, _ in world.inbox[bob]]
    assert order != sorted(order)


def test_without_jitter_order_is_kept() -> None:
    world = World(hosts=2)
    alice, bob = world.hosts
    alice.send_batch(bob.endpoint, [bytes([number]) for number in range(100)])
    world.engine.run_for(1.0)
    assert [datagram[0] for _, datagram, _ in world.inbox[bob]] == list(range(100))


def test_only_hosts_of_the_same_partition_reach_each_other_until_it_heals() -> None:
    world = World(hosts=5)
    a, b, c, d, e = world.hosts
    world.network.partition([[a, b], [c]])
    together = {(a, b), (b, a), (d, e), (e, d)}
    for one in world.hosts:
        for other in world.hosts:
            if one is not other:
                assert world.reaches(one, other) == ((one, other) in together)
    assert world.network.counters["cut"] == 16
    world.network.partition([[a, e]])
    assert world.reaches(a, e)
    assert world.reaches(b, c)
    world.network.heal()
    assert all(world.reaches(one, other) for one in world.hosts for other in world.hosts)


def test_a_cut_parts_one_pair_only() -> None:
    world = World(hosts=3)
    a, b, c = world.hosts
    world.network.cut(a, b)
    assert not world.reaches(a, b)
    assert not world.reaches(b, a)
    assert world.reaches(a, c)
    assert world.reaches(c, b)
    world.network.mend(b, a)
    assert world.reaches(a, b)
    world.network.cut(a, b, both_ways=False)
    assert not world.reaches(a, b)
    assert world.reaches(b, a)
    world.network.heal()
    assert world.reaches(a, b)


def test_a_host_that_roams_is_told_and_its_old_address_is_dead() -> None:
    world = World(hosts=2)
    alice, bob = world.hosts
    old, new = bob.endpoint, Endpoint("198.51.100.7", 4321)
    told: list[float] = []
    bob.on_addresses_changed(lambda: told.append(world.engine.now))
    alice.send(old, b"under way")
    world.network.move(bob, new)
    assert told == [], "called back synchronously"
    world.engine.run_for(1.0)
    assert told == [START]
    assert tuple(bob.local_endpoints()) == (new,)
    assert world.inbox[bob] == []
    alice.send(old, b"to where it was")
    alice.send(new, b"to where it is")
    bob.send(alice.endpoint, b"from where it is")
    world.engine.run_for(1.0)
    assert [datagram for _, datagram, _ in world.inbox[bob]] == [b"to where it is"]
    assert [source for _, _, source in world.inbox[alice]] == [new]
    assert world.network.counters["unaddressed"] == 2
    stranger = world.network.host(old)
    assert stranger.endpoint == old


def test_a_host_that_is_down_cannot_roam() -> None:
    world = World(hosts=1)
    world.network.crash(world.hosts[0])
    with pytest.raises(ValueError, match="not on this network"):
        world.network.move(world.hosts[0], Endpoint("198.51.100.7", 4321))
