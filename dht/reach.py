"""How others can reach this node: its own addresses, where peers see it, the descriptor it publishes, and its clock.

Peers report where our packets come from; what two of them report (or the only ones there are) and we don't listen on
is the outside of a NAT. The
descriptor under `node:<id>` is published anew when any of it changes.
"""

from __future__ import annotations

from collections.abc import Callable

from dht.contact import MAX_ENDPOINTS, Contact
from dht.host import Endpoint, Host, Timer
from dht.identity import Identity
from dht.sessions import Sessions

OBSERVED_S = 300.0
MAX_OBSERVED = 8
ENOUGH_REPORTERS = 2
ANNOUNCE_AFTER_S = 0.2  # changes that come together are published together
CLOCK_WRONG_S = 30.0  # smaller differences don't matter to records, and are mostly the network's delay


class Reach:
    """Where and when this node is. `publish(packed contact)` puts the descriptor into the DHT."""

    def __init__(self, host: Host, identity: Identity, sessions: Sessions) -> None:
        self._host, self._identity, self._sessions = host, identity, sessions
        self._observed: dict[Endpoint, dict[str, float]] = {}  # the latest last; who says so, and when
        self._timer: Timer | None = None
        self._published = b""
        self._stopped = True
        self._mapped: Endpoint | None = None
        self._contact: Contact | None = None  # the last one, which remembers how it is packed
        self.witness: Callable[[Endpoint, Endpoint], None] = lambda observed, reporter: None
        self.publish: Callable[[bytes], None] = lambda value: None

    def start(self) -> None:
        self._stopped = False
        self.announce()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def contact(self) -> Contact:
        """How others may reach this node: its own addresses, then where peers see it."""
        local = list(self._host.local_endpoints())
        mapped = [] if self._mapped is None else [self._mapped]
        endpoints = tuple((local + mapped + self.seen())[:MAX_ENDPOINTS])
        if self._contact is None or self._contact.endpoints != endpoints:
            self._contact = Contact(self._identity.member.id, self._identity.static_public, endpoints)
        return self._contact

    def seen(self) -> list[Endpoint]:
        """Where peers see this node, if that is not where it listens; the latest first."""
        local = self._host.local_endpoints()
        if all(endpoint in local for endpoint in self._observed):
            return []
        # One liar must not make us point others at somebody else's address.
        needed = min(ENOUGH_REPORTERS, sum(1 for _ in self._sessions.edges()) or 1)
        seen = [
            endpoint
            for endpoint, reporters in reversed(self._observed.items())
            if endpoint not in local and len(reporters) >= needed
        ]
        return [each for each in seen if each != self._mapped]

    def use_mapped(self, endpoint: Endpoint | None) -> None:
        """Our router forwards what comes to `endpoint`, or no longer does."""
        self._mapped = endpoint
        self.announce()

    def observed(self, endpoint: Endpoint, reporter: Endpoint) -> None:
        """The peer at `reporter` told us where it sees us."""
        now = self._host.now()
        self.witness(endpoint, reporter)
        reporters = self._observed.pop(endpoint, {})
        news = reporters.pop(reporter.address, None) is None
        reporters[reporter.address] = now  # last, so that whoever spoke longest ago is first
        while now - reporters[next(iter(reporters))] > OBSERVED_S:
            del reporters[next(iter(reporters))]
        self._observed[endpoint] = reporters
        while len(self._observed) > MAX_OBSERVED:
            del self._observed[next(iter(self._observed))]
        if news and endpoint not in self._host.local_endpoints():
            self.announce()

    def moved(self) -> None:
        """Our own addresses changed: what peers saw before is no longer true."""
        self._observed.clear()
        self.announce()

    def announce(self) -> None:
        """Publish where we can be reached, soon, if that is not what is published."""
        if self._timer is None and not self._stopped:
            self._timer = self._host.call_later(ANNOUNCE_AFTER_S, self._publish)

    def network_time(self) -> float:
        """The time that most peers agree on: a host whose own clock is wrong can still publish and read records."""
        offsets = sorted([0.0, *(peer.clock_offset_s for peer in self._sessions.peers.values() if peer.up)])
        offset_s = offsets[(len(offsets) - 1) // 2]
        return self._host.now() + (offset_s if abs(offset_s) > CLOCK_WRONG_S else 0.0)

    def _publish(self) -> None:
        self._timer = None
        value = self.contact().pack()
        if value != self._published:
            self._published = value
            self.publish(value)
