"""What a VPN node is built from, and what its user asked for. Parses texts; never opens a file or a socket."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dht.bootstrap import Bootstrap
from dht.host import Endpoint
from dht.identity import Identity
from dht.storage import Storage

DEFAULT_PORT = 7077
DEFAULT_LISTEN = Endpoint("0.0.0.0", DEFAULT_PORT)  # The wildcard: IPv4 and IPv6.

# What a packet gains on its way to a peer: its kind, or what a segment has in front (5), the session's header and tag
# (16 + 16), UDP and IPv6 (8 + 40), and PPPoE on many a home's line (8): with these 93 bytes, 1400 fit any link of 1500.
# Over the ring a packet of more than 1343 bytes goes in two pieces; TCP super-packets are cut smaller there instead.
TAP_MTU = 1400


@dataclass(frozen=True, slots=True)
class VpnConfig:
    """Everything `build_node` needs besides the host and the TAP."""

    identity: Identity
    storage: Storage
    aes: bool = False  # AES-GCM is done in hardware here
    copy_dscp: bool = True  # the outer header shows the inner one's DSCP


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
            ]
        )

    @classmethod
    def from_text(cls, text: str) -> UpSettings:
        """The inverse of `to_text`."""
        bundle, listen, bootstraps, *others = json.loads(text)
        return cls(bundle, Endpoint(*listen), tuple(map(Bootstrap.from_text, bootstraps)), *others)
