"""A node whose packets C or Python moves, with two peers played by sockets: what goes out and what comes in.

The TAP is one end of a socket pair on which every read is one frame; all else is what `p2pvpn up` has: `UdpHost` on
loopback, `KernelTap`'s own reading and writing, sessions, data path. Keys are given, so that two such nodes with the
same seed understand the same datagrams, and nothing needs the ring. Nothing runs by itself: `from_tap` and `from_wire`
call what the event loop would.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from dht.envelope import Inner
from dht.features import Feature
from dht.host import Endpoint
from dht.peer import Peer
from dht.session import Keypair
from dht.sizes import DEFAULT_BYTES
from dht.storage import MemoryStorage
from dht.udp import UdpHost
from ipop import fastpath
from ipop.config import VpnConfig
from ipop.datapath import Flow
from ipop.device import LOOK_AGAIN, KernelTap
from ipop.fastpath import FastPath
from ipop.node import VpnNode, build_node
from ipop.vnet import ALL_OFFLOADS, Offloads
from tests.identities import make_identities

SEED = 31
FEATURES = int(Feature.SEGMENTS | Feature.ECN | Feature.SIZE)
LOCAL, REMOTE = 0x1000, 0x2000  # indices of the first peer's session; the second's are one higher
SOCKET_BYTES = 4 << 20

# Where tests must not be left out unseen, the extension must be there.
needs_c = pytest.mark.skipif(
    not fastpath.built and os.environ.get("CI") != "true", reason="ipop._fastpath is not built"
)


class SocketTap(KernelTap):
    """A `KernelTap` whose device is a socket: `far` is the kernel's side."""

    def __init__(self, offloads: Offloads = ALL_OFFLOADS) -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (near, self.far):
            each.setblocking(False)
            widen(each)
        self._device, self._fd = near, near.fileno()
        self.name, self.offloads, self.ipv6 = "socket0", offloads, True
        self._header, self._closed = offloads.header, False
        self.counters: Counter[str] = Counter()
        self._callback: Callable[[bytes], None] | None = None
        self._virtual = lambda frame: None
        self._drained = lambda: False
        self._reader, self._stop = None, lambda: None
        self._returning = self._busy = False
        self._wake_ups = self.read_by_c = 0
        self._lost, self._loop = None, None

    def received(self) -> list[bytes]:
        """The frames that the kernel would have had since the last call."""
        return list(everything(self.far))

    def send(self, frame: bytes) -> None:
        """As if the kernel had a frame for us."""
        self.far.send(frame)

    def wake(self) -> None:
        """What the event loop does when the device can be read, and after that."""
        self.read_by_c += self._reader is not None
        self._drain()


def widen(opened: socket.socket) -> None:
    for force, plain in ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF)):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
        try:
            opened.setsockopt(socket.SOL_SOCKET, force, SOCKET_BYTES)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BYTES)


def everything(opened: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(opened.recv(1 << 17))
        except BlockingIOError:
            return found


class Sent(NamedTuple):
    """One datagram on the wire."""

    peer: int
    counter: int
    plaintext: bytes
    traffic_class: int


class Side:
    """Alice, with peers bob and carol. `native`: packets are moved by C, as soon as one was moved by Python."""

    def __init__(
        self, native: bool, *, aes: bool = True, features: int = FEATURES, offloads: Offloads = ALL_OFFLOADS
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.host = UdpHost(Endpoint("127.0.0.1", 0))
        began_at = self.host.now()
        self.host.now = lambda: began_at  # type: ignore[method-assign]  # No timer or budget may differ.
        self.tap = SocketTap(offloads)
        identities = make_identities(3, SEED, now=self.host.now())
        self.members = [identity.member for identity in identities]
        self.vpn: VpnNode = build_node(self.host, self.tap, VpnConfig(identities[0], MemoryStorage(), aes=aes))
        self.datapath = self.vpn.datapath
        self.fast = FastPath(self.vpn, self.host, self.tap)
        if native:
            self.fast.start()
        self.datapath.start()
        self.sockets = [self._far_socket() for _ in range(2)]
        self.outside = self._far_socket()
        demux, sessions = self.vpn.ring.parts.demux, self.vpn.ring.parts.sessions
        self.host.on_receive(demux.receive)
        self.host.on_receive_batch(demux.receive_batch)
        self.peers: list[Peer] = []
        self.keypairs: list[Keypair] = []
        self.far_keypairs: list[Keypair] = []
        for number, identity in enumerate(identities[1:]):
            peer = sessions.admit(identity.member, identity.static_public)
            one, other = bytes([number]) * 32, bytes([number + 128]) * 32
            local, remote, now = LOCAL + number, REMOTE + number, self.host.now()
            keypair = Keypair(one, other, aes, local, remote, now, initiator=True)
            self.far_keypairs.append(Keypair(other, one, aes, remote, local, now, initiator=False))
            sessions.install(peer, keypair)
            path = Endpoint("127.0.0.1", self.sockets[number].getsockname()[1])
            peer.up = True
            peer.take(path, now)
            peer.said(features, 0)
            self.peers.append(peer)
            self._settle(peer)
            self.keypairs.append(keypair)
            for address in (identity.member.address4, identity.member.address6):
                self.datapath._flows[address.packed] = Flow(peer.id, address.packed)

    def _settle(self, peer: Peer) -> None:
        """How long a datagram may be is not to be asked, nor to be learned from whatever comes as an answer."""
        peer.size.path, peer.size.proven_bytes, peer.size.due_at = peer.path, DEFAULT_BYTES, float("inf")

    def _far_socket(self) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("127.0.0.1", 0))
        opened.setblocking(False)
        widen(opened)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        return opened

    def close(self) -> None:
        self.datapath.stop()
        self.tap.close()
        self.tap.far.close()
        self.host.close()
        for each in (*self.sockets, self.outside):
            each.close()

    @property
    def flows(self) -> dict[bytes, tuple[int, int]]:
        return {address: (flow.packets, flow.octets) for address, flow in self.datapath._flows.items()}

    def from_tap(self, frames: Sequence[bytes]) -> None:
        """Frames that wait together, until all has been dealt with."""
        for frame in frames:
            self.tap.send(frame)
        for _ in range(3 * LOOK_AGAIN):  # Up to six frames, then what waits, some 100 KB a time.
            self.tap.wake()

    def align(self) -> None:
        """Come to the same point of LOOK_AGAIN as every other node: from then on all read the same frames together."""
        while self.tap.read_by_c % LOOK_AGAIN:
            self.tap.wake()
        self.tap._wake_ups = 0

    def from_wire(self) -> None:
        """Read what has arrived, until all has been dealt with."""
        (port,) = self.host._ports.values()
        for _ in range(100):
            self.host.intake.drain(port)
        for peer in self.peers:
            self._settle(peer)

    def arrive(
        self, number: int, datagrams: Sequence[bytes], traffic_class: int = 0, source: socket.socket | None = None
    ) -> None:
        """Datagrams that a peer's kernel sends together: of one size, the last may be shorter."""
        notes: list[tuple[int, int, bytes]] = []
        if len(datagrams) > 1:
            notes.append((socket.IPPROTO_UDP, 103, len(datagrams[0]).to_bytes(2, "little")))  # UDP_SEGMENT
        if traffic_class:
            notes.append((socket.IPPROTO_IP, socket.IP_TOS, traffic_class.to_bytes(4, "little")))
        opened = source or self.sockets[number]
        opened.sendmsg([b"".join(datagrams)], notes, 0, ("127.0.0.1", self.host.port))

    def sent(self) -> list[list[Sent]]:
        """What went to each peer since the last call, in order; questions how long datagrams may be are left out."""
        found: list[list[Sent]] = [[], []]
        for number, opened in enumerate(self.sockets):
            while True:
                try:
                    datagram, notes, _, _ = opened.recvmsg(1 << 16, 256)
                except BlockingIOError:
                    break
                (traffic_class,) = (content[0] for _, kind, content in notes if kind == socket.IP_TOS)
                plaintext = self.far_keypairs[number].open(datagram)
                if plaintext[0] == Inner.FRAGMENT:  # Its number is random.
                    plaintext = plaintext[:1] + bytes(4) + plaintext[5:]
                counter = int.from_bytes(datagram[8:16], "big")
                found[number].append(Sent(number, counter, plaintext, traffic_class))
        return found

    def state(self) -> dict[str, object]:
        """All that must be the same, whoever moved the packets."""
        windows = [(pair.window.newest, pair.window._run_from, pair.window._bitmap) for pair in self.keypairs]
        peers = [
            (peer.packets, peer.tx_bytes, peer.rx_bytes, peer.up, peer.path is not None, peer.unanswered_at is None)
            for peer in self.peers
        ]
        return {
            "windows": windows,
            "sealed": [pair.sent for pair in self.keypairs],
            "peers": peers,
            "flows": self.flows,
            "moved": (self.datapath.packets_out, self.datapath.inbound.packets),
            "counters": {**self.vpn.counters, **self.host.counters, **self.tap.counters},
        }
