"""Programs that use multicast and broadcast, between eight real nodes behind NATs of all kinds.

Service discovery (avahi), a stream like a video's, a broadcast ping, and a storm.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sims.lab.namespace import missing_tools
from tests.e2e import avahi
from tests.e2e.natted import NattedNetwork
from tests.e2e.stream import Receivers, Watchers, send, wanting
from tests.patience import PATIENCE_S

KINDS = ("public", "full", "addr", "port", "sym", "cgnat-port", "cgnat-sym", "firewalled")
GROUP = "239.77.1.1"
BROADCAST = "10.77.255.255"
SIZE = 1316  # seven packets of an MPEG transport stream
PER_S = 475.0  # with SIZE, 5 Mbit/s
STREAM_S = 12.0
STORM_S = 3.0


@pytest.fixture(scope="module")
def eight_natted(able: None) -> Iterator[NattedNetwork]:
    with NattedNetwork(1, KINDS) as network:
        network.start()
        yield network


def counters(network: NattedNetwork, name: str) -> dict[str, int]:
    found: dict[str, int] = network.lab.nodes[name].status()["counters"]
    return found


def test_avahi_finds_a_service_on_another_host(eight_natted: NattedNetwork) -> None:
    network = eight_natted
    if missing := missing_tools(avahi.TOOLS):
        why = f"these commands are missing: {' '.join(missing)}"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    with ExitStack() as stack:

        def daemon(name: str) -> avahi.Avahi:
            host, node = network.lab.host(name), network.lab.nodes[name]
            return stack.enter_context(avahi.Avahi(host.namespace, host.folder / "avahi", name, node.tap))

        far, near = daemon("sym1"), daemon("cgnat-port1")
        far.publish("A printer", "_ipp._tcp", 631)
        address, deadline = network.addresses["sym1"], time.monotonic() + PATIENCE_S
        found = ""
        while not re.search(rf"^=;.*_ipp\._tcp;local;sym1\.local;{address};631;\"path=/here\"$", found, re.MULTILINE):
            assert time.monotonic() < deadline, found
            found = near.browse("_ipp._tcp")
        print(found)


def test_a_ping_to_the_broadcast_address_is_answered_by_all(eight_natted: NattedNetwork) -> None:
    network = eight_natted
    others = {address for name, address in network.addresses.items() if name != "port1"}
    for host in network.lab.hosts:
        # Kernels don't answer such pings unless they are told to.
        host.namespace.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts")
    printed = network.lab.host("port1").namespace.run("ping", "-n", "-b", "-c5", "-W3", BROADCAST).stdout
    assert others <= set(re.findall(r"bytes from ([\d.]+):", printed)), printed
    repeated = re.findall(r"bytes from ([\d.]+): icmp_seq=(\d+)", printed)
    assert len(repeated) == len(set(repeated)), printed


def test_a_stream_reaches_seven_receivers_each_frame_once(eight_natted: NattedNetwork) -> None:
    network = eight_natted
    receivers = [name for name in network.names if name != "addr1"]
    count = round(PER_S * STREAM_S)
    with Receivers(network, receivers, GROUP, SIZE) as listening, Watchers(network, ["addr1"], GROUP) as watching:
        took_s = send(network, "addr1", GROUP, count, PER_S, SIZE)
        results, seen = listening.results(), watching.seen()
    lost = {name: count - len(result.came) for name, result in results.items()}
    rate = count * SIZE * 8 / took_s / 1e6
    print(
        f"{count} frames in {took_s:.1f} s, {rate:.2f} Mbit/s; lost: {lost}, {max(lost.values()) / count:.3%} at most"
    )
    for name in network.names:
        kinds = ("broadcast", "cast", "multicast", "udp", "bad", "tunnel", "fragment")
        print(name, {key: value for key, value in counters(network, name).items() if key.startswith(kinds)})
    assert max(lost.values()) < count / 1000
    assert {times for result in results.values() for times in result.came.values()} == {1}
    assert not any(result.foreign for result in results.values())
    assert seen == {"addr1": 0}, "the sender got its own frames"


def test_hosts_that_did_not_subscribe_get_nothing(eight_natted: NattedNetwork) -> None:
    network = eight_natted
    deadline = time.monotonic() + PATIENCE_S
    while wanting(network, GROUP):  # those of the test before have left, which takes two seconds to be sure of
        assert time.monotonic() < deadline
    subscribed = ["port1", "firewalled1"]
    others = [name for name in network.names if name not in subscribed]
    with Receivers(network, subscribed, GROUP, SIZE) as listening, Watchers(network, others, GROUP) as watching:
        send(network, "cgnat-sym1", GROUP, 200, 100.0, SIZE)
        results, seen = listening.results(), watching.seen()
    assert {name: len(result.came) for name, result in results.items()} == dict.fromkeys(subscribed, 200)
    assert seen == dict.fromkeys(others, 0)


def test_a_group_opened_by_a_secret_takes_those_who_have_it(eight_natted: NattedNetwork) -> None:
    """And none of the members of the network who don't, though they try by the same name."""
    network = eight_natted
    lab = network.lab
    files = {name: str(lab.folder / f"{name}.secret") for name in ("right", "wrong")}
    for file in files.values():
        assert lab.p2pvpn("group", "secret", "--out", file).returncode == 0
    inside = ["full1", "sym1", "cgnat-sym1", "firewalled1"]
    for name in network.names:
        file = files["right" if name in inside else "wrong"]
        if name in inside or name == "port1":
            done = lab.nodes[name].ask("group", "join", "club", "--secret", file)
            assert done.returncode == 0, done.stderr
    deadline, seen = time.monotonic() + PATIENCE_S, [""]
    while seen != sorted(inside):
        assert time.monotonic() < deadline, seen
        (club,) = lab.nodes["sym1"].ask_json("groups")["groups"]
        seen = sorted(member["name"] for member in club["members"])
    (alone,) = lab.nodes["port1"].ask_json("groups")["groups"]
    assert [member["name"] for member in alone["members"]] == ["port1"]
    printed = lab.nodes["sym1"].ask("groups").stdout
    assert "club: member, opened by a secret, epoch 0, 4 members" in printed
    print(printed)
    assert lab.nodes["sym1"].ask("group", "leave", "club").returncode == 0
    assert lab.nodes["sym1"].ask_json("groups")["groups"] == []


def test_a_storm_leaves_the_pings_of_others_alone(eight_natted: NattedNetwork) -> None:
    network = eight_natted
    with network.pings("sym1", "public1", 0.1) as pings:
        pings.wait_for_reply()
        before = time.time()
        send(network, "full1", BROADCAST, round(1000 * STORM_S), 1000.0, 100)
        pings.wait_for_reply(after=time.time())
        replies = [reply for reply in pings.replies() if reply[0] > before]
        missing = pings.missing(before)
    slowest = max(rtt_ms for _, _, rtt_ms in replies)
    dropped = counters(network, "full1")["multicast_over_rate"]
    print(f"{len(replies)} replies during the storm, {len(missing)} missing, the slowest after {slowest:.0f} ms;")
    print(f"{dropped} of {1000 * STORM_S:.0f} packets dropped at their source")
    assert not missing
    assert dropped > 0.6 * 1000 * STORM_S
    network.whole(limit_s=5.0)
