"""What the commands ask of the search for paths, and the answers of a node that doesn't search."""

from __future__ import annotations

from typing import Protocol

from dht.host import Host
from dht.liveness import EDGE_S
from dht.node import Node
from shortcuts.nat import Nat
from shortcuts.views import Explanation, NetReport, RelayView

NEAREST_SHOWN = 5


class PathSearch(Protocol):
    """As much of `shortcuts` as `why`, `shortcuts`, `proxies` and `netcheck` need."""

    def explain(self, peer_id: int) -> Explanation | None:
        """Why packets to a peer take the path they take; None when nothing was ever looked for."""

    def explanations(self) -> list[Explanation]:
        """One for every peer with a shortcut or a wish for one."""

    def report(self) -> NetReport:
        """What this node knows of its own network."""


class NoShortcuts:
    """A node that never looks for paths: it knows what its edges and its circuits show."""

    def __init__(self, host: Host, ring: Node) -> None:
        self._host, self._ring = host, ring

    def explain(self, peer_id: int) -> Explanation | None:
        return None

    def explanations(self) -> list[Explanation]:
        return []

    def report(self) -> NetReport:
        measured = sorted((peer.rtt_ms, peer.name) for peer in self._ring.peers() if peer.rtt_ms is not None)
        relay = self._ring.parts.relay
        return NetReport(
            local=tuple(self._host.local_endpoints()),
            nat=(Nat(), Nat()),
            outside=(None, None),
            witnesses=(0, 0),
            mapped=None,
            mapping_note="not asked for",
            keepalive_s=EDGE_S,
            willing=relay.willing,
            circuits=tuple(RelayView(each.one.id, each.other.id, each.octets) for each in relay.circuits),
            nearest=tuple((name, rtt_ms) for rtt_ms, name in measured[:NEAREST_SHOWN]),
        )
