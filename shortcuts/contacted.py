"""Whom this node sent to lately, which is whom its NATs would let in anyway: what an arrival shows follows from that.

Told of sends that may open a way (handshakes, checks, hellos), and now and then of every path in use; never of a packet
of users'. Bounded: when it had to forget somebody too early, it says of nobody that it is a stranger until that would
have been forgotten in any case. Never reads a clock.
Source: RFC 4787, section 4.3 (a mapping may last as long as it likes, but not under two minutes) and section 5.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from dht.host import Endpoint
from shortcuts.nat import Relation
from shortcuts.scope import is_ipv6

REMEMBERED_S: Final = 300.0  # longer than most NATs do
MAX_ENDPOINTS: Final = 4096


class Contacted:
    """The endpoints and addresses sent to in the last REMEMBERED_S, each the latest last."""

    def __init__(self) -> None:
        self._endpoints: OrderedDict[Endpoint, float] = OrderedDict()
        self._addresses: OrderedDict[str, float] = OrderedDict()
        self._incomplete_until = float("-inf")

    def __len__(self) -> int:
        return len(self._endpoints)

    def note(self, at: float, endpoint: Endpoint) -> None:
        """Something was sent there at that time, or came from there and will be answered."""
        if at > self._endpoints.get(endpoint, float("-inf")):
            self._endpoints[endpoint] = at
            self._endpoints.move_to_end(endpoint)
            self._addresses[endpoint.address] = max(at, self._addresses.get(endpoint.address, at))
            self._addresses.move_to_end(endpoint.address)
        while len(self._endpoints) > MAX_ENDPOINTS:
            _, noted_at = self._endpoints.popitem(last=False)
            self._incomplete_until = max(self._incomplete_until, noted_at + REMEMBERED_S)
        while len(self._addresses) > MAX_ENDPOINTS:
            self._addresses.popitem(last=False)

    def relation(self, now: float, source: Endpoint) -> Relation | None:
        """What a source has to do with whom we sent to; None when too much was forgotten to tell."""
        since = now - REMEMBERED_S
        if self._endpoints.get(source, since) > since:
            return Relation.ENDPOINT
        if now < self._incomplete_until:
            return None
        return Relation.ADDRESS if self._addresses.get(source.address, since) > since else Relation.STRANGER

    def addresses(self, now: float, limit: int, *, ipv6: bool) -> list[str]:
        """The addresses sent to in one family, the latest first."""
        found = [
            address
            for address, at in reversed(self._addresses.items())
            if is_ipv6(address) == ipv6 and now - at < REMEMBERED_S
        ]
        return found[:limit]
