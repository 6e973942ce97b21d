"""What was on its way from a peer when its edge was given up: its last packets are heard for a moment more.

    let go: its keys are kept -> opened, delivered, nothing else is changed by it -> LINGER_S later the keys are gone

Only what nobody sends again is delivered; the rest is about an edge that is no more. Never sends anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dht.envelope import Inner
from dht.fragments import MAX_MESSAGE_BYTES
from dht.host import Host
from dht.path import Path
from dht.peer import Peer
from dht.session import Keypair

LINGER_S = 3.0  # by then all has arrived
MAX_KEYS = 512
_FRAGMENT = bytes((Inner.FRAGMENT,))
_SENT_ONCE = frozenset(
    bytes((kind,)) for kind in (Inner.PACKET, Inner.SEGMENT, Inner.PARTIAL, Inner.ROUTED, Inner.BROADCAST)
)


class Lingering:
    """Keys of peers that were let go, by our index. `deliver` as in Sessions."""

    def __init__(self, host: Host, deliver: Callable[[Peer, bytes, Path | None], None]) -> None:
        self._host, self._deliver = host, deliver
        self._keys: dict[int, tuple[Peer, Keypair]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, index: int) -> bool:
        return index in self._keys

    def keep(self, keys: Mapping[int, tuple[Peer, Keypair]]) -> None:
        """Hear what comes under these for LINGER_S; not at all when too many are kept already."""
        if len(self._keys) + len(keys) <= MAX_KEYS:
            self._keys |= keys
            self._host.call_later(LINGER_S, lambda: self._forget(keys))

    def receive(self, index: int, datagram: bytes, path: Path | None) -> bool:
        """Open and deliver what came by `path`; False when the index is not kept. Raises BadDatagram."""
        kept = self._keys.get(index)
        if kept is None:
            return False
        peer, keypair = kept
        plaintext: bytes | None = keypair.open(datagram)
        if plaintext is not None and plaintext[:1] == _FRAGMENT:
            plaintext = peer.fragments.add(plaintext[1:], self._host.now())
        if plaintext is not None and plaintext[:1] in _SENT_ONCE and len(plaintext) <= MAX_MESSAGE_BYTES:
            self._deliver(peer, plaintext, path)
        return True

    def _forget(self, keys: Mapping[int, tuple[Peer, Keypair]]) -> None:
        for index in keys:
            self._keys.pop(index, None)
