"""What a VPN node is built from, and what its user asked for. Parses texts; never opens a file or a socket."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from dht.bootstrap import Bootstrap
from dht.host import Endpoint
from dht.identity import Identity
from dht.session import OVERHEAD_BYTES
from dht.sizes import DEFAULT_UNDERLAY_MTU, IP_UDP_BYTES, LABEL_BYTES
from dht.storage import Storage
from ipop.superpacket import SEGMENT_BYTES
from shortcuts.node import ShortcutConfig

DEFAULT_PORT = 7077
DEFAULT_LISTEN = Endpoint("0.0.0.0", DEFAULT_PORT)  # The wildcard: IPv4 and IPv6.

# What a packet gains on its way to a peer: its kind, or what a segment has in front (5), the session's header and tag
# (16 + 16), a tunnel's label (8), UDP and IPv6 (8 + 40). With these 93 bytes, 1400 fit a link of 1500, directly or
# through a relay, and without the label also a home's line with PPPoE (1492). Where the path carries less, and over the
# ring, packets go in two pieces; TCP super-packets are cut smaller there instead.
TAP_MTU = 1400
AROUND_PACKET_BYTES = SEGMENT_BYTES + OVERHEAD_BYTES + LABEL_BYTES + IP_UDP_BYTES
LEAST_TAP_MTU = 1280  # below that the kernel turns IPv6 off
MOST_TAP_MTU = 9000  # in eight pieces, even where only 1280 bytes pass


def tap_mtu(underlay_mtu: int) -> int:
    """The virtual MTU by default: no packet goes in pieces on links of `underlay_mtu`, unless these are so narrow that
    IPv6's 1280 bytes don't fit."""
    return max(LEAST_TAP_MTU, min(TAP_MTU, underlay_mtu - AROUND_PACKET_BYTES))


@dataclass(frozen=True, slots=True)
class VpnConfig:
    """Everything `build_node` needs besides the host and the TAP."""

    identity: Identity
    storage: Storage
    aes: bool = False  # AES-GCM is done in hardware here
    underlay_mtu: int = DEFAULT_UNDERLAY_MTU
    copy_dscp: bool = True  # the outer header shows the inner one's DSCP
    shortcuts: ShortcutConfig = field(default_factory=ShortcutConfig)


@dataclass(frozen=True, slots=True)
class UpSettings:
    """The command line of `p2pvpn up`, parsed. None: the default, which depends on the node's name."""

    bundle: str
    listen: Endpoint
    bootstraps: tuple[Bootstrap, ...]
    tap: str | None
    state: str | None
    control: str | None
    copy_dscp: bool = True
    underlay_mtu: int = DEFAULT_UNDERLAY_MTU
    mtu: int | None = None

    def to_text(self) -> str:
        return json.dumps(
            [
                self.bundle,
                self.listen,
                [str(each) for each in self.bootstraps],
                self.tap,
                self.state,
                self.control,
                self.copy_dscp,
                self.underlay_mtu,
                self.mtu,
            ]
        )

    @classmethod
    def from_text(cls, text: str) -> UpSettings:
        """The inverse of `to_text`."""
        bundle, listen, bootstraps, *others = json.loads(text)
        return cls(bundle, Endpoint(*listen), tuple(map(Bootstrap.from_text, bootstraps)), *others)
