"""What a VPN node is built from, and what its user asked for. Parses texts; never opens a file or a socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

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


def too_long(mtu: int, underlay_mtu: int) -> str | None:
    """What to tell who wants a virtual MTU that does not fit links of `underlay_mtu`; None where it fits."""
    fitting = underlay_mtu - AROUND_PACKET_BYTES
    if mtu <= max(LEAST_TAP_MTU, fitting):
        return None
    return (
        f"--mtu {mtu} is more than fits links of {underlay_mtu} bytes (--underlay-mtu): packets of more than {fitting}"
        " bytes go in pieces, which is slower"
    )


BYTES_PER_MBIT = 125_000.0
MAX_MBIT = 1e6
# Of UpSettings, what JSON has a type for.
_PLAIN = (
    "bundle",
    "tap",
    "state",
    "control",
    "copy_dscp",
    "underlay_mtu",
    "mtu",
    "multicast",
    "multicast_route",
    "version",
)


@dataclass(frozen=True, slots=True)
class VpnConfig:
    """Everything `build_node` needs besides the host and the TAP."""

    identity: Identity
    storage: Storage
    aes: bool = False  # AES-GCM is done in hardware here
    underlay_mtu: int = DEFAULT_UNDERLAY_MTU
    copy_dscp: bool = True  # the outer header shows the inner one's DSCP
    mtu: int = TAP_MTU  # of the TAP, as it was made
    shortcuts: ShortcutConfig = field(default_factory=ShortcutConfig)
    multicast: bool = True  # packets for many are carried
    version: str = ""  # of the program, for whoever looks at the ring


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
    shortcuts: ShortcutConfig = field(default_factory=ShortcutConfig)
    multicast: bool = True
    multicast_route: bool = False
    version: str = ""

    def to_text(self) -> str:
        return json.dumps(
            {
                **{name: getattr(self, name) for name in _PLAIN},
                "listen": self.listen,
                "bootstraps": [str(each) for each in self.bootstraps],
                "shortcuts": asdict(self.shortcuts),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> UpSettings:
        """The inverse of `to_text`."""
        fields = json.loads(text)
        return cls(
            listen=Endpoint(*fields.pop("listen")),
            bootstraps=tuple(map(Bootstrap.from_text, fields.pop("bootstraps"))),
            shortcuts=ShortcutConfig(**fields.pop("shortcuts")),
            **fields,
        )


def shortcuts_config(*, proxy: bool, proxy_mbit: float | None, portmap: bool, lan: bool) -> ShortcutConfig:
    """What the options of `p2pvpn up` mean. Raises ValueError, in words for the one who typed them."""
    if proxy_mbit is not None and not proxy:
        raise ValueError("--no-proxy and --proxy-mbit contradict each other: leave one of them out")
    if proxy_mbit is not None and not 0.0 < proxy_mbit < MAX_MBIT:
        raise ValueError(f"--proxy-mbit takes more than 0 and less than {MAX_MBIT:.0f}; --no-proxy relays nothing")
    return ShortcutConfig(
        willing=proxy, proxy_bytes_per_s=(proxy_mbit or 0.0) * BYTES_PER_MBIT, portmap=portmap, lan=lan
    )
