"""Boxes of every type in the simulated network: what they are, what gets through them, and what they forget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest

from dht.host import Endpoint
from dht.udp import UdpHost
from sims.access import Interface, Site
from sims.engine import Engine, SimHost
from sims.latency import Constant, Latency, Matrix
from sims.nat import (
    AD,
    ADDR,
    APD,
    EI,
    FIREWALL,
    FULL,
    PORT,
    PRESETS,
    SYM,
    Dependence,
    NatBox,
    NatType,
    Ports,
    Preset,
)
from sims.nat_probe import Server, Servers, Verdict, classify, punch, start_servers
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities

SEED = 4
SERVER_ADDRESS, OTHER_SERVER_ADDRESS = "203.0.113.1", "203.0.113.2"


class Internet:
    """A network with four servers of each family, and hosts with mailboxes behind whatever a test wants."""

    def __init__(self, seed: int = SEED, loss: float = 0.0, latency: Latency | None = None) -> None:
        self.engine = Engine(seed)
        self.network = Network(self.engine, latency or Constant(rtt_ms=40.0), loss=loss)
        self.servers = self._serve(SERVER_ADDRESS, OTHER_SERVER_ADDRESS)
        self.servers6 = self._serve("2001:db8::1", "2001:db8::2")
        ends = [Interface(Endpoint(address, 9000)) for address in ("203.0.113.3", "2001:db8::3")]
        Server(self.network.host(ends, place=0), self.servers)
        self.rendezvous = [endpoint for endpoint, _ in ends]
        self.inbox: dict[SimHost, list[tuple[bytes, Endpoint]]] = {}
        self._made = 0

    def _serve(self, address: str, other_address: str) -> Servers:
        endpoints = [Endpoint(each, port) for each in (address, other_address) for port in (3478, 3479)]
        return start_servers([self.network.host(endpoint, place=0) for endpoint in endpoints])

    def behind(self, preset: Preset | str, place: int | None = None) -> SimHost:
        self._made += 1
        kind = PRESETS[preset] if isinstance(preset, str) else preset
        address, address6 = f"198.18.0.{self._made}", f"2001:db8:1::{self._made}"
        return self.listen(self.network.host(self.network.access.behind(kind, address, address6), place))

    def beside(self, host: SimHost, port: int = 7001) -> SimHost:
        """Another host at the same address."""
        interfaces = [
            Interface(Endpoint(end.address, port), site) for end, site in self.network.access.interfaces(host)
        ]
        return self.listen(self.network.host(interfaces[0].endpoint if interfaces[0].site is None else interfaces))

    def listen(self, host: SimHost) -> SimHost:
        inbox = self.inbox[host] = []
        host.on_receive(lambda datagram, source: inbox.append((datagram, source)))
        return host

    def site(self, host: SimHost) -> Site:
        site = self.network.access.interfaces(host)[0].site
        assert site is not None
        return site

    def classify(self, host: SimHost, beside: SimHost | None = None) -> Verdict:
        verdicts: list[Verdict] = []
        servers = self.servers6 if all(":" in end.address for end in host.local_endpoints()) else self.servers
        classify(host, servers, verdicts.append, beside)
        self.engine.run_until(lambda: bool(verdicts), limit_s=30)
        return verdicts[0]

    def punches(self, a: SimHost, b: SimHost) -> bool:
        results: list[bool] = []
        punch(a, b, self.rendezvous, results.append)
        self.engine.run_until(lambda: bool(results), limit_s=30)
        self.listen(a)
        self.listen(b)
        return results[0]

    def hears(self, a: SimHost, b: SimHost, at: Endpoint) -> Endpoint | None:
        """Where `b` sees `a`, when `a` sends to `at`; None when nothing arrives."""
        self.inbox[b].clear()
        a.send(at, b"hello")
        self.engine.run_for(0.5)
        return self.inbox[b][-1][1] if self.inbox[b] else None


CLASSES = {
    # name: translated, mapping, filtering, port preserved
    "public": (False, EI, EI, True),
    "full": (True, EI, EI, True),
    "addr": (True, EI, AD, True),
    "port": (True, EI, APD, True),
    "sym": (True, APD, APD, False),
    "cgnat(port,port)": (True, EI, APD, True),
    "cgnat(port,sym)": (True, APD, APD, False),
    "ipv6-only": (False, EI, EI, True),
    "dual-stack": (False, EI, EI, True),
    "port-dual-stack": (True, EI, APD, True),
    "firewalled": (False, EI, APD, True),
}


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("name", CLASSES)
def test_every_preset_is_classified_as_what_it_is_meant_to_be(name: str, loss: float) -> None:
    internet = Internet(loss=loss)
    verdict = internet.classify(internet.behind(name))
    found = (verdict.translated, verdict.mapping, verdict.filtering, verdict.preserves_port)
    assert found == CLASSES[name]


def test_every_preset_is_tried() -> None:
    assert set(CLASSES) | {"udp-blocked"} == set(PRESETS)


def test_behind_a_box_without_udp_nothing_is_heard() -> None:
    internet = Internet()
    assert internet.classify(internet.behind("udp-blocked")).outer is None


@pytest.mark.parametrize("ports", Ports)
@pytest.mark.parametrize("filtering", [EI, AD, APD])
@pytest.mark.parametrize("mapping", [EI, AD, APD])
def test_every_combination_of_rfc_4787_is_classified_as_itself(
    mapping: Dependence, filtering: Dependence, ports: Ports
) -> None:
    internet = Internet()
    verdict = internet.classify(internet.behind(Preset((NatType(mapping, filtering, ports),))))
    # Where ports are preserved, mappings for different remotes don't differ.
    preserves = ports in (Ports.OVERLOAD, Ports.PRESERVE)
    assert verdict.mapping is (EI if preserves else mapping)
    assert verdict.filtering is filtering
    assert verdict.preserves_port is preserves


@pytest.mark.parametrize("name", ["full", "addr", "port", "public"])
def test_only_boxes_that_hairpin_do(name: str) -> None:
    for preset, hairpins in ((PRESETS[name], name == "public"), (PRESETS[name].hairpinning(), True)):
        internet = Internet()
        host = internet.behind(preset)
        beside = internet.beside(host)
        verdict = internet.classify(host, beside)
        assert verdict.hairpins is hairpins


def test_a_hairpinned_datagram_comes_from_the_outer_endpoint_and_can_be_answered() -> None:
    internet = Internet()
    alice = internet.behind(Preset((replace(PORT, hairpins=True),)))
    bob = internet.beside(alice)
    outer = internet.site(alice).box.address
    alice.send(internet.servers.first, b"claims its port")
    assert internet.hears(bob, alice, Endpoint(outer, 7000)) == Endpoint(outer, 7001)
    assert internet.hears(alice, bob, Endpoint(outer, 7001)) == Endpoint(outer, 7000)


def test_the_same_code_classifies_and_punches_over_real_sockets() -> None:
    async def judge() -> tuple[Verdict, bool]:
        servers = [UdpHost(Endpoint(address, 0)) for address in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2")]
        alice, bob = UdpHost(Endpoint("127.0.0.1", 0)), UdpHost(Endpoint("127.0.0.1", 0))
        try:
            known = start_servers(servers)
            verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            classify(alice, known, verdict.set_result, beside=bob)
            found = await asyncio.wait_for(verdict, 60)
            punched: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            punch(alice, bob, [known.first], punched.set_result)
            return found, await asyncio.wait_for(punched, 60)
        finally:
            for host in (*servers, alice, bob):
                host.close()

    verdict, punched = asyncio.run(judge())
    assert (verdict.translated, verdict.mapping, verdict.filtering, verdict.hairpins) == (False, EI, EI, True)
    assert verdict.preserves_port and punched


def can_punch(a: str, b: str) -> bool:
    """An end that admits only the endpoints it has sent to needs the other to be where it was seen (RFC 5128, 3.4)."""
    if PRESETS[a].ipv6 and PRESETS[b].ipv6:
        return True
    if not (PRESETS[a].ipv4 and PRESETS[b].ipv4) or "udp-blocked" in (a, b):
        return False
    picky = {name for name, (_, _, filtering, _) in CLASSES.items() if filtering is APD}
    moving = {name for name, (_, mapping, _, _) in CLASSES.items() if mapping is APD}
    return not ((a in picky and b in moving) or (b in picky and a in moving))


@pytest.mark.parametrize("pair", list(combinations_with_replacement(PRESETS, 2)), ids="-".join)
def test_pairs_punch_where_theory_says_so(pair: tuple[str, str]) -> None:
    internet = Internet()
    a, b = (internet.behind(name) for name in pair)
    assert internet.punches(a, b) == can_punch(*pair)


MEASURED = {
    ("full", "full"): True,
    ("full", "sym"): True,
    ("addr", "addr"): True,
    ("addr", "sym"): True,
    ("port", "port"): True,
    ("cgnat(port,port)", "port"): True,
    ("cgnat(port,sym)", "addr"): True,
    ("port", "sym"): False,
    ("sym", "sym"): False,
}


EARLY_PLACES = [[0, 10, 200], [10, 0, 20], [200, 20, 0]]  # RTTs in ms: the rendezvous, who hears of it first, who last


@pytest.mark.parametrize("pair", MEASURED, ids="-".join)
def test_pairs_punch_as_real_boxes_do_whoever_begins(pair: tuple[str, str]) -> None:
    internet = Internet(latency=Matrix(EARLY_PLACES))
    for names in (pair, pair[::-1]):
        a, b = (internet.behind(name, place=place) for place, name in enumerate(names, start=1))
        assert internet.punches(a, b) is MEASURED[pair]


@pytest.mark.parametrize("local_input", [False, True])
def test_without_a_rule_for_input_an_early_punch_takes_the_port_and_the_hole_stays_shut(local_input: bool) -> None:
    internet = Internet(latency=Matrix(EARLY_PLACES))
    preset = Preset((replace(PORT, local_input=local_input),))
    a, b = (internet.behind(preset, place=place) for place in (1, 2))
    assert internet.punches(a, b) is not local_input


def test_private_addresses_repeat_from_site_to_site_and_lead_nowhere_else() -> None:
    internet = Internet()
    alice, bob = internet.behind("full"), internet.behind("full")
    assert alice.endpoint == bob.endpoint == Endpoint("10.0.0.2", 7000)
    assert internet.hears(alice, bob, bob.endpoint) is None
    assert internet.inbox[alice] == [(b"hello", alice.endpoint)], "one's own address is oneself"
    assert internet.hears(alice, bob, Endpoint("10.0.0.3", 7000)) is None


def test_hosts_of_one_site_reach_each_other_without_the_box_and_soon() -> None:
    internet = Internet()
    alice = internet.behind("udp-blocked")
    site = internet.site(alice)
    bob = internet.listen(internet.network.host([Interface(Endpoint(site.free_address(), 7000), site)]))
    assert bob.endpoint.address == "10.0.0.3"
    alice.send(bob.endpoint, b"hello")
    internet.engine.run_for(0.002)
    assert internet.inbox[bob] == [(b"hello", alice.endpoint)]


def test_two_hosts_of_one_port_share_it_until_they_speak_with_the_same_remote() -> None:
    box = NatBox(PORT, "198.18.0.1", Engine(SEED).rng)
    alice, bob = Endpoint("10.0.0.2", 7000), Endpoint("10.0.0.3", 7000)
    here, there = Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 1)
    assert box.outbound(alice, here, 0.0) == Endpoint("198.18.0.1", 7000) == box.outbound(bob, there, 0.0)
    other = box.outbound(bob, here, 0.0)
    assert other is not None and other.port != 7000
    assert box.inbound(here, Endpoint("198.18.0.1", 7000), 0.0) == alice
    assert box.inbound(there, Endpoint("198.18.0.1", 7000), 0.0) == bob
    assert box.inbound(here, other, 0.0) == bob


@pytest.mark.parametrize("ports", [Ports.PRESERVE, Ports.RANDOM, Ports.SEQUENTIAL])
def test_two_hosts_never_share_a_port_where_boxes_do_not_overload(ports: Ports) -> None:
    box = NatBox(NatType(EI, EI, ports), "198.18.0.1", Engine(SEED).rng)
    remote = Endpoint("203.0.113.1", 1)
    outers = {box.outbound(Endpoint(f"10.0.0.{number}", 7000), remote, 0.0) for number in range(2, 202)}
    assert len(outers) == 200 and None not in outers


def test_sequential_ports_are_sequential() -> None:
    box = NatBox(NatType(APD, APD, Ports.SEQUENTIAL), "198.18.0.1", Engine(SEED).rng)
    inner = Endpoint("10.0.0.2", 7000)
    outers = [box.outbound(inner, Endpoint("203.0.113.1", port), 0.0) for port in range(1, 6)]
    assert [outer.port for outer in outers if outer is not None] == [1024, 1025, 1026, 1027, 1028]


INNER, REMOTE, OUTER = Endpoint("10.0.0.2", 7000), Endpoint("203.0.113.1", 1), Endpoint("198.18.0.1", 7000)


@pytest.mark.parametrize(
    ("events", "open_until"),
    [
        # When datagrams pass, > outward, < inward: until when the flow lasts.
        ("0>", 30.0),
        ("0> 1<", 31.0),  # answered, but no stream yet
        ("0> 1< 3<", 123.0),  # both ways for more than two seconds
        ("0> 3>", 33.0),  # never answered
        ("0> 29<", 149.0),
        ("0> 1< 100>", 130.0),  # forgotten meanwhile, and begun anew
    ],
)
def test_flows_last_as_long_as_conntracks_timers_say(events: str, open_until: float) -> None:
    for at, expected in ((open_until - 0.001, INNER), (open_until + 0.001, None)):
        box = NatBox(PORT, OUTER.address, Engine(SEED).rng)
        for event in events.split():
            instant, direction = float(event[:-1]), event[-1]
            if direction == ">":
                assert box.outbound(INNER, REMOTE, instant) == OUTER
            else:
                box.inbound(REMOTE, OUTER, instant)
        assert box.inbound(REMOTE, OUTER, at) == expected


def test_where_only_outbound_datagrams_refresh_inbound_ones_keep_nothing_open() -> None:
    box = NatBox(replace(PORT, inbound_refreshes=False), OUTER.address, Engine(SEED).rng)
    box.outbound(INNER, REMOTE, 0.0)
    for second in range(1, 30):
        assert box.inbound(REMOTE, OUTER, float(second)) == INNER
    assert box.inbound(REMOTE, OUTER, 30.1) is None


def test_strangers_are_let_in_only_while_the_host_itself_goes_on_sending() -> None:
    stranger = Endpoint("203.0.113.1", 2)
    for kind in (FULL, ADDR):
        box = NatBox(kind, OUTER.address, Engine(SEED).rng)
        assert box.inbound(stranger, OUTER, 0.0) is None
        box.outbound(INNER, REMOTE, 0.0)
        assert box.inbound(stranger, OUTER, 29.0) == INNER
        assert box.inbound(Endpoint("203.0.113.1", 3), OUTER, 31.0) is None
        assert box.inbound(stranger, OUTER, 31.0) == INNER, "that is a flow by now"


def test_an_inner_port_keeps_its_mapping_as_long_as_any_of_its_flows_lives() -> None:
    box = NatBox(NatType(EI, APD, Ports.RANDOM), OUTER.address, Engine(SEED).rng)
    first = box.outbound(INNER, REMOTE, 0.0)
    for second in range(10, 100, 10):
        assert box.outbound(INNER, Endpoint("203.0.113.2", 1), float(second)) == first
    assert box.outbound(INNER, REMOTE, 100.0) == first
    assert box.outbound(INNER, REMOTE, 140.0) != first


def test_a_full_table_refuses_new_flows_until_old_ones_expire() -> None:
    box = NatBox(replace(PORT, max_flows=100), OUTER.address, Engine(SEED).rng)
    remotes = [Endpoint("203.0.113.1", port) for port in range(1, 202)]
    made = [box.outbound(INNER, remote, 0.001 * number) for number, remote in enumerate(remotes)]
    assert made == [OUTER] * 100 + [None] * 101
    assert box.outbound(INNER, remotes[0], 1.0) == OUTER, "what is in the table goes on"
    assert box.outbound(INNER, remotes[150], 30.5) == OUTER
    assert len(box) == 2


def test_tables_stay_small_when_many_flows_come_and_go() -> None:
    for kind in (FULL, ADDR, PORT, SYM, FIREWALL, NatType(AD, AD, Ports.RANDOM, hairpins=True)):
        box = NatBox(kind, OUTER.address, Engine(SEED).rng)
        for number in range(5000):
            box.outbound(INNER, Endpoint("203.0.113.1", 1 + number), float(number))
        assert len(box) <= 64


@pytest.mark.parametrize("name", ["full", "addr", "port", "sym", "cgnat(port,port)"])
def test_a_box_that_restarts_forgets_everybody_and_gives_another_port(name: str) -> None:
    internet = Internet()
    alice, bob = internet.behind(name), internet.behind("public")
    before = internet.hears(alice, bob, bob.endpoint)
    assert before is not None
    assert internet.hears(bob, alice, before) == bob.endpoint
    outermost = internet.site(alice)
    outermost = outermost.carrier or outermost
    outermost.box.rebind()
    assert internet.hears(bob, alice, before) is None
    after = internet.hears(alice, bob, bob.endpoint)
    assert after is not None and after.address == before.address and after.port != before.port
    assert internet.hears(bob, alice, after) == bob.endpoint


def test_a_flushed_conntrack_table_changes_the_ports_of_symmetric_boxes_only() -> None:
    internet = Internet()
    bob = internet.behind("public")
    for name in ("port", "sym"):
        alice = internet.behind(name)
        before = internet.hears(alice, bob, bob.endpoint)
        assert before is not None
        internet.site(alice).box.flush()
        assert internet.hears(bob, alice, before) is None
        assert (internet.hears(alice, bob, bob.endpoint) == before) is (name == "port")


def test_a_box_that_is_renumbered_has_a_new_address_and_its_old_one_is_dead() -> None:
    internet = Internet()
    alice, bob = internet.behind("full"), internet.behind("public")
    before = internet.hears(alice, bob, bob.endpoint)
    internet.network.access.renumber(internet.site(alice), "198.51.100.9")
    after = internet.hears(alice, bob, bob.endpoint)
    assert before is not None and after is not None and after.address == "198.51.100.9"
    assert internet.hears(bob, alice, before) is None
    assert internet.hears(bob, alice, after) == bob.endpoint
    with pytest.raises(ValueError, match="one a family"):
        internet.network.move(alice, [Interface(Endpoint("192.0.2.1", 1)), Interface(Endpoint("192.0.2.2", 1))])
    assert internet.hears(bob, alice, after) == bob.endpoint, "a refused move changes nothing"
    with pytest.raises(ValueError, match="another box's"):
        internet.network.access.site(PORT, "198.51.100.9")


def homes(internet: Internet, carrier_type: NatType, home_type: NatType = PORT) -> Sequence[SimHost]:
    """Two homes behind one carrier, one host each."""
    access = internet.network.access
    carrier = access.site(carrier_type, "198.18.1.1", prefix="100.64.")
    hosts = []
    for _ in range(2):
        home = access.site(home_type, carrier=carrier)
        hosts.append(internet.listen(internet.network.host([Interface(Endpoint(home.free_address(), 7000), home)])))
    return hosts


def test_homes_behind_one_carrier_share_its_address_and_need_its_hairpin_to_meet() -> None:
    for hairpins in (False, True):
        internet = Internet()
        alice, bob = homes(internet, replace(PORT, ports=Ports.PRESERVE, hairpins=hairpins))
        assert alice.endpoint == bob.endpoint
        verdicts = [internet.classify(host) for host in (alice, bob)]
        assert {verdict.outer.address for verdict in verdicts if verdict.outer} == {"198.18.1.1"}
        assert internet.punches(alice, bob) is hairpins


def test_a_home_is_reached_through_both_boxes_and_each_has_its_say() -> None:
    internet = Internet()
    alice, _ = homes(internet, FULL, PORT)
    stranger, bob = internet.behind("public"), internet.behind("public")
    outer = internet.hears(alice, bob, bob.endpoint)
    assert outer is not None
    assert internet.hears(bob, alice, outer) == bob.endpoint
    assert internet.hears(stranger, alice, outer) is None
    assert internet.network.counters["filtered"] == 1


def test_too_many_boxes_in_a_row_and_addresses_that_are_missing_are_refused() -> None:
    access = Internet().network.access
    site = access.site(PORT, "198.18.1.1")
    with pytest.raises(ValueError, match="public address"):
        access.site(PORT)
    with pytest.raises(ValueError, match="in a row"):
        for _ in range(10):
            site = access.site(PORT, carrier=site)


def test_a_box_that_blocks_udp_lets_answered_flows_go_on_and_opens_again() -> None:
    internet = Internet()
    alice, bob, carol = (internet.behind(name) for name in ("port", "public", "public"))
    outer = internet.hears(alice, bob, bob.endpoint)
    assert outer is not None and internet.hears(bob, alice, outer) is not None
    box = internet.site(alice).box
    box.type = replace(box.type, passes_new=False)
    assert internet.hears(alice, bob, bob.endpoint) == outer
    assert internet.hears(alice, carol, carol.endpoint) is None
    box.type = PORT
    assert internet.hears(alice, carol, carol.endpoint) == outer


def test_a_firewall_keeps_addresses_and_lets_in_only_answers() -> None:
    internet = Internet()
    alice, bob, carol = (internet.behind(name) for name in ("firewalled", "public", "public"))
    assert internet.hears(bob, alice, alice.endpoint) is None
    assert internet.hears(alice, bob, bob.endpoint) == alice.endpoint
    assert internet.hears(bob, alice, alice.endpoint) == bob.endpoint
    assert internet.hears(carol, alice, alice.endpoint) is None


def test_a_host_of_both_families_speaks_each_from_its_endpoint_and_others_only_their_own() -> None:
    internet = Internet()
    dual, four, six = (internet.behind(name) for name in ("port-dual-stack", "public", "ipv6-only"))
    assert [":" in endpoint.address for endpoint in dual.local_endpoints()] == [False, True]
    seen = internet.hears(dual, four, four.endpoint)
    assert seen is not None and seen != dual.endpoints[0]
    sent_bytes = dual.sent_bytes
    assert internet.hears(dual, six, six.endpoint) == dual.endpoints[1]
    assert dual.sent_bytes - sent_bytes == len(b"hello") + 48
    assert internet.hears(six, dual, dual.endpoints[1]) == six.endpoint
    assert internet.hears(six, four, four.endpoint) is None
    assert internet.hears(four, six, six.endpoint) is None
    assert internet.hears(four, dual, dual.endpoints[1]) is None


def test_a_host_roams_from_one_site_to_another_and_back_to_the_open_internet() -> None:
    internet = Internet()
    roamer, bob = internet.behind("port"), internet.behind("public")
    told: list[Sequence[Endpoint]] = []
    roamer.on_addresses_changed(lambda: told.append(roamer.local_endpoints()))
    seen = [internet.hears(roamer, bob, bob.endpoint)]
    access = internet.network.access
    internet.network.move(roamer, access.behind(PRESETS["sym"], "198.51.100.1"))
    seen.append(internet.hears(roamer, bob, bob.endpoint))
    internet.network.move(roamer, Endpoint("198.51.100.2", 7000))
    seen.append(internet.hears(roamer, bob, bob.endpoint))
    assert [end.address for end in seen if end is not None] == ["198.18.0.1", "198.51.100.1", "198.51.100.2"]
    assert told == [(Endpoint("10.0.0.2", 7000),), (Endpoint("198.51.100.2", 7000),)]
    assert internet.hears(bob, roamer, Endpoint("198.51.100.2", 7000)) == bob.endpoint


def test_a_host_that_crashes_behind_a_box_comes_back_in_its_place() -> None:
    internet = Internet()
    alice, bob = internet.behind("full"), internet.behind("public")
    interfaces = internet.network.access.interfaces(alice)
    outer = internet.hears(alice, bob, bob.endpoint)
    assert outer is not None
    with pytest.raises(ValueError, match="already lives"):
        internet.network.host(interfaces)
    internet.network.crash(alice)
    assert alice not in internet.network.hosts()
    again = internet.listen(internet.network.host(interfaces))
    assert again.place == alice.place
    assert internet.hears(bob, again, outer) == bob.endpoint


def test_delays_are_those_between_the_places_of_the_hosts_whatever_is_before_them() -> None:
    engine = Engine(SEED)
    network = Network(engine, Matrix([[0, 10, 80], [10, 0, 200], [80, 200, 0]]))
    access = network.access
    a, b, c = (
        network.host(access.behind(PRESETS[name], f"198.18.0.{number}"), place=number)
        for number, name in enumerate(("public", "full", "cgnat(port,port)"))
    )
    heard: list[float] = []
    for host in (a, b, c):
        host.on_receive(lambda datagram, source: heard.append(engine.now))
    began = engine.now
    b.send(a.endpoint, b"opens")
    c.send(Endpoint("198.18.0.1", 7000), b"by way of two boxes")
    engine.run_for(1.0)
    assert [at - began for at in heard] == pytest.approx([0.005, 0.1], abs=1e-6)


def test_cuts_and_partitions_part_hosts_behind_boxes_too() -> None:
    internet = Internet()
    alice, bob = internet.behind("full"), internet.behind("full")
    outer = internet.hears(alice, internet.behind("public"), Endpoint("198.18.0.3", 7000))
    assert outer is not None
    assert internet.hears(bob, alice, outer) is not None
    internet.network.cut(alice, bob)
    assert internet.hears(bob, alice, outer) is None
    internet.network.heal()
    assert internet.hears(bob, alice, outer) is not None
    internet.network.partition([[alice]])
    assert internet.hears(bob, alice, outer) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_asked_fraction_of_pairs_is_broken_both_ways_and_the_same_for_a_seed(seed: int) -> None:
    def broken(fraction: float, salt: int = 0) -> set[tuple[int, int]]:
        engine = Engine(seed)
        network = Network(engine, Constant(10.0))
        hosts = [network.host() for _ in range(60)]
        network.break_links(fraction, salt)
        heard: set[tuple[int, int]] = set()
        for host in hosts:
            host.on_receive(lambda datagram, source, me=host.index: heard.add((datagram[0], me)))  # type: ignore[misc]
        for host in hosts:
            for other in hosts:
                host.send(other.endpoint, bytes((host.index,)))
        engine.run_for(1.0)
        return {(a, b) for a in range(60) for b in range(60) if (a, b) not in heard}

    some = broken(0.3)
    assert len(some) == pytest.approx(0.3 * 60 * 59, rel=0.15), f"seed {seed}"
    assert some == {(b, a) for a, b in some}
    assert some == broken(0.3) != broken(0.3, salt=1)
    assert some < broken(0.4), f"seed {seed}: what is broken at a low fraction is broken at a higher one"
    assert not broken(0.0)
    assert len(broken(1.0)) == 60 * 59


def test_broken_links_can_be_mended_and_outlive_a_restart() -> None:
    engine = Engine(SEED)
    network = Network(engine, Constant(10.0))
    alice, bob = network.host(), network.host()
    network.break_links(1.0)
    network.crash(bob)
    bob = network.host(bob.endpoint)
    network.heal()
    alice.send(bob.endpoint, b"broken")
    network.break_links(0.0)
    alice.send(bob.endpoint, b"mended")
    engine.run_for(1.0)
    assert (bob.received_datagrams, network.counters["cut"]) == (1, 1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        network.break_links(1.5)


def ring_behind_boxes(seed: int) -> World:
    engine = Engine(seed)
    world = World(engine, Network(engine, Constant(50.0)), make_identities(12, seed, now=START_S))
    for number in range(12):
        world.start(number, behind="port" if number % 3 == 2 else None)
        engine.run_for(0.2)
    return world


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_ring_of_twelve_forms_of_which_four_are_behind_port_restricted_boxes(seed: int) -> None:
    world = ring_behind_boxes(seed)
    took_s = world.engine.run_until(world.whole, limit_s=300)
    print(f"seed {seed}: whole {took_s:.1f} s after the last node started")
    site = world.site(5)
    assert site is not None and len(site.box) > 0
    node = next(node for node in world.nodes if world.hosts[node.id].endpoint.address == "10.0.0.2")
    world.crash(node)
    world.engine.run_for(2)
    world.start(2)
    world.engine.run_until(world.whole, limit_s=300)


def test_a_node_with_ipv6_alone_joins_through_one_that_has_both() -> None:
    engine = Engine(SEED)
    world = World(engine, Network(engine, Constant(50.0)), make_identities(4, SEED, now=START_S))
    for number, behind in enumerate(("dual-stack", "ipv6-only", "port-dual-stack", "ipv6-only")):
        world.start(number, behind=behind)
    world.engine.run_until(world.whole, limit_s=300)


def test_worlds_with_boxes_replay_too() -> None:
    hashes = []
    for _ in range(2):
        world = ring_behind_boxes(9)
        world.engine.run_for(30)
        hashes.append(world.engine.trace_hash)
    assert hashes[0] == hashes[1]


def test_the_probe_drops_whatever_is_not_its_own() -> None:
    internet = Internet()
    stranger, host = internet.behind("public"), internet.behind("full")
    verdicts: list[Verdict] = []
    classify(host, internet.servers, verdicts.append)
    rng = internet.engine.rng
    for _ in range(2000):
        noise = bytes((rng.randrange(0xD8, 0xF0),)) + rng.randbytes(rng.randrange(0, 40))
        stranger.send(rng.choice(internet.servers), noise)
        stranger.send(Endpoint("198.18.0.2", 7000), noise)
        internet.engine.run_for(0.001)
    internet.engine.run_until(lambda: bool(verdicts), limit_s=30)
    assert (verdicts[0].mapping, verdicts[0].filtering) == (EI, EI)
