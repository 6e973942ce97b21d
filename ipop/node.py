"""A member of the virtual network: a ring node, the resolver and the data path around one TAP.

`build_node` is the one composition, for the command, the tests and the simulator: what differs between them is
the host, the TAP and the storage it is given. Never opens a file, a socket or a device itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from dht.certificate import NODE_NAME, Member
from dht.contact import Contact
from dht.host import Endpoint, Host
from dht.ids import ID_BYTES, id_bytes
from dht.node import RECORD_LIFETIME_S, Node, NodeConfig, NodeState, PeerView
from dht.records import address_name, host_name, node_name
from ipop.casts import RingCasts, ring_name
from ipop.config import BYTES_PER_MBIT, VpnConfig
from ipop.datapath import DataPath
from ipop.multicast import Multicast
from ipop.resolve import Located, Reason, Resolver
from ipop.roll import RollCall
from ipop.tap import Tap
from ipop.wording import shown
from shortcuts.node import Shortcuts

log = logging.getLogger(__name__)

PUBLISH_LIFETIME_S = RECORD_LIFETIME_S


@dataclass(frozen=True, slots=True)
class Target:
    """A node that a person named: what is known of it before there is a session."""

    id: int
    name: str | None
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return self.name or id_bytes(self.id).hex()


class VpnNode:
    """One member at work, between `start` and `stop`. `ring` may be used as it is, for messages and records."""

    def __init__(self, host: Host, tap: Tap, config: VpnConfig) -> None:
        self.host, self.tap = host, tap
        self.identity = config.identity
        self.ring = Node(
            host,
            config.identity,
            config.storage,
            NodeConfig(aes=config.aes, underlay_mtu=config.underlay_mtu, version=config.version),
        )
        self.shortcuts = Shortcuts(host, self.ring, config.shortcuts)
        self.resolver = Resolver(host, self.ring, self.is_ready)
        network, member = config.identity.network, config.identity.member
        self.datapath = DataPath(
            host, tap, self.ring.traffic, self.resolver, network, member, copy_dscp=config.copy_dscp
        )
        self.roll = RollCall(host, self.ring, self._wants_ring)
        self.multicast: Multicast | None = None
        if config.multicast:
            counters = self.datapath.counters
            self.casts = RingCasts(host, self.ring, counters)
            self.multicast = Multicast(
                host,
                tap,
                self.casts,
                config.identity,
                self.resolver.locate,
                self.ring.parts.reach.network_time,
                counters,
                copy_dscp=config.copy_dscp,
            )
            self.datapath.to_many = self.multicast.outbound
        self.started_at = host.now()
        self.started = False
        self._seeks_on_lan = config.shortcuts.lan
        self.mtu, self.underlay_mtu = config.mtu, config.underlay_mtu
        # How much this node relays for others at most; None: no limit.
        self.relay_mbit = config.shortcuts.proxy_bytes_per_s / BYTES_PER_MBIT or None
        # A shell knows which offloads of the kernel's are in use.
        self.offloads: Callable[[], dict[str, Sequence[str]]] = dict
        self.counted: list[Counter[str]] = [self.ring.counters, self.datapath.counters]

    @property
    def member(self) -> Member:
        return self.identity.member

    def is_ready(self) -> bool:
        return self.ring.state is NodeState.READY

    def start(self, bootstraps: Sequence[Endpoint]) -> None:
        """Join the ring through `bootstraps`, or peers of earlier runs, or else begin a ring; and carry frames."""
        self.started = True
        self.datapath.start()
        self.ring.start(bootstraps)
        self.shortcuts.start()
        if self.multicast is not None:
            self.multicast.start()
        contact = Contact(self.member.id, self.identity.static_public, ())
        for name in self._published_names():
            # Readers trust the certificate that signs the record; the static key in it lets them begin a handshake
            # over the overlay at once, without looking up our descriptor first.
            self.ring.put(name, contact.pack(), PUBLISH_LIFETIME_S)

    def stop(self) -> None:
        """Tell the peers, and stop. The TAP and the host stay their owner's to close."""
        self.datapath.stop()
        if self.multicast is not None:
            self.multicast.stop()
        self.resolver.stop()
        self.shortcuts.stop()
        # So that programs elsewhere fail at once instead of waiting for us.
        for name in (*self._published_names(), node_name(self.member.id)):
            self.ring.withdraw(name)
        self.ring.stop()

    def _published_names(self) -> tuple[str, ...]:
        member = self.member
        return address_name(member.address4), address_name(member.address6), host_name(member.name)

    def _wants_ring(self, name: str) -> bool:
        """Whether hosts here want what goes along the ring of this name."""
        return self.multicast is not None and name in map(ring_name, self.multicast.wanted)

    @property
    def counters(self) -> Counter[str]:
        """Everything counted since the start. A shell adds what it counts itself to `counted`."""
        counters: Counter[str] = Counter()
        for part in self.counted:
            counters.update(part)
        counters["packets_out"] = self.datapath.packets_out
        counters["packets_in"] = self.datapath.inbound.packets
        if self.multicast is not None:
            counters["multicast_out"] = self.multicast.packets_out
            counters["multicast_in"] = self.multicast.packets_in
            counters["membership_reports_refused"] = self.multicast.membership.refused
        return counters

    def peer(self, node_id: int) -> PeerView | None:
        """The present peer with this id."""
        return next((peer for peer in self.ring.peers() if peer.id == node_id), None)

    def name_of(self, node_id: int) -> str:
        """What to call a node: its name where there is a session with it, else its id."""
        peer = self.ring.parts.sessions.peers.get(node_id)
        return id_bytes(node_id).hex() if peer is None else peer.member.name

    def given_up(self, node_id: int) -> tuple[float, Endpoint] | None:
        """How many seconds ago the edge to a node was lost, and where that node was."""
        lost = self.ring.parts.acquaintances.lost(node_id)
        return None if lost is None else (self.host.now() - lost[1], lost[0])

    def find(self, text: str, done: Callable[[Target | str], None]) -> None:
        """Calls `done` with the node that `text` means (a name, a virtual address or an id), or with what is wrong."""
        typed, text = shown(text), text.lower()
        address = _address(text)
        network = self.identity.network
        if address is not None and address not in network.subnet and address not in network.prefix6:
            done(f"{address} is not in {network.subnet if address.version == 4 else network.prefix6}")
            return
        by_id = len(text) == 2 * ID_BYTES and all(digit in "0123456789abcdef" for digit in text)
        if address is None and not by_id and not NODE_NAME.fullmatch(text):
            done(f"'{typed}' is no node's name, virtual address or id")
            return
        if text == self.member.name or (address is not None and self.member.holds(address)):
            done(f"'{typed}' is this node itself")
            return
        for peer in self.ring.peers():
            if text in (peer.name, id_bytes(peer.id).hex()) or text in map(str, peer.addresses):
                done(Target(peer.id, peer.name, tuple(map(str, peer.addresses))))
                return
        if not self.is_ready():
            # Nobody could be asked, and the reason is here, not there.
            done(f"no way to '{typed}': {self._outside_the_ring()}")
            return
        if self.ring.parts.near.lists.alone:
            done(f"no way to '{typed}': {self._alone()}")
            return

        def located(found: Located) -> None:
            if isinstance(found, Reason):
                done(f"no way to '{typed}': {found.value}")
            else:
                done(Target(found.id, found.name, (str(found.address4), str(found.address6))))

        if address is not None:
            self.resolver.locate(address, located)
        elif by_id:
            done(Target(int(text, 16), None, ()))
        else:
            self.resolver.locate_name(text, located)

    def _alone(self) -> str:
        lan = " and found nobody on the LAN" if self._seeks_on_lan else ""
        return f"this node is alone: it was given no bootstrap{lan} (start it with --bootstrap HOST:PORT of a member)"

    def _outside_the_ring(self) -> str:
        state = "it is still joining" if self.ring.state is NodeState.JOINING else "none of the nodes it knows answers"
        return f"this node is not in a ring: {self.ring.alarm or state}"


def build_node(host: Host, tap: Tap, config: VpnConfig) -> VpnNode:
    """A node that has not started yet. `start` and `stop` are its life."""
    return VpnNode(host, tap, config)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if "%" in text else ip_address(text)  # A zone, as in fe80::1%eth0, means nothing here.
    except ValueError:
        return None
