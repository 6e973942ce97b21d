"""What a simulated host runs: the ring alone, or a whole VPN node with a TAP in memory. A `sims.world.World` has one.

Both are the product's own compositions. A stack builds, starts and stops nodes; between building and starting, whoever
studies hostile members or a routing policy of their own may alter a node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dht.host import Endpoint, Host
from dht.identity import Identity
from dht.node import Node, NodeConfig
from dht.storage import Storage
from ipop.config import VpnConfig
from ipop.node import VpnNode, build_node
from ipop.tap import MemoryTap


class WatchedTap(MemoryTap):
    """A TAP in memory, of which the world sees every frame come out: `watchers` are told at once."""

    def __init__(self) -> None:
        super().__init__()
        self.watchers: list[Callable[[bytes], None]] = []

    def write(self, frame: bytes) -> None:
        super().write(frame)
        for told in self.watchers:
            told(frame)


class Stack(Protocol):
    """Makes what runs on a host. A node is known by its part on the ring."""

    def build(self, host: Host, identity: Identity, storage: Storage, config: NodeConfig) -> Node:
        """A node that has not started."""

    def start(self, node: Node, bootstraps: Sequence[Endpoint]) -> None:
        """Let it join through `bootstraps`, or begin a ring."""

    def stop(self, node: Node) -> None:
        """Let it say goodbye and stop."""

    def forget(self, node: Node) -> None:
        """It is gone."""


class RingStack:
    """The ring alone: lookups, records, sessions and messages; no shortcuts and no TAP."""

    def build(self, host: Host, identity: Identity, storage: Storage, config: NodeConfig) -> Node:
        return Node(host, identity, storage, config)

    def start(self, node: Node, bootstraps: Sequence[Endpoint]) -> None:
        node.start(bootstraps)

    def stop(self, node: Node) -> None:
        node.stop()

    def forget(self, node: Node) -> None:
        """Nothing is kept."""


class VpnStack:
    """Whole VPN nodes, as `p2pvpn up` runs them, with TAPs in memory."""

    def __init__(self) -> None:
        self.vpns: dict[int, VpnNode] = {}  # by node id
        self.taps: dict[int, WatchedTap] = {}

    def build(self, host: Host, identity: Identity, storage: Storage, config: NodeConfig) -> Node:
        tap = WatchedTap()
        vpn = build_node(host, tap, VpnConfig(identity, storage, aes=config.aes, underlay_mtu=config.underlay_mtu))
        self.vpns[vpn.ring.id], self.taps[vpn.ring.id] = vpn, tap
        return vpn.ring

    def start(self, node: Node, bootstraps: Sequence[Endpoint]) -> None:
        self.vpns[node.id].start(bootstraps)

    def stop(self, node: Node) -> None:
        self.vpns[node.id].stop()

    def forget(self, node: Node) -> None:
        self.vpns.pop(node.id, None)
        self.taps.pop(node.id, None)
