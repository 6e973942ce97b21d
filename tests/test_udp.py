"""What is particular to real sockets: failing sends, changing addresses, stopped processes, full buffers.

Tests that touch addresses or routes run on a thread with a network namespace of its own, which vanishes with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from ipaddress import ip_network
from typing import Any

import pytest

import dht.addresses
import dht.udp
import dht.udp_intake
import dht.udp_port
from dht.host import Endpoint
from dht.timers import COMPACT_ABOVE, UdpTimers
from dht.udp import UdpHost
from dht.udp_port import QUEUE_BYTES
from tests.patience import PATIENCE_S

CLONE_NEWNET = 0x40000000
LOOPBACK4, LOOPBACK6 = Endpoint("127.0.0.1", 0), Endpoint("::1", 0)
WILDCARD = Endpoint("0.0.0.0", 0)

Scene = Callable[[], Coroutine[Any, Any, None]]


def ip(*words: str) -> None:
    """`ip WORDS`, in the network namespace of this thread."""
    program = shutil.which("ip")
    assert program is not None
    subprocess.run([program, *words], check=True, capture_output=True, text=True)


def can_have_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    refused: list[int] = []
    thread = threading.Thread(target=lambda: refused.append(ctypes.CDLL(None).unshare(CLONE_NEWNET)))
    thread.start()
    thread.join()
    return refused == [0]


needs_namespace = pytest.mark.skipif(
    not can_have_namespaces(), reason="needs root, the 'ip' command and network namespaces"
)


def play_apart(scene: Scene, *setup: str) -> None:
    """Run `scene` in a new network namespace with loopback up, after the `ip` commands of `setup`."""
    failures: list[BaseException] = []

    def play() -> None:
        try:
            assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
            for command in ("link set lo up", *setup):
                ip(*command.split())
            asyncio.run(scene())
        except BaseException as failure:  # noqa: BLE001  carried over to the test's own thread
            failures.append(failure)

    thread = threading.Thread(target=play)
    thread.start()
    thread.join(timeout=4 * PATIENCE_S)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


LINK = ("link add d0 type veth peer name d1", "link set d1 up", "link set d0 up")


async def until(condition: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, "did not happen in time"
        await asyncio.sleep(0.005)


def inbox_of(host: UdpHost) -> list[tuple[bytes, Endpoint]]:
    inbox: list[tuple[bytes, Endpoint]] = []
    host.on_receive(lambda datagram, source: inbox.append((datagram, source)))
    return inbox


def addresses(host: UdpHost) -> set[str]:
    assert all(endpoint.port == host.port for endpoint in host.local_endpoints())
    return {endpoint.address for endpoint in host.local_endpoints()}


# Listening


def test_a_wildcard_listens_on_both_versions_at_one_port() -> None:
    async def scene() -> None:
        host, four, six = UdpHost(WILDCARD), UdpHost(LOOPBACK4), UdpHost(LOOPBACK6)
        inbox = inbox_of(host)
        four.send(Endpoint("127.0.0.1", host.port), b"four")
        six.send(Endpoint("::1", host.port), b"six")
        await until(lambda: len(inbox) == 2)
        # IPv4 peers appear with IPv4 addresses, never mapped into IPv6.
        assert set(inbox) == {(b"four", Endpoint("127.0.0.1", four.port)), (b"six", Endpoint("::1", six.port))}
        for each in (host, four, six):
            each.close()

    asyncio.run(scene())


@needs_namespace
def test_the_ipv6_wildcard_is_the_same() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("::", 7000))
        assert addresses(host) == {"192.0.2.1", "2001:db8::1"}
        host.close()

    play_apart(scene, *LINK, "addr add 192.0.2.1/24 dev d0", "addr add 2001:db8::1/64 dev d0 nodad")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_an_error_and_leaves_no_socket_behind(address: str) -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint(address, 0))
        with pytest.raises(OSError, match="in use") as refusal:
            UdpHost(Endpoint(address, host.port))
        assert refusal.value.errno == errno.EADDRINUSE
        host.close()
        again = UdpHost(Endpoint(address, host.port))
        again.close()

    asyncio.run(scene())


def test_a_wildcard_whose_port_is_taken_for_ipv6_only_is_an_error() -> None:
    async def scene() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("::", 0))
            with pytest.raises(OSError, match="in use"):
                UdpHost(Endpoint("0.0.0.0", other.getsockname()[1]))

    asyncio.run(scene())


def test_an_address_of_another_machine_is_an_error() -> None:
    async def scene() -> None:
        with pytest.raises(OSError) as refusal:
            UdpHost(Endpoint("192.0.2.201", 0))
        assert refusal.value.errno == errno.EADDRNOTAVAIL

    asyncio.run(scene())


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = dht.udp._bound

    def without_ipv6(listen: Endpoint) -> socket.socket:
        if ":" in listen.address:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return bound(listen)

    async def scene() -> None:
        host = UdpHost(WILDCARD)
        inbox = inbox_of(host)
        host.send(Endpoint("::1", host.port), b"lost")
        host.send(Endpoint("127.0.0.1", host.port), b"found")
        await until(lambda: len(inbox) == 1)
        assert host.counters == {"udp_send_no_socket": 1}
        assert not any(":" in address for address in addresses(host))
        host.close()

    monkeypatch.setattr(dht.udp, "_bound", without_ipv6)
    asyncio.run(scene())


def test_nothing_is_called_back_after_close() -> None:
    async def scene() -> None:
        host, other = UdpHost(LOOPBACK4), UdpHost(LOOPBACK4)
        inbox = inbox_of(host)
        ran: list[int] = []
        timer = host.call_later(0.01, lambda: ran.append(1))
        other.send(Endpoint("127.0.0.1", host.port), b"too late")
        host.close()
        host.close()
        host.call_later(0.0, lambda: ran.append(2))
        host.send(Endpoint("127.0.0.1", other.port), b"from the grave")
        await asyncio.sleep(0.1)
        timer.cancel()
        assert (inbox, ran) == ([], [])
        other.close()

    asyncio.run(scene())


def test_a_receiver_may_close_the_host() -> None:
    async def scene() -> None:
        host, other = UdpHost(LOOPBACK4), UdpHost(LOOPBACK4)
        received: list[bytes] = []

        def receive(datagram: bytes, source: Endpoint) -> None:
            received.append(datagram)
            host.close()

        host.on_receive(receive)
        other.send_batch(Endpoint("127.0.0.1", host.port), [b"1", b"2", b"3"])
        await until(lambda: bool(received))
        await asyncio.sleep(0.1)
        assert received == [b"1"]
        other.close()

    asyncio.run(scene())


# Sending


@needs_namespace
def test_sends_that_the_machine_refuses_are_counted_and_harm_nothing() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("0.0.0.0", 7000))
        inbox = inbox_of(host)
        for address in ("198.51.100.1", "203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8:9::1"):
            host.send(Endpoint(address, 9), b"x")
        host.send(Endpoint("192.0.2.9", 9), bytes(70_000))
        host.send(Endpoint("192.0.2.9", 0), b"x")
        host.send(Endpoint("192.0.2.255", 9), b"broadcast")
        assert host.counters == {
            "udp_send_enetunreach": 2,
            "udp_send_eacces": 2,  # a prohibited route, and broadcast
            "udp_send_einval": 2,  # a blackhole, and port 0
            "udp_send_ehostunreach": 1,
            "udp_send_emsgsize": 1,
        }
        host.send(Endpoint("192.0.2.1", 7000), b"still alive")
        await until(lambda: len(inbox) == 1)
        host.close()

    routes = ("prohibit 203.0.113.1", "blackhole 203.0.113.2", "unreachable 203.0.113.3")
    play_apart(scene, *LINK, "addr add 192.0.2.1/24 dev d0", *(f"route add {route}" for route in routes))


@needs_namespace
@pytest.mark.skipif(shutil.which("nft") is None, reason="needs the 'nft' command")
def test_a_firewall_that_refuses_sends_is_counted_and_may_relent() -> None:
    async def scene() -> None:
        rules = "add table inet t; add chain inet t o { type filter hook output priority 0; policy drop; }"
        host = UdpHost(Endpoint("0.0.0.0", 7000))
        inbox = inbox_of(host)
        done = subprocess.run(["nft", rules], capture_output=True, text=True, check=False)
        if done.returncode:
            host.close()
            pytest.skip(f"nft cannot: {done.stderr.strip()}")
        host.send(Endpoint("127.0.0.1", 7000), b"refused")
        assert host.counters == {"udp_send_eperm": 1}
        subprocess.run(["nft", "flush ruleset"], check=True)
        host.send(Endpoint("127.0.0.1", 7000), b"passed")
        await until(lambda: len(inbox) == 1)
        assert inbox[0][0] == b"passed"
        host.close()

    play_apart(scene)


@needs_namespace
def test_what_finds_the_socket_full_waits_in_order_up_to_a_bound() -> None:
    async def scene() -> None:
        tc = shutil.which("tc")
        if tc is None:
            pytest.skip("needs the 'tc' command")
        slow = [tc, "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "200mbit", "burst", "20kb", "limit", "100mb"]
        done = subprocess.run(slow, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"tc cannot: {done.stderr.strip()}")
        alice, bob = UdpHost(LOOPBACK4), UdpHost(LOOPBACK4)
        for port in alice._ports.values():
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        inbox = inbox_of(bob)
        to = Endpoint("127.0.0.1", bob.port)
        alice.send_batch(to, [number.to_bytes(4, "big") * 300 for number in range(500)])
        await until(lambda: len(inbox) == 500)
        assert [int.from_bytes(datagram[:4], "big") for datagram, _ in inbox] == list(range(500))
        assert alice.counters == {}
        alice.send_batch(to, [bytes(1000)] * 5000)
        refused = alice.counters["udp_send_queue_full"]
        assert 5000 * 1000 - QUEUE_BYTES - 500_000 < 1000 * refused < 5000 * 1000 - QUEUE_BYTES
        await until(lambda: len(inbox) == 500 + 5000 - refused)
        alice.send(to, b"the queue is used up and the socket free again")
        await until(lambda: len(inbox) == 501 + 5000 - refused)
        alice.close()
        bob.close()

    play_apart(scene)


@needs_namespace
def test_an_answer_leaves_from_the_address_that_was_written_to() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("0.0.0.0", 7000))
        host.on_receive(lambda datagram, source: host.send(source, b"re: " + datagram))
        for mine, theirs in (
            ("192.0.2.9", ("192.0.2.1", "192.0.2.2")),
            ("2001:db8::9", ("2001:db8::1", "2001:db8::2")),
        ):
            peer = UdpHost(Endpoint(mine, 0))
            inbox = inbox_of(peer)
            for address in (*theirs, *reversed(theirs)):
                peer.send(Endpoint(address, 7000), b"hello")
                await until(lambda: bool(inbox))  # noqa: B023
                assert inbox.pop() == (b"re: hello", Endpoint(address, 7000))
            peer.close()
        assert host.counters == {}
        host.close()

    four = (f"addr add 192.0.2.{number}/24 dev d0" for number in (1, 2, 9))
    six = (f"addr add 2001:db8::{number}/64 dev d0 nodad" for number in (1, 2, 9))
    play_apart(scene, *LINK, *four, *six)


@needs_namespace
def test_when_the_address_that_was_written_to_is_gone_the_answer_leaves_from_another() -> None:
    async def scene() -> None:
        host, peer = UdpHost(Endpoint("0.0.0.0", 7000)), UdpHost(Endpoint("192.0.2.9", 0))
        at_host, at_peer = inbox_of(host), inbox_of(peer)
        peer.send(Endpoint("192.0.2.2", 7000), b"hello")
        await until(lambda: bool(at_host))
        ip("addr", "del", "192.0.2.2/24", "dev", "d0")
        host.send(Endpoint("192.0.2.9", peer.port), b"at once, before the news")
        await until(lambda: len(at_peer) == 1)
        assert at_peer[0][1].address != "192.0.2.2"
        assert host.counters == {}
        host.close()
        peer.close()

    play_apart(scene, *LINK, *(f"addr add 192.0.2.{number}/24 dev d0" for number in (1, 2, 9)))


@needs_namespace
def test_a_flood_of_invented_peers_does_not_grow_the_memory_of_arrivals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht.udp_port, "MAX_ARRIVALS", 50)

    async def scene() -> None:
        host = UdpHost(Endpoint("0.0.0.0", 7000))
        inbox = inbox_of(host)
        peers = [UdpHost(Endpoint("192.0.2.1", 0)) for _ in range(80)]
        for peer in peers:
            peer.send(Endpoint("192.0.2.2", 7000), b"x")
        await until(lambda: len(inbox) == 80)
        known = host._ports[socket.AF_INET].arrivals
        assert set(known) == {Endpoint("192.0.2.1", peer.port) for peer in peers[30:]}
        for each in (host, *peers):
            each.close()

    play_apart(scene, *LINK, *(f"addr add 192.0.2.{number}/24 dev d0" for number in (1, 2)))


# Local endpoints


@needs_namespace
def test_only_addresses_that_peers_can_use_are_offered() -> None:
    async def scene() -> None:
        virtual = (ip_network("10.77.0.0/16"), ip_network("fd12:3456:789a::/48"))
        host = UdpHost(Endpoint("0.0.0.0", 7000), exclude=virtual)
        assert tuple(host.local_endpoints()) == (
            Endpoint("192.0.2.1", 7000),
            Endpoint("192.0.2.2", 7000),
            Endpoint("2001:db8::1", 7000),
        )
        host.close()

    play_apart(
        scene,
        *LINK,
        "addr add 192.0.2.1/24 dev d0",
        "addr add 192.0.2.2 peer 198.51.100.1 dev d0",
        "addr add 10.77.0.5/16 dev d0",
        "addr add 169.254.7.7/16 dev d0",
        "addr add 2001:db8::1/64 dev d0 nodad",
        "addr add fd12:3456:789a::1/48 dev d0 nodad",
        "addr add fe80::7/64 dev d0 nodad",
    )


@needs_namespace
def test_loopback_is_offered_where_there_is_nothing_else() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("0.0.0.0", 7000))
        assert addresses(host) == {"127.0.0.1", "::1"}
        host.close()

    play_apart(scene)


def test_a_specific_address_is_offered_as_it_is() -> None:
    async def scene() -> None:
        host = UdpHost(LOOPBACK4)
        assert tuple(host.local_endpoints()) == (Endpoint("127.0.0.1", host.port),)
        host.close()

    asyncio.run(scene())


@needs_namespace
def test_addresses_that_come_and_go_are_news_once_each_time() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("0.0.0.0", 7000), exclude=[ip_network("10.77.0.0/16")])
        news: list[set[str]] = []
        host.on_addresses_changed(lambda: news.append(addresses(host)))
        ip("addr", "add", "192.0.2.2/24", "dev", "d0")
        ip("addr", "add", "2001:db8::2/64", "dev", "d0", "nodad")
        await until(lambda: bool(news))
        assert news == [{"192.0.2.1", "192.0.2.2", "2001:db8::2"}]
        ip("addr", "del", "192.0.2.1/24", "dev", "d0")
        await until(lambda: len(news) == 2)
        assert "192.0.2.1" not in news[1]
        # Our own TAP's address is no news, nor is one that is back before anybody looked.
        ip("addr", "add", "10.77.0.1/16", "dev", "d0")
        ip("addr", "del", "2001:db8::2/64", "dev", "d0")
        ip("addr", "add", "2001:db8::2/64", "dev", "d0", "nodad")
        await asyncio.sleep(0.4)
        assert len(news) == 2
        host.close()

    play_apart(scene, *LINK, "addr add 192.0.2.1/24 dev d0")


@needs_namespace
def test_an_address_is_offered_once_it_is_known_to_be_unique() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("0.0.0.0", 7000))
        news: list[set[str]] = []
        host.on_addresses_changed(lambda: news.append(addresses(host)))
        ip("addr", "add", "2001:db8::2/64", "dev", "d0")
        await until(lambda: bool(news))
        assert news == [{"2001:db8::2"}]
        host.close()

    play_apart(scene, *LINK)


@needs_namespace
def test_when_its_address_leaves_the_machine_it_listens_on_all_others(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("192.0.2.1", 7000))
        inbox = inbox_of(host)
        news: list[set[str]] = []
        host.on_addresses_changed(lambda: news.append(addresses(host)))
        ip("addr", "del", "192.0.2.1/24", "dev", "d0")
        host.send(Endpoint("192.0.2.55", 9), b"meanwhile")
        ip("addr", "add", "198.51.100.1/24", "dev", "d0")
        await until(lambda: bool(news))
        assert news == [{"198.51.100.1"}]
        assert host.port == 7000
        peer = UdpHost(Endpoint("198.51.100.1", 0))
        answers = inbox_of(peer)
        peer.send(Endpoint("198.51.100.1", 7000), b"welcome")
        await until(lambda: bool(inbox))
        host.send(inbox[0][1], b"thanks")
        await until(lambda: bool(answers))
        assert answers == [(b"thanks", Endpoint("198.51.100.1", 7000))]
        # And back home again.
        ip("addr", "add", "192.0.2.1/24", "dev", "d0")
        await until(lambda: len(news) == 2)
        assert news[1] == {"192.0.2.1", "198.51.100.1"}
        host.close()
        peer.close()

    with caplog.at_level(logging.WARNING):
        play_apart(scene, *LINK, "addr add 192.0.2.1/24 dev d0")
    assert "192.0.2.1:7000 is gone from this machine; listening on port 7000 of all addresses" in caplog.text


@needs_namespace
def test_when_even_its_port_is_taken_meanwhile_it_takes_another() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("192.0.2.1", 7000))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
            squatter.bind(("127.0.0.1", 7000))
            ip("addr", "del", "192.0.2.1/24", "dev", "d0")
            await until(lambda: host.port != 7000)
        inbox = inbox_of(host)
        host.send(Endpoint("127.0.0.1", host.port), b"hello")
        await until(lambda: bool(inbox))
        host.close()

    play_apart(scene, *LINK, "addr add 192.0.2.1/24 dev d0")


@needs_namespace
def test_an_address_that_is_back_at_once_changes_nothing() -> None:
    async def scene() -> None:
        host = UdpHost(Endpoint("192.0.2.1", 7000))
        news: list[set[str]] = []
        host.on_addresses_changed(lambda: news.append(addresses(host)))
        ip("addr", "flush", "dev", "d0")
        ip("addr", "add", "192.0.2.1/24", "dev", "d0")
        await asyncio.sleep(0.4)
        inbox = inbox_of(host)
        host.send(Endpoint("192.0.2.1", 7000), b"hello")
        await until(lambda: bool(inbox))
        assert (news, addresses(host)) == ([], {"192.0.2.1"})
        host.close()

    play_apart(scene, *LINK, "addr add 192.0.2.1/24 dev d0")


def test_where_the_kernel_refuses_netlink_it_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(groups: int) -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    async def scene() -> None:
        host = UdpHost(WILDCARD)
        inbox = inbox_of(host)
        assert addresses(host) >= {"127.0.0.1"}
        host.send(Endpoint("127.0.0.1", host.port), b"hello")
        await until(lambda: bool(inbox))
        host.close()

    monkeypatch.setattr(dht.addresses, "_netlink", refuse)
    asyncio.run(scene())


@pytest.mark.parametrize("seed", range(3))
def test_no_answer_of_the_kernel_can_trip_the_parser(seed: int) -> None:
    rng = random.Random(seed)
    with dht.addresses._netlink(groups=0) as asking:
        asking.settimeout(PATIENCE_S)
        body = dht.addresses._ADDRESS.pack(0, 0, 0, 0, 0)
        asking.send(dht.addresses._HEADER.pack(16 + len(body), dht.addresses.RTM_GETADDR, 0x301, 1, 0) + body)
        answer = asking.recv(1 << 16)
    whole: list[Any] = []
    dht.addresses._read_addresses(answer, 1, whole)
    assert whole
    for _ in range(3000):
        damaged = bytearray(answer[: rng.randrange(len(answer) + 1)])
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        dht.addresses._read_addresses(bytes(damaged), 1, [])


# Time


def test_the_clock_ignores_whoever_sets_the_machines_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        host = UdpHost(LOOPBACK4)
        began = host.now()
        assert abs(began - time.time()) < PATIENCE_S
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert began <= host.now() < began + PATIENCE_S
        host.close()

    asyncio.run(scene())


STOPPED = """
import asyncio, os, signal, time
from dht.host import Endpoint
from dht.udp import UdpHost

def ahead(host):
    # The smallest of many: between the two looks at clocks, a busy machine may do something else.
    return min(time.time() - host.now() for _ in range(100))

async def main():
    host = UdpHost(Endpoint("127.0.0.1", 0))
    wall = ahead(host)
    seen = []
    host.on_receive(lambda datagram, source: seen.append(datagram.decode()))
    for delay_s in (0.5, 0.2, 0.35):
        host.call_later(delay_s, lambda delay_s=delay_s: seen.append(f"{delay_s}"))
    last = host.now()
    jump_s = 0.0
    print(host.port, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)  # By itself, so that no timer can have been due before.
    while len(seen) < 4:
        await asyncio.sleep(0.001)
        now = host.now()
        assert now >= last
        jump_s, last = max(jump_s, now - last), now
    print(jump_s, abs(ahead(host) - wall) < 0.2, *seen, flush=True)
    host.close()

asyncio.run(main())
"""


def test_a_stopped_process_finds_its_datagrams_and_overdue_timers_when_it_goes_on() -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("127.0.0.1", port))
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        jump_s, agrees, *seen = process.stdout.read().split()
        assert process.wait(timeout=PATIENCE_S) == 0
    assert float(jump_s) > 1.4
    assert agrees == "True"
    assert seen == ["hello", "0.2", "0.35", "0.5"]


def test_a_timer_that_fails_does_not_take_others_with_it() -> None:
    async def scene() -> None:
        reported: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        host = UdpHost(LOOPBACK4)
        ran: list[int] = []

        def fail() -> None:
            raise AssertionError("our own fault")

        for number in range(3):
            host.call_later(0.0, fail)
            host.call_later(0.0, lambda number=number: ran.append(number))  # type: ignore[misc]
        await until(lambda: len(ran) == 3)
        assert ran == [0, 1, 2]
        assert len(reported) == 3
        host.close()

    asyncio.run(scene())


def test_a_receiver_that_fails_does_not_take_other_datagrams_with_it() -> None:
    async def scene() -> None:
        reported: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        host = UdpHost(LOOPBACK4)
        received: list[bytes] = []

        def receive(datagram: bytes, source: Endpoint) -> None:
            received.append(datagram)
            assert datagram != b"1"

        host.on_receive(receive)
        host.send_batch(Endpoint("127.0.0.1", host.port), [b"0", b"1", b"2"])
        await until(lambda: len(received) == 3)
        assert len(reported) == 1
        host.close()

    asyncio.run(scene())


def test_cancelled_timers_do_not_pile_up() -> None:
    async def scene() -> None:
        timers = UdpTimers(asyncio.get_running_loop())
        for _ in range(20 * COMPACT_ABOVE):
            timers.call_later(3600.0, lambda: None).cancel()
        assert len(timers._heap) <= 2 * COMPACT_ABOVE
        timers.close()

    asyncio.run(scene())


def test_a_flood_of_datagrams_does_not_hold_up_timers() -> None:
    async def scene() -> None:
        host, flood = UdpHost(LOOPBACK4), UdpHost(LOOPBACK4)
        inbox = inbox_of(host)
        waited_for: list[int] = []
        flood.send_batch(Endpoint("127.0.0.1", host.port), [bytes(100)] * 2000)
        host.call_later(0.0, lambda: waited_for.append(len(inbox)))
        await until(lambda: len(inbox) == 2000)
        assert waited_for[0] <= 2 * dht.udp_intake.DRAIN_DATAGRAMS
        host.close()
        flood.close()

    asyncio.run(scene())
