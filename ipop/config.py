"""What a VPN node is built from, and what its user asked for. Parses texts; never opens a file or a socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from dht.bootstrap import Bootstrap
from dht.host import Endpoint
from dht.identity import Identity
from dht.storage import Storage
from shortcuts.node import ShortcutConfig

DEFAULT_PORT = 7077
DEFAULT_LISTEN = Endpoint("0.0.0.0", DEFAULT_PORT)  # The wildcard: IPv4 and IPv6.

# What a packet gains on its way to a peer: its kind, or what a segment has in front (5), the session's header and tag
# (16 + 16), UDP and IPv6 (8 + 40), and PPPoE on many a home's line (8): with these 93 bytes, 1400 fit any link of 1500.
# Over the ring a packet of more than 1343 bytes goes in two pieces; TCP super-packets are cut smaller there instead.
TAP_MTU = 1400

BYTES_PER_MBIT = 125_000.0
MAX_MBIT = 1e6
_PLAIN = ("bundle", "tap", "state", "control")  # of UpSettings: texts or nothing


@dataclass(frozen=True, slots=True)
class VpnConfig:
    """Everything `build_node` needs besides the host and the TAP."""

    identity: Identity
    storage: Storage
    aes: bool = False  # AES-GCM is done in hardware here
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
    shortcuts: ShortcutConfig = field(default_factory=ShortcutConfig)

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
