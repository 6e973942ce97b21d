"""Gets an edge to a node of which only a contact is known.

    dial every endpoint at once -> edge | no answer yet: ask the node, over the ring, to dial too -> edge | failed

Both ends sending first is what a hole punch needs. A node that could not be reached is left alone for a while, so
that neighbours who still name it don't make us try for ever. Source: Brunet's linking and ConnectToMe messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice

from dht.contact import Contact
from dht.handshakes import Handshakes
from dht.host import Endpoint, Host
from dht.messages import ConnectToMe
from dht.peer import Peer
from dht.router import Router
from dht.sessions import Sessions

ASK_TO_DIAL_AFTER_S = 0.4
SHUN_S = 20.0
MAX_DIALLED = 4  # endpoints of one contact
# Contacts are hints from members, who may lie: what we send to unproven addresses for their sake is bounded.
DIALS_PER_S = 10.0
DIAL_BURST = 150.0
ASKED_DIALS_PER_S = 2.0
ASKED_DIAL_BURST = 20.0
MAX_SHUNNED = 1024


class Budget:
    """A token bucket: `rate_per_s` in the long run, `burst` at once."""

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s, self._burst = rate_per_s, burst
        self._tokens, self._since = burst, now

    def take(self, now: float) -> bool:
        """Use up one token, when there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate_per_s)
        self._since = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Linker:
    """Makes edges. `own_contact()` is how others may reach this node."""

    def __init__(
        self,
        host: Host,
        me: int,
        sessions: Sessions,
        handshakes: Handshakes,
        router: Router,
        own_contact: Callable[[], Contact],
        counters: Counter[str],
    ) -> None:
        self._host, self._me = host, me
        self._sessions, self._handshakes, self._router = sessions, handshakes, router
        self._own_contact, self._counters = own_contact, counters
        # By id and static key: a contact with a wrong key must not stand in for the right one.
        self._linking: dict[tuple[int, bytes], list[Callable[[Peer | None], None]]] = {}
        self._shunned: dict[tuple[int, bytes], float] = {}
        self._stopped = False
        self._dials = Budget(DIALS_PER_S, DIAL_BURST, host.now())
        self._asked_dials = Budget(ASKED_DIALS_PER_S, ASKED_DIAL_BURST, host.now())

    def stop(self) -> None:
        """Make no more edges; nobody who waits is told."""
        self._stopped = True
        self._linking.clear()

    def link(self, contact: Contact, done: Callable[[Peer | None], None] | None = None) -> None:
        """Seek an edge to `contact`; `done` is called once, perhaps at once, with the peer or None."""
        peer = self._edge(contact.id)
        endpoints = self._worth_dialling(contact)
        if peer is not None or contact.id == self._me or not endpoints or self._stopped:
            if done is not None:
                done(peer)
            return
        key = (contact.id, contact.static)
        waiting = self._linking.get(key)
        if waiting is not None:
            if done is not None:
                waiting.append(done)
            return
        if not self._dials.take(self._host.now()):
            self._counters["dials_over_budget"] += 1
            if done is not None:
                done(None)
            return
        self._linking[key] = [] if done is None else [done]
        self._handshakes.begin(contact, endpoints, lambda peer, reason: self._ended(contact))
        self._host.call_later(ASK_TO_DIAL_AFTER_S, lambda: self._ask_to_dial(contact))

    def asked_to_dial(self, contact: Contact) -> None:
        """A node that is dialling us asked us to dial it too."""
        endpoints = self._worth_dialling(contact)
        if self._edge(contact.id) is not None or (contact.id, contact.static) in self._linking or not endpoints:
            return
        if not self._asked_dials.take(self._host.now()):
            self._counters["dials_over_budget"] += 1
            return
        self._handshakes.begin(contact, endpoints)

    def shun(self, contact: Contact) -> None:
        """Leave a node alone for a while: it is dead, or can't be reached."""
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[contact.id, contact.static] = self._host.now() + SHUN_S

    def forgive(self, contact: Contact) -> None:
        """It was heard from again."""
        self._shunned.pop((contact.id, contact.static), None)

    def shunned(self, contact: Contact) -> bool:
        """Whether this node was found dead or out of reach a moment ago."""
        key = (contact.id, contact.static)
        until = self._shunned.get(key)
        if until is not None and until <= self._host.now():
            del self._shunned[key]
            return False
        return until is not None

    def _worth_dialling(self, contact: Contact) -> tuple[Endpoint, ...]:
        """The first few endpoints that can be the node's: not our own (another site may use the same private
        addresses), and not this machine's loopback, unless that is where we are too."""
        own = self._own_contact().endpoints
        at_home = any(_is_loopback(endpoint) for endpoint in own)
        usable = (each for each in contact.endpoints if each not in own and (at_home or not _is_loopback(each)))
        return tuple(islice(usable, MAX_DIALLED))

    def _edge(self, node_id: int) -> Peer | None:
        peer = self._sessions.peers.get(node_id)
        return peer if peer is not None and peer.endpoint is not None and peer.up else None

    def _ask_to_dial(self, contact: Contact) -> None:
        if (contact.id, contact.static) in self._linking and self._edge(contact.id) is None:
            self._router.tell(contact.id, ConnectToMe(self._own_contact()))

    def _ended(self, contact: Contact) -> None:
        peer = self._edge(contact.id)
        if peer is None:
            self.shun(contact)
        for done in self._linking.pop((contact.id, contact.static), ()):
            done(peer)


def _is_loopback(endpoint: Endpoint) -> bool:
    return endpoint.address.startswith("127.") or endpoint.address == "::1"
