"""Real TAP devices, each in a network namespace of its own, with the kernel as the other party.

Every test runs one `scenario_...` function of this file in a child process inside fresh namespaces, which the
kernel removes when the child ends. They need /dev/net/tun, `unshare`, `ip` and `ping`, and either root or user
namespaces; what is missing is named in the reason for skipping.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from ipop.destination import is_membership, mac_of
from ipop.device import CLONE_DEVICE, KernelTap
from ipop.errors import SetupError
from ipop.ethernet import BadFrame, address_text, checksum, checksum6, ipv4_packet, ipv6_packet, unwrap, wrap
from ipop.icmp import Reason, too_big, unreachable
from ipop.membership import Membership
from ipop.neighbor import Segment, answer, mac_for
from ipop.tap import Tap
from tests.patience import PATIENCE_S, patient

ROOT = Path(__file__).parent.parent
OWN4, SUBNET = IPv4Address("10.77.0.5"), IPv4Network("10.77.0.0/16")
OWN6, PREFIX6 = IPv6Address("fd12:3456:789a::5"), IPv6Network("fd12:3456:789a::/48")
OTHER4, OTHER6 = "10.77.3.9", "fd12:3456:789a:1::9"
MTU = 1280
NOBODY = 65534

Carry = Callable[[bytes, bytes], bytes | None]


# --- running a scenario in namespaces ----------------------------------------------------------------------

BY_ROOT = ("unshare", "--net", "--mount")
BY_ANYBODY = ("unshare", "--user", "--map-root-user", "--net", "--mount")


@functools.cache
def refusal(namespaces: tuple[str, ...]) -> str | None:
    """Why scenarios can't run in these namespaces here, or None."""
    for program in ("unshare", "ip", "ping"):
        if shutil.which(program) is None:
            return f"the program '{program}' is not installed"
    if not Path(CLONE_DEVICE).exists():
        return f"{CLONE_DEVICE} is missing"
    if namespaces == BY_ROOT and os.geteuid() != 0:
        return "not root"
    if namespaces == BY_ANYBODY:
        made = subprocess.run([*namespaces, "true"], check=False, capture_output=True, text=True)
        if made.returncode:
            return f"this machine refuses user namespaces: {made.stderr.strip()}"
    tried = subprocess.run(
        [*namespaces, "ip", "tuntap", "add", "probe0", "mode", "tap"], check=False, capture_output=True, text=True
    )
    return f"no TAP device in new namespaces: {tried.stderr.strip()}" if tried.returncode else None


def run(scenario: Callable[[], None], namespaces: tuple[str, ...] | None = None) -> None:
    """Run a scenario of this module in a child inside `namespaces`: by root where we are, else by anybody."""
    if namespaces is None:
        namespaces = BY_ROOT if os.geteuid() == 0 else BY_ANYBODY
    reason = refusal(namespaces)
    if reason is not None:
        pytest.skip(reason)
    code = f"import tests.test_device as scenarios; scenarios.{scenario.__name__}()"
    child = subprocess.run(
        [*namespaces, sys.executable, "-c", code],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
    )
    assert child.returncode == 0, f"{scenario.__name__}:\n{child.stdout}{child.stderr}"


def shell(command: str) -> str:
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def open_tap(name: str | None = None, **more: Any) -> KernelTap:
    return KernelTap(name, OWN4, SUBNET, OWN6, PREFIX6, mac_for(OWN4.packed), MTU, **more)


def another_interface(name: str) -> None:
    shell(f"ip link add {name} type veth peer name peer0 && ip link set {name} up && ip link set peer0 up")


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def fails(attempt: Callable[[], object]) -> str:
    """The text of the SetupError that `attempt` must raise, leaving no interface behind."""
    before = interfaces()
    try:
        attempt()
    except SetupError as error:
        assert interfaces() == before, f"left behind: {interfaces() - before}"
        text = str(error)
        assert "\n" not in text and text, text
        return text
    raise AssertionError("nothing was refused")


class Wire:
    """The smallest possible virtual network behind a TAP: answers ARP and neighbour discovery, and gives every IP
    packet to `carry(packet, destination)`, whose result goes back to the kernel."""

    def __init__(self, tap: Tap, carry: Carry) -> None:
        self.frames: list[bytes] = []
        self.packets: list[bytes] = []
        self.answered = 0
        self._tap, self._carry = tap, carry
        self._segment = Segment(OWN4, SUBNET, OWN6, PREFIX6)
        tap.on_frame(self._receive)

    def _receive(self, frame: bytes) -> None:
        self.frames.append(frame)
        reply = answer(frame, self._segment)
        if reply is not None:
            self.answered += 1
            self._tap.write(reply)
            return
        try:
            packet, _, destination = unwrap(frame)
        except BadFrame:
            return
        if not self._segment.is_neighbor(destination):
            return
        self.packets.append(packet)
        back = self._carry(packet, destination)
        if back is not None:
            self._tap.write(wrap(back, mac_for(OWN4.packed), mac_for(destination)))


def echo(packet: bytes, _destination: bytes) -> bytes | None:
    """What a living neighbour answers to a ping."""
    if packet[0] >> 4 == 4:
        body = b"\x00\x00\x00\x00" + packet[24:]
        body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
        return ipv4_packet(body, 1, packet[16:20], packet[12:16])
    body = b"\x81\x00\x00\x00" + packet[44:]
    body = body[:2] + checksum6(packet[24:40], packet[8:24], 58, body).to_bytes(2, "big") + body[4:]
    return ipv6_packet(body, 58, packet[24:40], packet[8:24])


def silence(_packet: bytes, _destination: bytes) -> bytes | None:
    return None


def with_wire(carry: Carry, body: Callable[[KernelTap, Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        shell("ip link set lo up")
        tap = open_tap()
        try:
            await body(tap, Wire(tap, carry))
        finally:
            tap.close()

    asyncio.run(main())


async def program(*command: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


# --- a device that works -----------------------------------------------------------------------------------


def scenario_a_ping_comes_out_and_its_answer_goes_in() -> None:
    async def body(tap: KernelTap, wire: Wire) -> None:
        assert tap.ipv6 and tap.name.startswith("p2pvpn"), tap.name
        for target in (OTHER4, OTHER6):
            status, output = await program("ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", target)
            assert status == 0 and " 0% packet loss" in output, output
        assert wire.answered >= 2, "the kernel asked for two hardware addresses"
        assert {address_text(unwrap(wrap(p, bytes(6), bytes(6)))[2]) for p in wire.packets} == {OTHER4, OTHER6}
        neighbors = shell("ip neigh show")
        assert mac_for(IPv4Address(OTHER4).packed).hex(":") in neighbors, neighbors
        assert mac_for(IPv6Address(OTHER6).packed).hex(":") in neighbors, neighbors

    with_wire(echo, body)


@pytest.mark.parametrize("namespaces", [BY_ROOT, BY_ANYBODY], ids=["root", "user namespace"])
def test_the_kernel_resolves_every_neighbor_through_us_and_pings_it(namespaces: tuple[str, ...]) -> None:
    run(scenario_a_ping_comes_out_and_its_answer_goes_in, namespaces)


def scenario_addresses_are_usable_at_once() -> None:
    async def body(tap: KernelTap, wire: Wire) -> None:
        # No tentative address, so a socket can be bound without waiting for duplicate address detection.
        for family, address in ((socket.AF_INET, OWN4), (socket.AF_INET6, OWN6)):
            with socket.socket(family, socket.SOCK_DGRAM) as bound:
                bound.bind((str(address), 0))
        shown = shell(f"ip address show dev {tap.name}")
        assert f"inet {OWN4}/16" in shown and f"inet6 {OWN6}/48" in shown, shown
        assert f"mtu {MTU}" in shown and mac_for(OWN4.packed).hex(":") in shown, shown
        assert "fe80" not in shown, shown

    with_wire(silence, body)


def test_addresses_mtu_and_hardware_address_are_in_place_when_the_constructor_returns() -> None:
    run(scenario_addresses_are_usable_at_once)


def scenario_an_idle_device_is_quiet() -> None:
    async def body(_tap: KernelTap, wire: Wire) -> None:
        await asyncio.sleep(5.0)
        # What is left: multicast listener reports (RFC 3810) for our own solicited-node address, sent twice.
        assert len(wire.frames) <= 3, [frame.hex() for frame in wire.frames]
        kinds = {(frame[12:14], frame[20]) for frame in wire.frames}
        assert kinds <= {(b"\x86\xdd", 0)}, [frame.hex() for frame in wire.frames]

    with_wire(silence, body)


def test_the_kernel_says_next_to_nothing_by_itself() -> None:
    run(scenario_an_idle_device_is_quiet)


def scenario_a_burst_leaves_room_for_others() -> None:
    async def body(_tap: KernelTap, wire: Wire) -> None:
        turns = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"first", (OTHER4, 9))  # Makes the kernel learn the hardware address.
            while not wire.packets:
                await asyncio.sleep(0.01)
            for number in range(500):
                sender.sendto(number.to_bytes(2, "big") + bytes(1000), (OTHER4, 9))
        ends = time.monotonic() + PATIENCE_S
        while len(wire.packets) < 501 and time.monotonic() < ends:
            before = len(wire.packets)
            await asyncio.sleep(0)
            assert len(wire.packets) - before <= 64
            turns += len(wire.packets) > before
        numbers = [int.from_bytes(packet[28:30], "big") for packet in wire.packets[1:]]
        assert numbers == list(range(500)), numbers
        assert turns >= 500 // 64, turns

    with_wire(silence, body)


def test_a_burst_arrives_whole_and_in_order_a_few_frames_a_wake_up() -> None:
    run(scenario_a_burst_leaves_room_for_others)


# --- the kernel believes our errors ------------------------------------------------------------------------


def scenario_pings_hear_that_the_host_is_unreachable() -> None:
    expected = {
        (Reason.HOST, OTHER4): "Destination Host Unreachable",
        (Reason.HOST, OTHER6): "Destination unreachable: Address unreachable",
        (Reason.NETWORK, OTHER4): "Destination Net Unreachable",
        (Reason.NETWORK, OTHER6): "Destination unreachable: No route",
    }
    for (reason, target), text in expected.items():

        def carry(packet: bytes, destination: bytes, reason: Reason = reason) -> bytes | None:
            return unreachable(packet, destination, reason)

        async def body(_tap: KernelTap, wire: Wire, target: str = target, text: str = text) -> None:
            for size in ("56", "1200"):  # A whole quotation, and for IPv4 one that is cut.
                status, output = await program("ping", "-n", "-c", "1", "-W", "20", "-s", size, target)
                assert status == 1 and f"From {target}" in output and text in output, output

        with_wire(carry, body)


def test_ping_prints_our_unreachable_messages() -> None:
    run(scenario_pings_hear_that_the_host_is_unreachable)


def scenario_connect_fails_at_once() -> None:
    async def body(_tap: KernelTap, wire: Wire) -> None:
        for target in (OTHER4, OTHER6):
            started = time.monotonic()
            try:
                await asyncio.wait_for(asyncio.open_connection(target, 80), PATIENCE_S)
            except OSError as error:
                assert isinstance(error, TimeoutError) is False and error.errno == 113, error  # EHOSTUNREACH
            else:
                raise AssertionError("connected to nobody")
            # A kernel that doesn't believe us goes on trying for two minutes.
            assert time.monotonic() - started < patient(2.5)

    with_wire(unreachable, body)


def test_connecting_to_a_missing_host_fails_at_once() -> None:
    run(scenario_connect_fails_at_once)


def scenario_the_kernel_learns_a_smaller_mtu() -> None:
    # IPv6 has no smaller MTU than the device's own here, so the message for it is about a wider device.
    async def main() -> None:
        shell("ip link set lo up")
        tap = KernelTap(None, OWN4, SUBNET, OWN6, PREFIX6, mac_for(OWN4.packed), 1500)
        Wire(tap, lambda packet, destination: too_big(packet, destination, 1300))
        try:
            status, output = await program("ping", "-n", "-M", "do", "-c", "2", "-W", "20", "-s", "1400", OTHER4)
            assert status == 1 and "mtu = 1300" in output, output
            status, output = await program("ping", "-n", "-M", "do", "-c", "2", "-W", "20", "-s", "1400", OTHER6)
            assert status == 1 and "mtu=1300" in output.replace(" ", ""), output
            assert "mtu 1300" in shell(f"ip route get {OTHER4}")
            assert "mtu 1300" in shell(f"ip route get {OTHER6}")
        finally:
            tap.close()

    asyncio.run(main())


def test_the_kernel_learns_the_path_mtu_from_our_messages() -> None:
    run(scenario_the_kernel_learns_a_smaller_mtu)


def scenario_the_kernel_and_we_agree_on_groups() -> None:
    """Programs join on the device and leave it; a membership that begins anew learns all of it by asking."""
    group4, source4, group6 = "239.1.2.3", "10.77.0.9", "ff15::1:3"

    async def main() -> None:
        shell("ip link set lo up")
        tap = open_tap(multicast_route=True)
        membership = Membership(time.time())

        def write(queries: list[bytes]) -> None:
            for query in queries:
                destination = query[16:20] if query[0] >> 4 == 4 else query[24:40]
                tap.write(wrap(query, mac_of(destination), mac_for(b"\x0a\x4d\x09\x09")))

        def outbound(frame: bytes) -> None:
            if frame[12:14] in (b"\x08\x00", b"\x86\xdd") and is_membership(frame[14:]):
                write(membership.take(frame[14:], time.time()))

        async def until(done: Callable[[], bool]) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not done():
                assert time.monotonic() < deadline, membership
                write(membership.tick(time.time()))
                await asyncio.sleep(0.05)

        def wants(group: str, source: str) -> bool:
            packed = [
                socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text) for text in (group, source)
            ]
            return membership.wants(packed[0], packed[1], time.time())

        tap.on_frame(outbound)
        try:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_source,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one_source,
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
            ):
                own, index = OWN4.packed, socket.if_nametoindex(tap.name)
                any_source.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group4) + own)
                filtered = socket.inet_aton("232.1.1.1") + own + socket.inet_aton(source4)
                one_source.setsockopt(socket.IPPROTO_IP, 39, filtered)  # IP_ADD_SOURCE_MEMBERSHIP
                packed6 = socket.inet_pton(socket.AF_INET6, group6) + index.to_bytes(4, sys.byteorder)
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed6)

                def all_wanted() -> bool:
                    return wants(group4, OTHER4) and wants("232.1.1.1", source4) and wants(group6, OTHER6)

                await until(all_wanted)
                assert not wants("232.1.1.1", "10.77.0.8"), "a source that nobody asked for"
                membership = Membership(time.time())
                await until(all_wanted)
                any_source.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, socket.inet_aton(group4) + own)
                await until(lambda: not wants(group4, OTHER4))
                assert wants("232.1.1.1", source4) and wants(group6, OTHER6)
            await until(lambda: not wants("232.1.1.1", source4) and not wants(group6, OTHER6))
            assert f"dev {tap.name}" in shell("ip route get 239.9.9.9")
        finally:
            tap.close()

    asyncio.run(main())


def test_the_kernel_and_we_agree_on_groups() -> None:
    run(scenario_the_kernel_and_we_agree_on_groups)


# --- what can go wrong -------------------------------------------------------------------------------------


def scenario_a_taken_name_is_refused() -> None:
    shell("ip tuntap add taken0 mode tap")  # Persistent: without care we would attach to it.
    before = shell("ip -o link show taken0")
    text = fails(lambda: open_tap("taken0"))
    assert "taken0" in text and "exists" in text, text
    assert "lo" in fails(lambda: open_tap("lo"))
    assert shell("ip -o link show taken0") == before


def test_an_existing_interface_is_never_attached_to() -> None:
    run(scenario_a_taken_name_is_refused)


def scenario_names() -> None:
    for name in ("", "sixteen-letters-", "a/b", "a b", "a:b", "..", "tap%d", "täp", "a\nb"):
        text = fails(functools.partial(open_tap, name))
        assert "no name for a network interface" in text, text
    first = open_tap("fifteen-letters")
    assert first.name == "fifteen-letters" and "fifteen-letters" in interfaces()
    first.close()


def test_names_the_kernel_does_not_take_are_refused_with_the_rule() -> None:
    run(scenario_names)


def scenario_no_clone_device() -> None:
    text = fails(lambda: open_tap(clone_device="/dev/net/absent"))
    assert "/dev/net/absent is missing" in text and "modprobe tun" in text, text
    shell("mount -t tmpfs none /dev/net")  # In our own mount namespace.
    text = fails(open_tap)
    assert f"{CLONE_DEVICE} is missing" in text and "--device" in text, text


def test_a_machine_without_dev_net_tun_is_told_how_to_get_it() -> None:
    run(scenario_no_clone_device)


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def scenario_nobody_may_not() -> None:
    # First as on most machines, where everybody may open the device but not make an interface; then where not
    # even that is allowed.
    shell("mount -t tmpfs -o mode=755 none /dev/net")
    for name, mode in (("open", 0o666), ("shut", 0o600)):
        os.mknod(f"/dev/net/{name}", stat.S_IFCHR | mode, os.makedev(10, 200))
        os.chmod(f"/dev/net/{name}", mode)
    become_nobody()
    for name in ("open", "shut"):
        text = fails(lambda name=name: open_tap(clone_device=f"/dev/net/{name}"))  # type: ignore[misc]
        assert "needs root or the capability CAP_NET_ADMIN" in text, text


def test_without_privilege_one_line_says_what_is_needed() -> None:
    run(scenario_nobody_may_not, BY_ROOT)


def scenario_address_elsewhere() -> None:
    another_interface("other0")
    shell("ip address add 10.77.0.5/32 dev other0")
    text = fails(open_tap)
    assert "10.77.0.5" in text and "'other0'" in text, text
    shell(f"ip address flush dev other0 && ip address add {OWN6}/128 dev other0")
    text = fails(open_tap)
    assert str(OWN6) in text and "'other0'" in text, text


def test_an_address_on_another_interface_is_a_conflict() -> None:
    run(scenario_address_elsewhere)


def scenario_routes_elsewhere() -> None:
    another_interface("lan0")
    shell("ip address add 10.77.8.1/24 dev lan0")
    text = fails(open_tap)
    assert "10.77.8.0/24" in text and "'lan0'" in text and "10.77.0.0/16" in text, text
    shell("ip address flush dev lan0 && ip route add 10.77.0.0/16 dev lan0")
    assert "10.77.0.0/16" in fails(open_tap)
    shell("ip route flush dev lan0 && ip route add blackhole 10.77.9.9")
    assert "10.77.9.9/32" in fails(open_tap)
    shell(f"ip route del blackhole 10.77.9.9 && ip -6 route add {PREFIX6} dev lan0")
    assert str(PREFIX6) in fails(open_tap)
    # Wider routes lose to ours.
    shell(f"ip -6 route del {PREFIX6} dev lan0 && ip route add 10.0.0.0/8 dev lan0")
    shell("ip route add default dev lan0 && ip -6 route add default dev lan0 && ip -6 route add fd00::/8 dev lan0")
    tap = open_tap()
    assert tap.name in shell(f"ip route get {OTHER4}")
    assert tap.name in shell(f"ip route get {OTHER6}")
    tap.close()


def test_routes_into_the_virtual_network_are_a_conflict_and_wider_ones_are_not() -> None:
    run(scenario_routes_elsewhere)


def scenario_two_nodes_on_one_machine() -> None:
    first = open_tap()
    try:
        assert str(OWN4) in fails(open_tap)
        text = fails(lambda: KernelTap(None, IPv4Address(OTHER4), SUBNET, IPv6Address(OTHER6), PREFIX6, bytes(6), MTU))
        assert str(SUBNET) in text and first.name in text, text
    finally:
        first.close()


def test_a_second_node_of_the_same_network_is_refused() -> None:
    run(scenario_two_nodes_on_one_machine)


def scenario_no_privilege_over_the_namespace() -> None:
    """The device can be made, and then the capability to configure it goes: nothing may stay."""
    tap_module = sys.modules["ipop.device"]
    create = tap_module._create
    importlib.import_module("ipop.device_setup")  # Now, while we may still read its files wherever they are.

    def create_and_drop(name: str | None, clone_device: str, header: bool) -> Any:
        device = create(name, clone_device, header)
        become_nobody()
        return device

    tap_module._create = create_and_drop  # type: ignore[attr-defined]
    text = fails(open_tap)
    assert "needs root or the capability CAP_NET_ADMIN" in text, text


def test_a_failure_half_way_leaves_nothing_behind() -> None:
    run(scenario_no_privilege_over_the_namespace, BY_ROOT)


def scenario_ipv6_is_off() -> None:
    shell("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")

    async def turned_on(tap: KernelTap, _wire: Wire) -> None:
        assert tap.ipv6, "our own interface speaks IPv6 even where new ones don't"

    with_wire(echo, turned_on)
    # As in most containers: IPv6 off, and settings out of reach.
    shell("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")

    async def without(tap: KernelTap, _wire: Wire) -> None:
        assert not tap.ipv6
        status, output = await program("ping", "-n", "-c", "1", "-W", "20", OTHER4)
        assert status == 0, output

    with_wire(echo, without)


def test_a_machine_that_refuses_ipv6_still_gets_ipv4() -> None:
    run(scenario_ipv6_is_off)


# --- the end -----------------------------------------------------------------------------------------------


def scenario_close() -> None:
    async def body(tap: KernelTap, _wire: Wire) -> None:
        assert tap.name in interfaces()
        tap.close()
        tap.close()
        tap.write(bytes(60))
        assert tap.name not in interfaces()
        assert str(SUBNET) not in shell("ip route show table all")

    with_wire(silence, body)


def test_close_takes_device_addresses_and_routes_away() -> None:
    run(scenario_close)


def scenario_killed() -> None:
    child = os.fork()
    if child == 0:
        open_tap("doomed0")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + PATIENCE_S
    while "doomed0" in interfaces() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "doomed0" not in interfaces()


def test_a_killed_process_leaves_no_device_behind() -> None:
    run(scenario_killed)


def scenario_deleted() -> None:
    async def body(tap: KernelTap, _wire: Wire) -> None:
        lost: list[str] = []
        tap.on_lost(lost.append)
        shell(f"ip link del {tap.name}")
        ends = time.monotonic() + PATIENCE_S
        while not lost and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(lost) == 1 and tap.name in lost[0], lost
        busy = time.process_time()
        tap.write(bytes(60))
        await asyncio.sleep(0.5)
        assert time.process_time() - busy < 0.25, "an event loop that spins"

    with_wire(silence, body)


def test_a_device_that_someone_deletes_is_reported_once() -> None:
    run(scenario_deleted)


def scenario_set_down() -> None:
    async def body(tap: KernelTap, _wire: Wire) -> None:
        shell(f"ip link set {tap.name} down")
        busy = time.process_time()
        tap.write(wrap(ipv4_packet(b"", 59, IPv4Address(OTHER4).packed, OWN4.packed), bytes(6), bytes(6)))
        await asyncio.sleep(0.5)
        assert time.process_time() - busy < 0.25, "an event loop that spins"
        assert tap.counters["tap_write_eio"] == 1, tap.counters
        tap.write(b"too short")
        assert sum(tap.counters.values()) == 2, tap.counters
        shell(f"ip link set {tap.name} up && ip route get {OTHER4}")
        status, output = await program("ping", "-n", "-c", "1", "-W", "20", OTHER4)
        assert status == 0, output

    with_wire(echo, body)


def test_a_device_set_down_and_up_works_again() -> None:
    run(scenario_set_down)


def test_arguments_that_are_our_own_mistake_are_no_setup_error() -> None:
    with pytest.raises(ValueError, match="1280"):
        KernelTap(None, OWN4, SUBNET, OWN6, PREFIX6, bytes(6), 1000)
    with pytest.raises(ValueError, match="hardware address"):
        KernelTap(None, OWN4, SUBNET, OWN6, PREFIX6, b"\x01" + bytes(5), MTU)
