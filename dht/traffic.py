"""IP packets between this node and its peers, as the layer above gives and takes them. Never looks into them.

A session must be there; opening one is `dht.node.Node.open_session`'s. Every packet shows that its peer is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dht.certificate import Member
from dht.demux import Demux
from dht.envelope import HEADER_BYTES, Inner
from dht.features import Feature
from dht.host import Host
from dht.session import OVERHEAD_BYTES
from dht.sessions import Sessions
from dht.sizes import DEFAULT_BYTES

# What is sealed for a peer over the ring is once more sealed for each edge, in an envelope.
_ROUTED_OVERHEAD_BYTES = 1 + HEADER_BYTES + OVERHEAD_BYTES
ROUTED_PLAINTEXT_BYTES = DEFAULT_BYTES - _ROUTED_OVERHEAD_BYTES
_PACKET = bytes((Inner.PACKET,))
_SEGMENTS_FEATURE = int(Feature.SEGMENTS)


class Traffic:
    """That of one node."""

    def __init__(self, host: Host, sessions: Sessions, demux: Demux) -> None:
        self._host, self._sessions, self._demux = host, sessions, demux

    def send_packet(self, peer_id: int, packet: bytes, traffic_class: int = 0) -> bool:
        """Seal and send an IP packet to a peer; False when there is no session fit for it (then open one).
        `traffic_class` is for the outer header."""
        peer = self._sessions.peers.get(peer_id)
        if peer is None or not peer.up:
            return False
        peer.demand_at = self._host.now()
        peer.packets += 1
        return self._sessions.send(peer, _PACKET + packet, expects_answer=True, traffic_class=traffic_class)

    def send_traffic(self, peer_id: int, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        """Seal and send what stands for IP packets, each with its kind in front, together where that is possible;
        False when there is no session fit for it."""
        peer = self._sessions.peers.get(peer_id)
        if peer is None or not peer.up:
            return False
        peer.demand_at = self._host.now()
        peer.packets += len(plaintexts)
        return self._sessions.send_all(peer, plaintexts, traffic_class)

    def room_bytes(self, peer_id: int) -> int:
        """The longest segment's plaintext that reaches a peer in one piece, over the path in use; 0 when the peer takes
        whole packets only."""
        peer = self._sessions.peers.get(peer_id)
        if peer is not None and not peer.features & _SEGMENTS_FEATURE:
            return 0
        sizes = self._sessions.sizes
        if peer is None or peer.path is None:
            return sizes.longest_bytes - _ROUTED_OVERHEAD_BYTES
        return sizes.room_bytes(peer)

    def on_traffic(self, callback: Callable[[Member, Sequence[bytes]], None]) -> None:
        """Give what a peer sent with `send_traffic` to `callback(member, plaintexts)`; single whole packets may come
        by `on_packet` instead. The last call wins."""
        self._demux.traffic = callback

    def on_run(self, callback: Callable[[Member, memoryview, int], None]) -> None:
        """Give segments that came together, all of `size` bytes but for the last, which may be shorter, to
        `callback(member, run, size)`, one behind the other in memory that is good until it returns. Without it they
        come by `on_traffic`. The last call wins."""
        self._demux.run = callback

    def on_packet(self, callback: Callable[[Member, bytes], None]) -> None:
        """Give every IP packet that a peer sent us to `callback(member, packet)`. The last call wins."""
        self._demux.packet = callback
