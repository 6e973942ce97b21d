"""The fast path: packets of sessions in their steady state, moved by C (`ipop/native`). † Shell module.

    a flow's packets were sent by Python   -> outlet for its destination: endpoint, keys, what must stay as it is
    a session's packet came by Python      -> inlet for its index: place, keys, what must stay as it is
    Python passed on a circuit's datagrams -> transit for its label: from where, to where, what must stay as it is
    a later packet fits                    -> C moves it, and tells here afterwards how much went or came
    anything else                          -> Python takes it as it came, as if there were no C

What each was made of are its *guards*: when the path, the keys or anything else is not the same any more,
it is not used, and made anew when Python next has a packet of it. Nothing is decided in C, and all state (counters,
replay window, when a peer was last heard) is Python's. Without the C module, or without the machine's libcrypto or a
TAP with virtio_net headers, nothing of this happens, and everything works. C reads TAP and sockets from the first
of them on, once there is so much to carry that it is worth libcrypto's memory.
"""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

from dht.demux import Demux
from dht.features import Feature
from dht.fragments import MAX_MESSAGE_BYTES
from dht.host import Endpoint
from dht.path import RELAYED_AT, TUNNEL_HEADER_BYTES, TUNNELLED, Path, Tunnel
from dht.peer import Peer
from dht.relay import Circuit
from dht.session import TRANSPORT, Keypair, transport_head
from dht.timers import boottime_s
from dht.udp import UdpHost
from dht.udp_port import Port
from ipop.datapath import DataPath, Flow
from ipop.device import KernelTap
from ipop.ecn import ECN_MASK
from ipop.node import VpnNode

try:
    from ipop import _fastpath

    built = True
except ImportError:  # Not built, or for another Python.
    built = False

log = logging.getLogger(__name__)

# libcrypto takes 3 MB: not for a ping now and then.
WORTH_PACKETS = 64  # of a flow
WORTH_OCTETS = 1 << 16  # of a circuit
MAX_OUTLETS = 1024  # each holds a key's schedule, a kilobyte in all
MAX_INLETS = 1024
MAX_TRANSITS = 1024
SWEEP_S = 30.0  # for so long at most, keys stay here that the session has dropped
HEAD_BYTES = 8  # kind, zeros and the receiver's index
_TUNNELLED = bytes((TUNNELLED,))


class _Sender(NamedTuple):
    """Whose packets an outlet sends."""

    flow: Flow
    peer: Peer


class _Receiver(NamedTuple):
    """Whose packets an inlet takes, and by which path."""

    peer: Peer
    path: Path


class _Passage(NamedTuple):
    """What a transit passes on."""

    circuit: Circuit
    source: Endpoint


class FastPath:
    """The fast path of one node, between `start` and the closing of its TAP."""

    def __init__(self, vpn: VpnNode, host: UdpHost, tap: KernelTap) -> None:
        self._host, self._tap = host, tap
        self._datapath: DataPath = vpn.datapath
        parts = vpn.ring.parts
        self._sessions, self._tunnels, self._relay = parts.sessions, parts.tunnels, parts.relay
        self._demux: Demux = parts.demux
        self._native: _fastpath.FastPath | None = None
        self._outlets: dict[bytes, _fastpath.Outlet] = {}
        self._inlets: dict[bytes, _fastpath.Inlet] = {}
        self._transits: dict[bytes, tuple[_fastpath.Transit, ...]] = {}
        self._mouths: dict[Port, _fastpath.Mouth] = {}
        self._ports: dict[_fastpath.Mouth, Port] = {}
        self._sweeping = False
        self.state = "turned off"

    def start(self) -> None:
        """Make outlets and inlets from now on, where that is possible."""
        offloads = self._tap.offloads
        if not built:
            self.state = "not built"
        elif not (offloads.header and offloads.checksum and offloads.tcp):
            self.state = "the TAP has no offloads"
        else:
            self.state = "not used yet: too little traffic"
            self._datapath.pave = self._make_outlet
            self._relay.passed = self._make_transit
            self._host.attend(self._read_datagrams)

    @property
    def active(self) -> bool:
        """Whether C moves packets."""
        return self._native is not None

    def _begin(self) -> None:
        """Let C read the TAP and the sockets."""
        if self._native is not None:
            return
        datapath, offloads = self._datapath, self._tap.offloads
        self._native = _fastpath.FastPath(
            descriptor=self._tap.fileno(),
            takes_tcp=offloads.tcp,
            takes_udp=offloads.udp,
            own4=datapath.segment.own4,
            own6=datapath.segment.own6,
            outlets=self._outlets,
            inlets=self._inlets,
            origins=datapath.origins,
            transits=self._transits,
            on_frame=datapath.outbound,
            on_virtual=datapath.send_virtual,
            on_datagrams=self._datagrams,
            on_opened=self._opened,
            on_sent=self._sent,
            on_heard=self._heard,
            on_passed=self._passed,
            on_blocked=self._blocked,
            on_tap_error=self._tap.refused,
            on_turn=datapath.flush,
            on_gone=self._gone,
            on_dropped=self._dropped,
        )
        self.state = "in use"
        self._tap.attend(self._native.read_frames, self._native.close)
        datapath.send_waiting()  # What is read from now on may not overtake it.

    def _give_up(self, error: OSError) -> None:
        """This machine's libcrypto can't be used: Python seals and opens."""
        log.warning("the data path stays slow: %s", error)
        self.state = str(error)
        self._datapath.pave = None

    def _gone(self, number: int) -> None:
        self._tap.gone(OSError(number, os.strerror(number)))

    def _dropped(self, frames: int) -> None:
        self._datapath.counters["outbound_bulk_dropped"] += frames

    def _keep_clean(self) -> None:
        """See to it that keys go when they are of no use any more."""
        if not self._sweeping:
            self._sweeping = True
            self._host.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        for outlet in [key for key, each in self._outlets.items() if not each.holds()]:
            del self._outlets[outlet]
        for inlet in [key for key, each in self._inlets.items() if not each.holds()]:
            del self._inlets[inlet]
        for label in [key for key, ways in self._transits.items() if not any(each.holds() for each in ways)]:
            del self._transits[label]
        if self._outlets or self._inlets or self._transits:
            self._keep_clean()

    # --- out -------------------------------------------------------------------------------------------------------

    def _make_outlet(self, flow: Flow) -> None:
        if flow.packets < WORTH_PACKETS:
            return
        peer = self._sessions.peers.get(flow.peer_id)
        if peer is None or not peer.up or peer.path is None:
            return
        session, path, size, features = peer.session, peer.path, peer.size, peer.features
        present = self._outlets.get(flow.address)
        if present is not None and present.owner.flow is flow and present.holds():
            return
        keypair, way = session.current, self._demux.way(path)
        if keypair is None or way is None or keypair.spent:
            return
        endpoint, before = way
        port = self._host.port_to(endpoint)
        if port is None or not port.takes_segments:
            return
        self._begin()
        room_bytes = self._sessions.sizes.room_bytes(peer)
        guards: list[tuple[object, str, object]] = [
            (peer, "path", path),
            (peer, "up", True),
            (peer, "session", session),
            (session, "current", keypair),
            (peer, "features", features),
            (peer, "size", size),
            (size, "proven_bytes", size.proven_bytes),
            (self._datapath, "running", True),
        ]
        if isinstance(path, Tunnel):
            relay = self._sessions.peers.get(path.via)
            guards += [(relay, "path", endpoint)]
        if len(self._outlets) >= MAX_OUTLETS:
            self._outlets.clear()
        try:
            self._outlets[flow.address] = _fastpath.Outlet(
                owner=_Sender(flow, peer),
                guards=tuple(guards),
                mouth=self._mouth(port),
                endpoint=endpoint,
                keypair=keypair,
                key=keypair.keys[0],
                aes=keypair.aes,
                front=before + transport_head(keypair.remote_index),
                room_bytes=room_bytes,
                segments=bool(features & Feature.SEGMENTS),
                class_mask=self._datapath.class_mask & (0xFF if features & Feature.ECN else ~ECN_MASK),
                limit=keypair.limit,
                dies_at=self._dies_at(keypair),
            )
        except OSError as error:
            self._give_up(error)
        self._keep_clean()

    def _sent(self, sender: _Sender, packets: int, octets: int, sealed_octets: int) -> None:
        flow, peer = sender
        now = self._host.now()
        flow.packets += packets
        flow.octets += octets
        self._datapath.packets_out += packets
        peer.demand_at = now
        peer.packets += packets
        self._sessions.sent(peer, sealed_octets, now)
        if now >= peer.size.due_at:
            self._sessions.sizes.room_bytes(peer)

    def _blocked(self, endpoint: tuple[str, int], datagrams: bytes, size: int, traffic_class: int) -> None:
        """The kernel took no batch: send it as Python does, which waits for room or finds out why."""
        to = Endpoint(*endpoint)
        self._host.send_run(to, datagrams, size, traffic_class)
        port = self._host.port_to(to)
        if port is None or not port.takes_segments:  # It does no more: asking for each batch would be in vain.
            self._outlets.clear()
            self._transits.clear()

    # --- in --------------------------------------------------------------------------------------------------------

    def _read_datagrams(self, port: Port, most: int) -> None:
        if self._native is None or self._tap.fileno() < 0:
            self._host.read(port)
        else:
            self._native.read_datagrams(self._mouth(port), most)

    def _datagrams(self, mouth: _fastpath.Mouth, datagrams: bytearray | None, source: Any, notes: Any) -> None:
        """What C did not take."""
        if datagrams is None:
            self._host.failed(notes)
            return
        port = self._ports[mouth]
        # A relay marks what it passes on, so this must be read before.
        skip = TUNNEL_HEADER_BYTES if datagrams[:1] == _TUNNELLED else 0
        lead, head = bytes(datagrams[:skip]), bytes(datagrams[skip : skip + HEAD_BYTES])
        self._host.received(port, memoryview(datagrams), source, notes)
        if port.is_open and datagrams:
            self._make_inlet(lead, head, Endpoint(source[0], source[1]))

    def _make_inlet(self, lead: bytes, head: bytes, source: Endpoint) -> None:
        """For what begins with `lead` and `head` and comes from `source`, if it is a session's in its steady state."""
        if len(head) < HEAD_BYTES or head[0] != TRANSPORT or self._datapath.pave is None:
            return
        index = head[4:]
        addressed = self._sessions.addressed(int.from_bytes(index, "big"))
        if addressed is None:
            return
        peer, keypair = addressed
        session, path = peer.session, peer.path
        if not peer.up or path is None or session.current is not keypair or peer.reborn is not None:
            return
        relay: tuple[tuple[object, str, object], ...] = ()
        if isinstance(path, Tunnel):
            ours = len(lead) and lead[RELAYED_AT] and path.label == int.from_bytes(lead[4:], "big")
            via = self._sessions.peers.get(path.via)
            if not ours or via is None or via.path != source or self._tunnels.relay_of(path) != source:
                return
            relay = ((via, "path", via.path),)
        elif lead or path != source:
            return
        present = self._inlets.get(index)
        if present is not None and present.holds():
            return
        if len(self._inlets) >= MAX_INLETS:
            self._inlets.clear()
        try:
            self._inlets[index] = _fastpath.Inlet(
                owner=_Receiver(peer, path),
                guards=(
                    (peer, "path", path),
                    (peer, "up", True),
                    (peer, "session", session),
                    (peer, "member", peer.member),
                    (peer, "reborn", None),
                    (session, "current", keypair),
                    (self._datapath, "running", True),
                    *relay,
                ),
                endpoint=source,
                member=peer.member,
                window=keypair.window,
                key=keypair.keys[1],
                aes=keypair.aes,
                lead=lead,
                head=head,
                longest_bytes=MAX_MESSAGE_BYTES,
                dies_at=self._dies_at(keypair),
            )
        except OSError as error:
            self._give_up(error)
        self._keep_clean()

    def _opened(self, receiver: _Receiver, plaintexts: list[bytes], traffic_class: int) -> None:
        """What C opened, but did not write."""
        self._host.received_class = traffic_class
        self._demux.take_opened(receiver.peer, plaintexts, receiver.path)

    def _heard(self, receiver: _Receiver, packets: int, octets: int) -> None:
        peer, path = receiver
        if isinstance(path, Tunnel):
            self._tunnels.heard(path)
        now = self._host.now()
        if packets:
            peer.demand_at = now
            peer.packets += packets
            self._datapath.packets_in += packets
        self._sessions.heard(peer, path, octets, now)

    # --- on --------------------------------------------------------------------------------------------------------

    def _make_transit(self, circuit: Circuit, source: Endpoint, there: Peer) -> None:
        """For what comes from `source` through a circuit that this node relays."""
        here = circuit.one if there is circuit.other else circuit.other
        to = there.path
        if circuit.octets < WORTH_OCTETS:
            return
        if self._relay.rate_bytes_per_s or here.path != source or not isinstance(to, Endpoint) or not circuit.open:
            return
        port = self._host.port_to(to)
        if port is None or not port.takes_segments:
            return
        label = circuit.label.to_bytes(4, "big")
        others = tuple(each for each in self._transits.get(label, ()) if each.holds() and each.owner.circuit is circuit)
        if any(each.owner.source == source for each in others):
            return
        self._begin()
        if len(self._transits) >= MAX_TRANSITS:
            self._transits.clear()
        made = _fastpath.Transit(
            owner=_Passage(circuit, source),
            guards=(
                (circuit, "open", True),
                (here, "path", here.path),
                (there, "path", to),
                (self._relay, "rate_bytes_per_s", self._relay.rate_bytes_per_s),
            ),
            endpoint=source,
            mouth=self._mouth(port),
            to=to,
            header=Tunnel(0, circuit.label).header(),
        )
        self._transits[label] = (*others[-1:], made)
        self._keep_clean()

    def _passed(self, passage: _Passage, octets: int) -> None:
        passage.circuit.octets += octets

    # --- both ------------------------------------------------------------------------------------------------------

    def _mouth(self, port: Port) -> _fastpath.Mouth:
        mouth = self._mouths.get(port)
        if mouth is None:
            for closed in [each for each in self._mouths if not each.is_open]:
                del self._ports[self._mouths.pop(closed)]
            mouth = self._mouths[port] = _fastpath.Mouth(port.socket.fileno(), port, port.arrivals, port.queue)
            self._ports[mouth] = port
        return mouth

    def _dies_at(self, keypair: Keypair) -> float:
        return boottime_s() + keypair.reject_at - self._host.now()
