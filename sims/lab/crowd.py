"""Many nodes in one process †, for measurements: the neighbours of one real node, each with a UDP port of its own.

They are what `p2pvpn up` runs, put together by the same `build_node`; only the TAP is in memory. Obeys one command a
line on standard input, and answers each with one line: `grow FILE...` adds a node for each bundle and answers with the
number of nodes once they are one ring; `ping SECONDS` lets every node ping the target's virtual address once a second
and answers with how many of them had a reply in the end.

    python -m sims.lab.crowd UNDERLAY-ADDRESS BOOTSTRAP-ENDPOINT TARGET-ADDRESS
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path

from dht.host import Endpoint
from dht.storage import MemoryStorage
from dht.udp import UdpHost
from ipop.authority_files import read_bundle
from ipop.config import VpnConfig
from ipop.ethernet import Ipv4Header, checksum, ipv4_packet, wrap
from ipop.neighbor import mac_for
from ipop.node import VpnNode, build_node
from ipop.tap import MemoryTap

FIRST_PORT = 20000
STARTS_A_SECOND = 10
ONE_RING_LIMIT_S = 120.0
LOOK_EVERY_S = 0.5
PING_EVERY_S = 1.0
ICMP = 1
ECHO_REQUEST, ECHO_REPLY = 8, 0
DATA = bytes(56)  # As much as ping sends.


class Member:
    """One node of the crowd."""

    def __init__(self, bundle: Path, listen: Endpoint) -> None:
        identity = read_bundle(bundle).identity(time.time())
        network = identity.network
        self.address = identity.member.address4
        self.host = UdpHost(listen, exclude=(network.subnet, network.prefix6))
        self.tap = MemoryTap()
        self.vpn: VpnNode = build_node(self.host, self.tap, VpnConfig(identity, MemoryStorage(), aes=True))

    def ping(self, target: IPv4Address, sequence: int) -> None:
        """One echo request, as if a program here had sent it."""
        message = bytes((ECHO_REQUEST, 0, 0, 0)) + b"p2" + (sequence & 0xFFFF).to_bytes(2, "big") + DATA
        message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        packet = ipv4_packet(message, ICMP, self.address.packed, target.packed)
        self.tap.inject(wrap(packet, mac_for(target.packed), mac_for(self.address.packed)))

    def replies(self) -> int:
        """How many echo replies came since the last call."""
        packets = [frame[14:] for frame in self.tap.written if frame[12:14] == b"\x08\x00"]
        self.tap.written.clear()
        headers = [(Ipv4Header.parse(packet), packet) for packet in packets]
        return sum(header.protocol == ICMP and packet[header.header_bytes] == ECHO_REPLY for header, packet in headers)


class Crowd:
    """All of them."""

    def __init__(self, address: str, bootstrap: Endpoint, target: IPv4Address) -> None:
        self._address, self._bootstrap, self._target = address, bootstrap, target
        self._members: list[Member] = []
        self._sequence = count()

    async def grow(self, bundles: Sequence[str]) -> str:
        for bundle in bundles:
            member = Member(Path(bundle), Endpoint(self._address, FIRST_PORT + len(self._members)))
            # All but one join through the crowd: the node that is measured shall be a member like any other.
            first = Endpoint(self._address, FIRST_PORT) if self._members else self._bootstrap
            self._members.append(member)
            member.vpn.start([first])
            await asyncio.sleep(1 / STARTS_A_SECOND)
        deadline = time.monotonic() + ONE_RING_LIMIT_S
        while (flaw := self._flaw()) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_EVERY_S)
        return f"no ring: {flaw}" if flaw else str(len(self._members))

    def _flaw(self) -> str:
        """Why these nodes, and one more that we can't look into, are not one ring; empty when they are."""
        outside = [member.address for member in self._members if not member.vpn.is_ready()]
        if outside:
            return f"{len(outside)} of {len(self._members)} nodes are not ready"
        rings = sorted((member.vpn.ring for member in self._members), key=lambda ring: ring.id)
        after = [ring.id for ring in (*rings[1:], rings[0])]
        wrong = sum(ring.ring_view().successors[:1] != (node_id,) for ring, node_id in zip(rings, after, strict=True))
        # One node of ours has the measured node for its successor.
        return f"{wrong} nodes have another successor than the next" if wrong != 1 else ""

    async def ping(self, seconds: float) -> str:
        answered = 0
        for _ in range(max(1, round(seconds / PING_EVERY_S))):
            sequence = next(self._sequence)
            for member in self._members:
                member.ping(self._target, sequence)
            await asyncio.sleep(PING_EVERY_S)
            answered = sum(member.replies() > 0 for member in self._members)
        return str(answered)

    async def obey(self) -> None:
        """Carry out commands until there are no more."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            match line.split():
                case ["grow", *bundles]:
                    print(await self.grow(bundles), flush=True)
                case ["ping", seconds]:
                    print(await self.ping(float(seconds)), flush=True)
                case _:
                    print(f"unknown command: {line.strip()}", flush=True)
        for member in self._members:
            member.vpn.stop()


async def main() -> None:
    address, bootstrap, target = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # A node holds several sockets.
    await Crowd(address, Endpoint.from_text(bootstrap), IPv4Address(target)).obey()


if __name__ == "__main__":
    asyncio.run(main())
