"""The trees that carry packets for many: the whole network's, and those of busy groups' rings.

A busy group's ring is an ordinary group (`dht.groups`), opened by a secret that every member of the network can derive,
and forgotten at the end of the process. Never looks into frames.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2s
from ipaddress import IPv4Address
from typing import Final

from dht.groups.right import GroupSecret
from dht.groups.subring import Subring
from dht.node import Node

log = logging.getLogger(__name__)

CHANNEL: Final = 1  # of the trees
PURPOSE: Final = "multicast"
NAME_PREFIX: Final = "mcast-"


def ring_name(group: bytes) -> str:
    """What the ring of a multicast group (4 or 16 raw bytes) is called."""
    if len(group) == 4:
        return NAME_PREFIX + str(IPv4Address(group)).replace(".", "-")
    return NAME_PREFIX + blake2s(group, digest_size=12).hexdigest()


class RingCasts:
    """Implements `ipop.multicast.Casts` on a node's rings."""

    def __init__(self, node: Node, counters: Counter[str]) -> None:
        self._node, self._counters = node, counters
        self._secret = GroupSecret.open_to_all(node.identity.network, PURPOSE)
        self._rings: dict[bytes, Subring] = {}
        self._came: Callable[[bytes | None, Sequence[bytes]], None] = lambda group, frames: None
        node.parts.overlay.broadcast.on(CHANNEL, lambda origin, frames: self._came(None, frames))

    def cast(self, group: bytes | None, frames: Sequence[bytes], traffic_class: int) -> None:
        if group is None:
            broadcast = self._node.parts.overlay.broadcast
        else:
            subring = self._rings.get(group)
            if subring is None:
                self._counters["multicast_no_ring"] += len(frames)
                return
            broadcast = subring.ring.broadcast
        broadcast.send(CHANNEL, frames, traffic_class)

    def be_on(self, groups: set[bytes]) -> None:
        for group in self._rings.keys() - groups:
            del self._rings[group]
            self._node.groups.leave(ring_name(group), secret=True)
        for group in sorted(groups - self._rings.keys()):
            try:
                subring = self._node.groups.join(ring_name(group), self._secret, keep=False)
            except ValueError as error:
                # Too many groups: this one's packets go on coming by the whole network.
                self._counters["multicast_ring_refused"] += 1
                log.debug("no ring for a busy group: %s", error)
                continue
            self._rings[group] = subring
            subring.ring.broadcast.on(CHANNEL, self._from(group))

    def on_cast(self, callback: Callable[[bytes | None, Sequence[bytes]], None]) -> None:
        self._came = callback

    def subring(self, group: bytes) -> Subring | None:
        """The ring of a busy group, if this node is on it."""
        return self._rings.get(group)

    def _from(self, group: bytes) -> Callable[[int, Sequence[bytes]], None]:
        return lambda origin, frames: self._came(group, frames)
