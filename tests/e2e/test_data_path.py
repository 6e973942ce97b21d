"""What goes into one kernel comes out of another's unaltered, once, and nowhere else: real TAPs, real streams.

Sizes are such that all of it takes about two minutes. P2PVPN_LONG=1 makes the lossy transfer as long as the clean one.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import permutations, product
from pathlib import Path

import pytest

from dht.bootstrap import Bootstrap
from dht.host import Endpoint
from ipop.config import UpSettings
from sims.lab.lab import COMMAND, PORT, Lab, LabHost, wait_until
from sims.lab.namespace import LabError, end
from sims.lab.node import LabNode
from tests.e2e import hasty_daemon, rough_wire, traffic
from tests.e2e.capture import ETHERNET_BYTES, Capture
from tests.e2e.network import RealNetwork

NAMES = ("alder", "birch", "cedar")
LONG = os.environ.get("P2PVPN_LONG") == "1"
BULK_BYTES = 2_000_000_000
ROUGH_BYTES = BULK_BYTES if LONG else 60_000_000
SMALL_BYTES = 8_000_000
STREAM_LIMIT_S = 240.0
STREAM_PORT, DATAGRAM_PORT = 5001, 5002
# Around every length at which something changes: pieces, what a path carries, the TAP's MTU, a datagram's own limit.
EDGES = (1, 2, 3, 4, 1163, 1164, 1232, 1233, 1307, 1308, 1352, 1353, 1372, 1373, 2744, 2745, 4096, 65_506, 65_507)
COMBINATIONS = (
    "header,checksum,tcp,udp,batch,native",
    "header,checksum,tcp,batch,native",
    "header,checksum,tcp,udp,batch",
    "header,checksum,tcp,udp",
    "header,checksum,tcp,batch",
    "header,checksum,udp,batch",
    "header,checksum,batch",
    "header,batch",
    "batch",
    "",
)
READY_LIMIT_S = 20.0
# What a router does instead of dropping: CE on packets whose ends would understand it.
MARK_RULES = f"""\
table inet congestion {{
    chain out {{
        type filter hook postrouting priority 0
        udp dport {PORT} ip ecn ect0 ip ecn set ce
    }}
}}
"""


def line_of(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """The next line that a program of `traffic` prints."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], limit_s)
    line = process.stdout.readline().decode().strip() if readable else ""
    if not line:
        raise LabError(f"nothing came within {limit_s:g} s from {process.args!r}")
    return line


class Program:
    """A running `traffic.py`."""

    def __init__(self, host: LabHost, *words: str | int | float) -> None:
        command = (sys.executable, traffic.__file__, *map(str, words))
        self.process = host.namespace.spawn(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ready(self) -> Program:
        assert line_of(self.process, READY_LIMIT_S) == "ready"
        return self

    def result(self, limit_s: float, told: str = "") -> str:
        """Ends its input, with a last line if need be; what it then prints."""
        assert self.process.stdin is not None
        self.process.stdin.write(told.encode())
        self.process.stdin.close()
        try:
            return line_of(self.process, limit_s)
        finally:
            end(self.process)


def stream(source: LabHost, sink: LabHost, address: str, count: int, seed: int) -> tuple[Program, Program]:
    """Begin to send `count` bytes over TCP."""
    receiver = Program(sink, "stream-sink", address, STREAM_PORT).ready()
    return Program(source, "stream-source", address, STREAM_PORT, count, seed), receiver


def assert_arrived(programs: tuple[Program, Program], count: int, limit_s: float = STREAM_LIMIT_S) -> None:
    sender, receiver = programs
    try:
        sent, received = sender.result(limit_s), receiver.result(limit_s)
    finally:
        for program in programs:
            end(program.process)
    assert received == sent
    assert received.split()[0] == str(count)


class Datagrams:
    """Numbered datagrams from one host to another."""

    def __init__(self, source: LabHost, sink: LabHost, address: str, pause_s: float) -> None:
        tag = f"{source.name} to {sink.name}"
        self._sink = Program(sink, "datagram-sink", address, DATAGRAM_PORT, tag).ready()
        self._source = Program(source, "datagram-source", address, DATAGRAM_PORT, tag, pause_s)
        self._sent: set[str] = set()

    def send(self, sizes: Iterable[int]) -> None:
        lines = [f"{number if size >= 4 else -1} {size}" for number, size in enumerate(sizes)]
        self._sent.update(lines)
        assert self._source.process.stdin is not None
        self._source.process.stdin.write(("\n".join(lines) + "\n").encode())
        self._source.process.stdin.close()

    def lost(self, limit_s: float) -> int:
        """How many of those sent did not come. Fails when anything came twice, altered, or never was for here."""
        try:
            self._source.process.wait(limit_s)
            found = json.loads(self._sink.result(limit_s, f"{len(self._sent)}\n"))
        finally:
            end(self._source.process)
            end(self._sink.process)
        assert self._source.process.returncode == 0
        assert found["foreign"] == 0
        assert not {line: times for line, times in found["came"].items() if times > 1}
        assert set(found["came"]) <= self._sent
        return len(self._sent - set(found["came"]))


def addresses(host: LabHost) -> tuple[str, str]:
    member = host.member
    return str(member.address4), str(member.address6)


def connect(pairs: Sequence[tuple[LabHost, LabHost]]) -> None:
    """Wait until every pair talks directly."""
    for source, sink in pairs:
        for address in addresses(sink):

            def answers(source: LabHost = source, address: str = address) -> bool:
                """a ping is answered"""
                return source.namespace.run("ping", "-q", "-c1", "-W1", address).returncode == 0

            wait_until(answers, READY_LIMIT_S)


@pytest.fixture(scope="module")
def trio(able: None) -> Iterator[RealNetwork]:
    """Three nodes, each with an edge to both others."""
    with RealNetwork(NAMES) as network:
        network.issue()
        network.start_all()
        connect(list(permutations(network.lab.hosts, 2)))
        yield network


@pytest.mark.timeout(600)
def test_two_gigabytes_arrive_as_they_were_sent(trio: RealNetwork) -> None:
    one, other, _ = trio.lab.hosts
    assert_arrived(stream(one, other, addresses(other)[0], BULK_BYTES, seed=1), BULK_BYTES)


def test_datagrams_of_every_length_arrive_whole_or_not_at_all_and_nowhere_else(trio: RealNetwork) -> None:
    rng = random.Random(5)
    pairs = [(0, 1), (1, 2), (2, 0)]  # All at once, so that whatever went astray would meet another's sink.
    for version in (0, 1):
        running = [
            Datagrams(trio.lab.hosts[one], trio.lab.hosts[other], addresses(trio.lab.hosts[other])[version], 0.004)
            for one, other in pairs
        ]
        sizes = [*EDGES, *(rng.randrange(1, 65_508) for _ in range(60)), *(rng.randrange(1, 3000) for _ in range(300))]
        for each in running:
            rng.shuffle(sizes)
            each.send(list(dict.fromkeys(sizes)))
        for each in running:
            assert each.lost(limit_s=60) <= len(sizes) // 10, "so many are missing that the rest proves little"


def test_what_the_kernel_is_told_is_complete_has_valid_checksums(trio: RealNetwork) -> None:
    """And what it is to complete holds the sum of its pseudo-header: nothing else could become valid."""
    one, other, _ = trio.lab.hosts
    onlooker = Program(other, "checksums", trio.nodes[other.name].tap).ready()
    for address in addresses(other):
        assert_arrived(stream(one, other, address, SMALL_BYTES, seed=2), SMALL_BYTES)
        datagrams = Datagrams(one, other, address, 0.004)
        datagrams.send(EDGES)
        datagrams.lost(limit_s=60)
    seen = json.loads(onlooker.result(60))
    assert seen.get("wrong", 0) == seen.get("wrong partial", 0) == 0
    assert seen["partial"] > 100


def test_datagrams_that_a_program_sends_together_reach_the_other_kernel_together(trio: RealNetwork) -> None:
    one, other, _ = trio.lab.hosts
    offered = [trio.nodes[host.name].status()["node"]["offloads"]["tap"] for host in (one, other)]
    joined = all("udp" in offloads for offloads in offered)
    for address, size in product(addresses(other), (500, 1200)):
        for _ in range(5):  # On a path just found, long ones may go in pieces.
            longest = longest_joined(one, other, address, size)
            if longest >= 10 * size:
                break
        assert longest >= 10 * size or not joined, "they came one by one"


def longest_joined(one: LabHost, other: LabHost, address: str, size: int) -> int:
    """Send as many datagrams in one call as the TAP takes in one frame; how much the other end got in one."""
    count = 40
    sink = Program(other, "segments-sink", address, DATAGRAM_PORT).ready()
    sent = Program(one, "segments-source", address, DATAGRAM_PORT, size, count).result(READY_LIMIT_S)
    received, longest = sink.result(READY_LIMIT_S, f"{size * count}\n").rsplit(" ", 1)
    assert received == sent
    return int(longest)


def test_a_congested_router_between_the_nodes_is_heard_by_both_kernels(trio: RealNetwork, tmp_path: Path) -> None:
    one, other, _ = trio.lab.hosts
    for host in (one, other):
        done = host.namespace.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_ecn")
        assert done.returncode == 0, done.stderr
    marking = one.namespace.run("nft", "-f", "-", stdin_text=MARK_RULES)
    assert marking.returncode == 0, marking.stderr
    try:
        address = addresses(other)[0]
        with Capture(other, trio.nodes[other.name].tap, tmp_path / "tap.pcap", f"tcp port {STREAM_PORT}") as seen:
            assert_arrived(stream(one, other, address, SMALL_BYTES // 8, seed=10), SMALL_BYTES // 8)
    finally:
        one.namespace.run("nft", "delete", "table", "inet", "congestion")
    there = ip_address(address).packed
    packets = [frame[ETHERNET_BYTES:] for frame in seen.frames()]
    marked = sum(packet[16:20] == there and packet[1] & 3 == 3 for packet in packets)
    echoed = sum(packet[12:16] == there and bool(packet[33] & 0x40) for packet in packets)
    assert marked > 0, "no packet came with the mark"
    assert echoed > 0, "the receiving kernel did not tell the sending one"
    assert not trio.nodes[other.name].status()["counters"].get("inner_ecn_odd")


def test_a_neighbour_is_one_hop_away(trio: RealNetwork) -> None:
    one, other, _ = trio.lab.hosts
    for address in addresses(other):
        done = one.namespace.run("ping", "-c", "1", "-W", "5", "-t", "1", address)
        assert done.returncode == 0, done.stdout
        assert "ttl=64" in done.stdout, "the reply's, as it was sent"


@pytest.mark.timeout(600)
def test_every_combination_of_offloads_delivers_the_same_to_others_and_takes_it_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = tuple(f"host{number}" for number in range(len(COMBINATIONS)))
    with RealNetwork(names) as network:
        network.issue()
        for host, combination in zip(network.lab.hosts, COMBINATIONS, strict=True):
            monkeypatch.setenv("P2PVPN_OFFLOADS", combination)
            network.nodes[host.name] = network.lab.start(host)
        for node in network.nodes.values():
            node.wait_ready()
        hosts = network.lab.hosts
        connect([(host, hosts[0]) for host in hosts[1:]])
        onlookers = [Program(host, "checksums", network.nodes[host.name].tap).ready() for host in hosts]
        # Everybody sends to somebody at once, with three partners in turn. Every pair there is: test_offload_paths.
        for turn, shift in enumerate((1, 3, 4)):
            pairs = [(host, hosts[(number + shift) % len(hosts)]) for number, host in enumerate(hosts)]
            connect(pairs)
            version = turn % 2
            streams = [stream(one, other, addresses(other)[version], SMALL_BYTES, seed=shift) for one, other in pairs]
            for each in streams:
                assert_arrived(each, SMALL_BYTES)
            datagrams = [Datagrams(one, other, addresses(other)[version], 0.01) for one, other in pairs]
            for sending in datagrams:
                sending.send(EDGES)
            for sending in datagrams:
                assert sending.lost(limit_s=60) <= len(EDGES) // 3
        for host, combination, onlooker in zip(hosts, COMBINATIONS, onlookers, strict=True):
            seen = json.loads(onlooker.result(60))
            assert seen.get("wrong", 0) == seen.get("wrong partial", 0) == 0, (combination, seen)
            assert seen["complete"] > 100 or "checksum" in combination, (combination, seen)
            assert "checksum" in combination or not seen.get("partial"), (combination, seen)
            counters = network.nodes[host.name].status()["counters"]
            assert not counters.get("inner_malformed"), (combination, counters)


@contextmanager
def rough(lab: Lab, host: LabHost, *how: float) -> Iterator[None]:
    """Put a rough wire between a host and the switch."""
    command = (sys.executable, rough_wire.__file__, *map(str, how))
    switch = lab._switch
    process = switch.spawn(*command, stdout=subprocess.PIPE)
    try:
        assert line_of(process, READY_LIMIT_S) == "ready"
        switch.ip(
            "link add name br1 type bridge mcast_snooping 0",
            "link set br1 up",
            f"link set port{host.number} master br1",
            "link set tap0 master br1 up",
            "link set tap1 master br0 up",
        )

        def up() -> bool:
            """every port forwards"""
            states = switch.run("bridge", "link", "show").stdout.splitlines()
            return len(states) >= len(lab.hosts) + 2 and all("state forwarding" in line for line in states if line)

        wait_until(up, READY_LIMIT_S)
        yield
    finally:
        switch.ip(f"link set port{host.number} master br0", "link del br1")
        end(process)


@pytest.mark.timeout(900)
def test_a_wire_that_loses_reorders_and_repeats_changes_nothing_but_the_time(trio: RealNetwork) -> None:
    one, other, _ = trio.lab.hosts
    with rough(trio.lab, one, 2.0, 2.0, 2.0, 0):
        connect([(one, other)])
        assert_arrived(stream(one, other, addresses(other)[0], ROUGH_BYTES, seed=3), ROUGH_BYTES, limit_s=800)
        assert_arrived(stream(other, one, addresses(one)[1], SMALL_BYTES, seed=4), SMALL_BYTES)
        datagrams = Datagrams(one, other, addresses(other)[0], 0.002)
        datagrams.send([1200] * 2000)
        lost = datagrams.lost(limit_s=60)
        assert 0 < lost < 300, "a wire that loses 2 %"
    connect([(one, other)])


def fragments(capture: Capture) -> int:
    """How many IP packets of a capture are fragments."""
    count = 0
    for frame in capture.frames():
        packet = frame[ETHERNET_BYTES:]
        if frame[12:14] == b"\x08\x00":
            count += bool(packet[6] & 0x3F or packet[7])
        elif frame[12:14] == b"\x86\xdd":
            count += packet[6] == 44
    return count


def start_on(lab: Lab, version: int, options: Sequence[str] = ()) -> list[LabNode]:
    first = lab.hosts[0]
    bootstrap = f"[{first.underlay6}]:{PORT}" if version == 6 else f"{first.underlay4}:{PORT}"
    nodes = [lab.start(host, *options, bootstraps=() if host is first else [bootstrap]) for host in lab.hosts]
    for node in nodes:
        node.wait_ready()
    connect(list(permutations(lab.hosts, 2)))
    return nodes


@pytest.mark.parametrize(("version", "mtu", "options"), [
    (4, 1280, ()),
    (6, 1280, ()),
    (4, 1280, ("--underlay-mtu", "1280")),
    (6, 1500, ()),
])  # fmt: skip
def test_nothing_is_fragmented_on_links_of_1280_and_1500_bytes(
    version: int, mtu: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    with Lab(NAMES[:2]) as lab:
        lab.issue_all()
        for host in lab.hosts:
            host.namespace.ip(f"link set eth0 mtu {mtu}")
            if version == 6:
                host.namespace.ip(f"addr del {host.underlay4}/24 dev eth0")
        one, other = lab.hosts
        with Capture(one, "eth0", tmp_path / "wire.pcap", "ip or ip6") as seen:
            nodes = start_on(lab, version, options)
            for address in addresses(other):
                assert_arrived(stream(one, other, address, SMALL_BYTES, seed=6), SMALL_BYTES)
                datagrams = Datagrams(one, other, address, 0.004)
                datagrams.send(EDGES)
                assert datagrams.lost(limit_s=60) <= len(EDGES) // 10
        assert fragments(seen) == 0
        assert sum(1 for _ in seen.frames()) > 500, "or the capture proves nothing"
        assert not nodes[0].status()["counters"].get("udp_batch_refused")


@pytest.mark.parametrize("version", [4, 6])
def test_traffic_flows_where_long_packets_vanish_in_silence(version: int) -> None:
    with Lab(NAMES[:2]) as lab:
        lab.issue_all()
        one, other = lab.hosts
        start_on(lab, version)
        assert_arrived(stream(one, other, addresses(other)[0], SMALL_BYTES, seed=7), SMALL_BYTES)
        with rough(lab, one, 0, 0, 0, 1300):
            connect([(one, other), (other, one)])
            assert_arrived(stream(one, other, addresses(other)[0], SMALL_BYTES, seed=8), SMALL_BYTES, limit_s=60)
            assert_arrived(stream(other, one, addresses(one)[1], SMALL_BYTES, seed=9), SMALL_BYTES, limit_s=60)


def test_renewing_keys_during_a_bulk_stream_loses_nothing() -> None:
    with Lab(NAMES[:2]) as lab:
        lab.issue_all()
        one, other = lab.hosts
        nodes = [hasty(lab, host) for host in lab.hosts]
        try:
            for node in nodes:
                node.wait_ready()
            connect([(one, other), (other, one)])
            datagrams = Datagrams(one, other, addresses(other)[0], 0.004)
            datagrams.send([200] * 2000)
            before = nodes[0].log().count("new keys")
            count = 0
            while datagrams._source.process.poll() is None:
                assert_arrived(stream(one, other, addresses(other)[0], 10 * SMALL_BYTES, seed=count), 10 * SMALL_BYTES)
                count += 1
            assert datagrams.lost(limit_s=60) == 0
            assert count > 0
            assert nodes[0].log().count("new keys") - before >= 4
        finally:
            for node in nodes:
                node.close()


def hasty(lab: Lab, host: LabHost) -> LabNode:
    """A node that renews its keys every second."""
    first = lab.hosts[0]
    bootstraps = () if host is first else (Bootstrap(first.underlay4, PORT),)
    settings = UpSettings(
        str(host.bundle), Endpoint("0.0.0.0", PORT), bootstraps, None, str(host.state), str(host.control)
    )
    command = (sys.executable, hasty_daemon.__file__, settings.to_text())
    return LabNode(host.name, host.namespace, command, host.folder, [COMMAND])
