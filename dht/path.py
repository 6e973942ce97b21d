"""The ways from this node to a peer: a direct endpoint, or a tunnel through one relay. None stands for the overlay.

A tunnel's datagrams carry the label that its relay gave it, the same on both sides, so that the relay passes batches on
as they came, but for a mark that they were relayed. Nobody relays what bears the mark, so nothing goes in circles:

    0x17 | 1 once relayed, else 0 | 2 zero | label (4) | a datagram of the two ends

Both legs of a tunnel are direct: there is never a tunnel within a tunnel. Values only; `dht.tunnels` opens tunnels.
Source: Brunet's tunnel edges, of which two relayed halves are refused (Ganguly et al., HPDC 2008).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from dht.host import Endpoint
from dht.ids import ID_BYTES, id_bytes, short

TUNNELLED: Final = 0x17
TUNNEL_HEADER_BYTES: Final = 8
RELAYED_AT: Final = 1  # where the mark is


class Tunnel(NamedTuple):
    """A way through one relay, by its node id and the label it gave."""

    via: int
    label: int

    def __str__(self) -> str:
        return f"tunnel {self.label:08x} via {short(self.via)}"

    def header(self) -> bytes:
        """What goes in front of every datagram."""
        return bytes((TUNNELLED, 0, 0, 0)) + self.label.to_bytes(4, "big")


Path = Endpoint | Tunnel


class Kind(IntEnum):
    """What a path is called; the lower, the better."""

    DIRECT = 0
    PROXY = 1
    OVERLAY = 2


def kind_of(path: Path | None) -> Kind:
    if path is None:
        return Kind.OVERLAY
    return Kind.PROXY if isinstance(path, Tunnel) else Kind.DIRECT


def endpoint_of(path: Path | None) -> Endpoint | None:
    """The endpoint of a direct path; None for any other."""
    return path if isinstance(path, Endpoint) else None


def relay_of(path: Path | None) -> int | None:
    """The node id of the relay in the path, None when there is none, or when it is the overlay."""
    return path.via if isinstance(path, Tunnel) else None


def hops_of(path: Path) -> int:
    """How many times a datagram is sent on its way."""
    return 2 if isinstance(path, Tunnel) else 1


def source_bytes(path: Path | None, node_id: int) -> bytes:
    """What a flood over this path has in common: the address, or who passed it on. `node_id` is who a packet from
    the overlay says it is from."""
    if path is None:
        return id_bytes(node_id)
    return path.via.to_bytes(ID_BYTES, "big") if isinstance(path, Tunnel) else path.pack()
