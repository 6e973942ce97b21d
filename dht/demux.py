"""Every datagram's way through a node, in and out.

    in:  datagram -> first byte -> handshakes | hello | sessions -> plaintext -> control | check | envelope | packet
         of a tunnel: passed on by its label, or taken out of it
    out: sealed datagram -> the peer's endpoint, a tunnel's relay, or an envelope over the ring

A peer's fault ends in `receive`: counted, logged at most once a second, dropped. Whatever else is raised is a bug of
ours and passes through. First bytes 0 to 3 are left to STUN (RFC 7983).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from dht.certificate import Member
from dht.envelope import HEADER_BYTES, Content, Envelope, Inner, Mode
from dht.errors import BadDatagram, StaleDatagram
from dht.host import Endpoint, Host
from dht.messages import NoSession
from dht.path import TUNNEL_HEADER_BYTES, TUNNELLED, Path, Tunnel
from dht.peer import Peer
from dht.session import TRANSPORT
from dht.sessions import UnknownSession
from dht.tunnels import read_tunnelled

if TYPE_CHECKING:
    from dht.acquaintances import Acquaintances
    from dht.checks import Checks
    from dht.exchange import Exchange
    from dht.handshakes import Handshakes
    from dht.relay import Relay
    from dht.router import Router
    from dht.sessions import Sessions
    from dht.tunnels import Tunnels

log = logging.getLogger(__name__)

COMPLAIN_EVERY_S = 1.0
_TRAFFIC = frozenset(bytes((kind,)) for kind in (Inner.PACKET, Inner.SEGMENT, Inner.PARTIAL))
_ROUTED, _PACKET, _TRANSPORT = bytes((Inner.ROUTED,)), bytes((Inner.PACKET,)), bytes((TRANSPORT,))
_SEGMENT, _CONTROL = int(Inner.SEGMENT), int(Inner.CONTROL)  # Plain: asking a class for a member costs more than int
_KIND = itemgetter(slice(0, 1))
_ROUTED_ALIKE = itemgetter(slice(0, 1 + HEADER_BYTES))
_BROADCAST = bytes((Inner.BROADCAST,))


class Demux:
    """Hands datagrams to the parts of a node, which are attached once they exist."""

    sessions: Sessions
    handshakes: Handshakes
    router: Router
    exchange: Exchange
    acquaintances: Acquaintances
    checks: Checks
    relay: Relay
    tunnels: Tunnels

    def __init__(self, host: Host, me: int, counters: Counter[str]) -> None:
        self._host, self._me, self._counters = host, me, counters
        self._refused = 0
        self._complained_at = 0.0
        self.packet: Callable[[Member, bytes], None] = lambda member, packet: None
        self.traffic: Callable[[Member, Sequence[bytes]], None] = lambda member, plaintexts: None
        self.group: Callable[[Peer, bytes, Path | None], None] = lambda peer, plaintext, path: None
        self.run: Callable[[Member, memoryview, int], None] = self._take_run_apart
        self.broadcast: Callable[[int, Sequence[bytes], int], None] = lambda hop, plaintexts, traffic_class: None
        self.probe: Callable[[bytes, Endpoint], None] = lambda datagram, source: None
        self.sent: Callable[[Path | None], None] = lambda path: None

    def receive(self, datagram: bytes, source: Endpoint) -> None:
        """Handle one datagram from the network."""
        try:
            if datagram[:1] == _TRANSPORT:
                self.sessions.receive(datagram, source)
            else:
                self._take(datagram, source, self._me, 1)
        except StaleDatagram:
            self._counters["stale_datagram"] += 1
        except BadDatagram as refusal:
            self._refuse(refusal, source)

    def receive_batch(self, buffer: memoryview, size: int, source: Endpoint) -> None:
        """Handle datagrams that came together: each has `size` bytes, but the last may be shorter."""

        def one(datagram: bytes) -> None:
            self.receive(datagram, source)

        if buffer[0] != TUNNELLED or size <= TUNNEL_HEADER_BYTES:
            self._take_batch(buffer, size, source, 1, one)
        elif not _alike(buffer, size):
            for start in range(0, len(buffer), size):
                one(bytes(buffer[start : start + size]))
        elif not self.relay.forward(buffer, size, source):
            try:
                tunnel, _ = self._tunnel(bytes(buffer[: min(size, len(buffer))]), source)
            except StaleDatagram:
                self._counters["stale_datagram"] += -(-len(buffer) // size)
            except BadDatagram as refusal:
                self._refuse(refusal, source)
            else:
                self._take_batch(buffer, size, tunnel, 1, one, TUNNEL_HEADER_BYTES)

    def arrived_batch(self, envelope: Envelope, payloads: Sequence[bytes], hops: int) -> None:
        """As `arrived`, for sealed packets that came together, in envelopes that are otherwise equal."""

        def one(datagram: bytes) -> None:
            try:
                self.arrived(envelope._replace(payload=datagram), hops)
            except StaleDatagram:
                self._counters["stale_datagram"] += 1
            except BadDatagram as refusal:
                self._refuse(refusal, None)

        *others, last = map(len, payloads)
        size = len(payloads[0])
        if 0 < last <= size and others == [size] * len(others):
            self._take_batch(memoryview(b"".join(payloads)), size, None, hops, one)
        else:
            for payload in payloads:
                one(payload)

    def _take_batch(
        self,
        buffer: memoryview,
        size: int,
        path: Path | None,
        hops: int,
        one: Callable[[bytes], None],
        skip: int = 0,
    ) -> None:
        """`one` judges what can't be taken together with the rest: whole datagrams, with the `skip` bytes in front."""
        opened = None
        if len(buffer) > skip and buffer[skip] == TRANSPORT:
            opened = self.sessions.open_batch(buffer, size, path, hops, skip)
        if opened is None:
            for start in range(0, len(buffer), size):
                one(bytes(buffer[start : start + size]))
            return
        peer, plaintexts, refused, run, each_bytes = opened
        if run is not None:
            if bytes(run[::each_bytes]).count(_SEGMENT) * each_bytes >= len(run):
                peer.demand_at = peer.heard_at
                peer.packets += -(-len(run) // each_bytes)
                self.run(peer.member, run, each_bytes)
                return
            plaintexts = [bytes(run[start : start + each_bytes]) for start in range(0, len(run), each_bytes)]
        self.take_opened(peer, plaintexts, path)
        head = bytes(buffer[:skip])
        for datagram in refused:
            one(head + datagram)

    def take_opened(self, peer: Peer, plaintexts: Sequence[bytes], path: Path | None) -> None:
        """Handle what a session opened together, in order."""
        if set(map(_KIND, plaintexts)) <= _TRAFFIC:
            if plaintexts:
                peer.demand_at = peer.heard_at
                peer.packets += len(plaintexts)
                self.traffic(peer.member, plaintexts)
        else:
            for header, group in groupby(plaintexts, _alike_to):
                alike = list(group)
                try:
                    if path is not None and header[:1] == _ROUTED and len(alike) > 1:
                        self.router.receive_batch(alike, self._host.received_class)
                    elif header == _BROADCAST:
                        self.broadcast(peer.id, alike, self._host.received_class)
                    else:
                        self._deliver_each(peer, alike, path)
                except BadDatagram as refusal:
                    self._refuse(refusal, path)

    def _take_run_apart(self, member: Member, run: memoryview, size: int) -> None:
        self.traffic(member, [bytes(run[start : start + size]) for start in range(0, len(run), size)])

    def _deliver_each(self, peer: Peer, plaintexts: list[bytes], path: Path | None) -> None:
        for plaintext in plaintexts:
            try:
                self.sessions.opened(peer, plaintext, path)
            except StaleDatagram:
                self._counters["stale_datagram"] += 1
            except BadDatagram as refusal:
                self._refuse(refusal, path)

    def carry(self, datagram: bytes, path: Path | None, peer_id: int) -> None:
        """Move a sealed datagram to a peer: by `path`, or over the ring."""
        if isinstance(path, Endpoint):
            self._host.send(path, datagram)
        elif path is None:
            self.router.send(Mode.EXACT, Content.SEALED, peer_id, datagram)
        else:
            relay = self.tunnels.relay_of(path)
            if relay is None:
                self._counters["tunnel_gone"] += 1
            else:
                self._host.send(relay, path.header() + datagram)

    def carry_first(self, datagram: bytes, path: Path | None, peer_id: int) -> None:
        """As `carry`, for what may be the first to go there, or the answer to the first to come: `sent` is told."""
        self.sent(path)
        self.carry(datagram, path, peer_id)

    def carry_batch(self, datagrams: Sequence[bytes], path: Path | None, peer_id: int, traffic_class: int) -> None:
        """As `carry` for each, together."""
        if isinstance(path, Endpoint):
            self._host.send_batch(path, datagrams, traffic_class)
        elif path is None:
            self.router.send_batch(peer_id, datagrams, traffic_class)
        else:
            relay = self.tunnels.relay_of(path)
            if relay is None:
                self._counters["tunnel_gone"] += len(datagrams)
            else:
                header = path.header()
                self._host.send_batch(relay, [header + datagram for datagram in datagrams], traffic_class)

    def way(self, path: Path | None) -> tuple[Endpoint, bytes] | None:
        """Where what goes by `path` is sent, and what stands in front of each datagram. None over the ring, or when the
        tunnel is gone."""
        if isinstance(path, Endpoint):
            return path, b""
        if path is None:
            return None
        relay = self.tunnels.relay_of(path)
        return None if relay is None else (relay, path.header())

    def carry_whole(self, datagram: bytes, path: Path) -> bool:
        """As `carry`, in one piece or not at all; False when our own link can't carry it."""
        if isinstance(path, Endpoint):
            return self._host.send_whole(path, datagram)
        relay = self.tunnels.relay_of(path)
        if relay is None:
            self._counters["tunnel_gone"] += 1
            return True
        return self._host.send_whole(relay, path.header() + datagram)

    def deliver(self, peer: Peer, plaintext: bytes, path: Path | None) -> None:
        """Take what a session opened. Raises BadDatagram."""
        if plaintext[:1] == _PACKET:
            peer.demand_at = peer.heard_at
            peer.packets += 1
            self.packet(peer.member, plaintext[1:])
            return
        if not plaintext or plaintext[0] == Inner.KEEPALIVE:
            return
        if plaintext[0] == _CONTROL:
            self.exchange.from_session(peer, plaintext[1:], path)
            return
        match plaintext[0]:
            case Inner.SEGMENT | Inner.PARTIAL:
                peer.demand_at = peer.heard_at
                peer.packets += 1
                self.traffic(peer.member, (plaintext,))
            case Inner.SIZE if path is not None:
                self.sessions.sizes.take(peer, plaintext, path)
            case Inner.ROUTED if path is not None:
                self.router.receive(plaintext[1:], self._host.received_class)
            case Inner.BROADCAST:
                self.broadcast(peer.id, (plaintext,), self._host.received_class)
            case Inner.GROUP:
                self.group(peer, plaintext, path)
            case Inner.CHECK:
                self.checks.received(peer, plaintext[1:], path)
            case kind:
                raise BadDatagram(f"a plaintext of kind {kind} came from '{peer.member.name}'")

    def arrived(self, envelope: Envelope, hops: int) -> None:
        """Take an envelope at the end of its way. Raises BadDatagram."""
        if envelope.content == Content.CONTROL:
            self.exchange.from_ring(envelope, hops)
            return
        if envelope.target != self._me:
            raise BadDatagram("a sealed packet for somebody else ended here")
        try:
            self._take(envelope.payload, None, envelope.source, hops)
        except UnknownSession as unknown:
            # It came over the edge of a member, so this tells no stranger anything.
            self.router.tell(envelope.source, NoSession(unknown.index))

    def _take(self, datagram: bytes, path: Path | None, via: int, hops: int) -> None:
        match datagram[0] if datagram else -1:
            case 0x14:
                self.sessions.receive(datagram, path, hops)
            case 0x17 if isinstance(path, Endpoint):
                read_tunnelled(datagram)
                if not self.relay.forward(memoryview(bytearray(datagram)), len(datagram), path):
                    tunnel, far_id = self._tunnel(datagram, path)
                    self._take(datagram[TUNNEL_HEADER_BYTES:], tunnel, far_id, 1)
            case 0x11:
                self.handshakes.initiation(datagram, path, via)
            case 0x12:
                self.handshakes.response(datagram, path)
            case 0x13:
                self.handshakes.cookie_reply(datagram)
            case 0x15 if isinstance(path, Endpoint):
                answer = self.acquaintances.request(datagram, path)
                if answer is not None:
                    self.sent(path)
                    self._host.send(path, answer)
            case 0x16 if isinstance(path, Endpoint):
                self.acquaintances.reply(datagram, path)
            case 0x18 if isinstance(path, Endpoint):
                self.probe(datagram, path)
            case kind:
                raise BadDatagram(f"no datagram of ours begins with {kind}")

    def _tunnel(self, datagram: bytes, source: Endpoint) -> tuple[Tunnel, int]:
        """The tunnel that a datagram, which this node did not relay, ends in here. Raises BadDatagram."""
        label, relayed = read_tunnelled(datagram)
        if not relayed:
            self.relay.unknown(label, source)
            raise StaleDatagram(f"no circuit has label {label:08x}")
        return self.tunnels.end(label, source)

    def _refuse(self, refusal: BadDatagram, source: Path | None) -> None:
        self._counters["bad_datagram"] += 1
        self._refused += 1
        now = self._host.now()
        if now - self._complained_at >= COMPLAIN_EVERY_S:
            log.warning("refused %d datagrams, the last from %s: %s", self._refused, source, refusal)
            self._complained_at = now
            self._refused = 0


def _alike(buffer: memoryview, size: int) -> bool:
    """Whether all datagrams in `buffer` are of the same tunnel."""
    head = bytes(buffer[:TUNNEL_HEADER_BYTES])
    return all(buffer[start : start + TUNNEL_HEADER_BYTES] == head for start in range(size, len(buffer), size))


def _alike_to(plaintext: bytes) -> bytes:
    """What plaintexts that are taken together have in common."""
    return _BROADCAST if plaintext[:1] == _BROADCAST else _ROUTED_ALIKE(plaintext)
