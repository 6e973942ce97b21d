"""The laboratory's NATs are what they say, and its wires, cuts and moves do what they are told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from sims.lab.impairment import Impairment
from sims.lab.namespace import LabError
from sims.lab.natlab import NatLab
from sims.lab.natprobe import Dependence, NatBehaviour, Probes
from sims.lab.plan_file import parse_plan

GROUND = """
[host.public]
[host.far]
wire = {}
[host.full]
nat = "full"
[host.addr]
nat = "addr"
[host.addr2]
nat = "addr"
[host.port]
nat = "port"
[host.sym]
nat = "sym"
[host.sym2]
nat = "sym"
[host.cgnat-port]
nat = "port"
carrier = "port"
[host.cgnat-sym]
nat = "port"
carrier = "sym"
[host.six]
ip = "ipv6"
[host.walled]
firewall = "stateful"
[host.mute]
nat = "port"
firewall = "no-udp"
[site.home]
nat = "port"
ip = "dual"
hairpin = true
udp_timeout_s = 17
udp_stream_timeout_s = 71
[host.laptop]
site = "home"
[host.nas]
site = "home"
"""

FREE = Dependence.ENDPOINT_INDEPENDENT
BY_ADDRESS = Dependence.ADDRESS_DEPENDENT
BY_PORT = Dependence.ADDRESS_AND_PORT_DEPENDENT


@pytest.fixture(scope="module")
def ground() -> Iterator[NatLab]:
    with NatLab(parse_plan(GROUND, "this test", "ground")) as lab:
        yield lab


@pytest.fixture(scope="module")
def probes(ground: NatLab) -> Iterator[Probes]:
    with Probes(ground) as made:
        yield made


def ping(lab: NatLab, source: str, address: str, *options: str) -> str:
    """What ping prints."""
    return lab.host(source).namespace.run("ping", "-n", *(options or ("-c1", "-W1")), address).stdout


def hears(lab: NatLab, source: str, address: str) -> bool:
    """Whether an answer comes. Asked twice: the first may go astray while addresses are being resolved."""
    return any(" 0% packet loss" in ping(lab, source, address) for _ in range(2))


def requests_seen(lab: NatLab, name: str) -> int:
    """How many pings have arrived at a host."""
    lines = lab.host(name).namespace.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InEchos"])


# --- the NATs


def test_every_nat_maps_and_filters_as_its_type_says(ground: NatLab, probes: Probes) -> None:
    # Not nas: two that use the same port behind one NAT would be in each other's way.
    found = probes.classify([host for host in ground.hosts if host.name != "nas"])
    expected = {
        "public": NatBehaviour(FREE, FREE, translated=False, keeps_port=True, hairpins=True),
        "full": NatBehaviour(FREE, FREE, translated=True, keeps_port=True, hairpins=False),
        "addr": NatBehaviour(FREE, BY_ADDRESS, translated=True, keeps_port=True, hairpins=False),
        "port": NatBehaviour(FREE, BY_PORT, translated=True, keeps_port=True, hairpins=False),
        "cgnat-port": NatBehaviour(FREE, BY_PORT, translated=True, keeps_port=True, hairpins=False),
        "six": NatBehaviour(FREE, FREE, translated=False, keeps_port=True, hairpins=True),
        "walled": NatBehaviour(FREE, BY_PORT, translated=False, keeps_port=True, hairpins=True),
        "laptop": NatBehaviour(FREE, BY_PORT, translated=True, keeps_port=True, hairpins=True),
        "mute": None,
    }
    assert {name: found[name] for name in expected} == expected
    for name in ("sym", "cgnat-sym"):
        nat = found[name]
        assert nat is not None
        assert (nat.mapping, nat.filtering, nat.translated, nat.hairpins) == (BY_PORT, BY_PORT, True, False), name


def test_holes_can_be_punched_between_the_pairs_where_theory_says_so(probes: Probes) -> None:
    expected = {
        ("full", "addr"): True,
        ("full", "sym"): True,
        ("addr", "addr2"): True,
        ("addr", "sym"): True,
        ("port", "addr"): True,
        ("port", "laptop"): True,
        ("port", "cgnat-port"): True,
        ("port", "walled"): True,
        ("addr", "cgnat-sym"): True,
        ("walled", "six"): True,
        ("laptop", "nas"): True,  # Through the hairpin.
        ("port", "sym"): False,
        ("sym", "sym2"): False,
        ("port", "cgnat-sym"): False,
        ("port", "six"): False,
        ("public", "mute"): False,
    }
    assert probes.punch(list(expected)) == expected


def test_a_nat_that_was_rebound_is_of_the_same_type_with_other_ports(ground: NatLab, probes: Probes) -> None:
    names = ("full", "addr", "port")
    for name in names:
        ground.rebind(name)
    found = probes.classify([ground.host(name) for name in names])
    for name, filtering in zip(names, (FREE, BY_ADDRESS, BY_PORT), strict=True):
        assert found[name] == NatBehaviour(FREE, filtering, translated=True, keeps_port=False, hairpins=False), name
    with pytest.raises(LabError, match="behind no NAT"):
        ground.rebind("public")


def test_a_nat_keeps_the_timers_of_its_plan(ground: NatLab) -> None:
    folder = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
    printed = ground.site("home").routers[0].namespace.run("cat", folder, folder + "_stream").stdout
    assert printed.split() == ["17", "71"]


def test_ipv6_passes_a_home_router_outwards_only(ground: NatLab) -> None:
    laptop, six = ground.host("laptop"), ground.host("six")
    assert laptop.underlay6
    assert not six.underlay4
    assert hears(ground, "laptop", six.underlay6)
    # ICMP may come in; TCP must not. A refusal by the host itself would come at once, and say so.
    connect = f"import socket; socket.create_connection(({laptop.underlay6!r}, 9), 1)"
    assert "timed out" in six.namespace.run(sys.executable, "-c", connect).stderr


# --- what happens at run time


def test_a_host_without_udp_has_it_back_when_unblocked(ground: NatLab, probes: Probes) -> None:
    pair = ("public", "sym")
    ground.block_udp("sym")
    try:
        assert probes.punch([pair]) == {pair: False}
        assert hears(ground, "sym", ground.host("public").underlay4), "nothing else is blocked"
    finally:
        ground.block_udp("sym", blocked=False)
    assert probes.punch([pair]) == {pair: True}


def test_a_cut_is_between_those_two_only_and_can_be_mended(ground: NatLab) -> None:
    far, laptop = ground.host("far"), ground.host("laptop")
    ground.cut("public", "far")
    assert not hears(ground, "public", far.underlay4)
    assert hears(ground, "port", far.underlay4)
    ground.mend("public", "far")
    assert hears(ground, "public", far.underlay4)
    ground.cut("nas", "laptop")
    assert not hears(ground, "nas", laptop.underlay4)
    assert hears(ground, "nas", far.underlay4)
    ground.mend("nas", "laptop")
    assert hears(ground, "nas", laptop.underlay4)
    ground.cut("home")
    assert not hears(ground, "nas", far.underlay4)
    assert hears(ground, "nas", laptop.underlay4)
    ground.mend("home")
    assert hears(ground, "nas", far.underlay4)


def test_a_cut_one_way_lets_the_other_way_through(ground: NatLab) -> None:
    far, public = ground.host("far"), ground.host("public")
    assert hears(ground, "public", far.underlay4)
    ground.cut("public", "far", one_way=True)
    before = (requests_seen(ground, "public"), requests_seen(ground, "far"))
    assert not hears(ground, "far", public.underlay4)
    assert not hears(ground, "public", far.underlay4)
    after = (requests_seen(ground, "public"), requests_seen(ground, "far"))
    assert after == (before[0] + 2, before[1])
    ground.mend("public", "far")
    assert hears(ground, "far", public.underlay4)


def test_two_that_no_cut_can_part_are_refused(ground: NatLab) -> None:
    with pytest.raises(LabError, match="one, as far as a wire can tell"):
        ground.cut("port", "port")
    with pytest.raises(LabError, match=r"no site 'lapptop' \(did you mean|no site 'lapptop'"):
        ground.cut("lapptop", "port")


def test_a_wire_delays_loses_repeats_and_swallows_from_when_it_is_told(ground: NatLab) -> None:
    wire, far = ground.wire("far"), ground.host("far").underlay4
    wire.change(up=Impairment(delay_ms=40), down=Impairment(delay_ms=60))
    printed = ping(ground, "public", far, "-c10", "-i0.05", "-W5")
    rtts = [float(value) for value in re.findall(r"time=([\d.]+)", printed)]
    # ping rounds to three digits, and has rounded a whole millisecond away.
    assert len(rtts) == 10
    assert 99 <= min(rtts) < 400, rtts
    wire.change(up=Impairment(loss_percent=30), down=Impairment())
    received = int(re.findall(r"(\d+) received", ping(ground, "public", far, "-c300", "-i0.01", "-W2"))[0])
    assert 150 <= received <= 270, "210 are expected; the standard deviation is 8"
    wire.change(up=Impairment(duplicate_percent=100))
    # ping may not wait for the last one's.
    assert re.search(r"\+[34] duplicates", ping(ground, "public", far, "-c4", "-i0.1", "-W2"))
    wire.change(up=Impairment(blackhole_bytes=1000))
    assert hears(ground, "public", far)
    assert "100% packet loss" in ping(ground, "public", far, "-c2", "-W1", "-s1200")
    wire.change(up=Impairment(), down=Impairment())
    assert " 0% packet loss" in ping(ground, "public", far, "-c2", "-W2", "-s1200")
    with pytest.raises(LabError, match="no wire that can be changed"):
        ground.wire("public")


def test_a_host_moves_to_another_address_another_site_and_back(ground: NatLab) -> None:
    far, public = ground.host("far"), ground.host("public")
    old = far.underlay4
    ground.move("far")
    assert far.underlay4 != old
    assert hears(ground, "public", far.underlay4)
    assert not hears(ground, "public", old)
    ground.move("far", "home")
    assert far.underlay4.startswith("192.168.1.")
    assert hears(ground, "far", public.underlay4)
    assert hears(ground, "far", ground.host("nas").underlay4)
    ground.move("far", "far")
    assert hears(ground, "public", far.underlay4)
    ground.wire("far").change(up=Impairment(delay_ms=1))
    with pytest.raises(LabError, match=r"no site 'hom' \(did you mean 'home'\?\)"):
        ground.move("far", "hom")
