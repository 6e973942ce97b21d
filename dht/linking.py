"""Gets an edge to a node of which only a contact is known.

    dial every endpoint at once -> edge | no answer yet: ask the node, over the ring, to dial too -> edge
                                        | still none: a tunnel through a common neighbour -> edge | failed

Both ends sending first is what a hole punch needs. A tunnel is an edge like any other, until a direct path is found.
A node that could not be reached is left alone for a while, so that neighbours who still name it don't make us try for
ever. Source: Brunet's linking, ConnectToMe messages and tunnel edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from dht.budget import Budget
from dht.contact import Contact
from dht.handshakes import Handshakes
from dht.host import Endpoint, Host, Timer
from dht.messages import ConnectToMe
from dht.path import Tunnel
from dht.peer import Peer
from dht.router import Router
from dht.sessions import Sessions
from dht.tunnels import Tunnels

ASK_TO_DIAL_AFTER_S = 0.4
TUNNEL_AFTER_S = 1.2
MAX_RELAYS_ASKED = 8
SHUN_S = 20.0
MAX_DIALLED = 4  # endpoints of one contact
# Contacts are hints from members, who may lie: what we send to unproven addresses for their sake is bounded.
DIALS_PER_S = 10.0
DIAL_BURST = 150.0
ASKED_DIALS_PER_S = 2.0
ASKED_DIAL_BURST = 20.0
MAX_SHUNNED = 1024


@dataclass(slots=True, eq=False)
class _Linking:
    """One wish for an edge: who waits, and which ways are still being tried."""

    contact: Contact
    direct_only: bool
    waiting: list[Callable[[Peer | None], None]]
    dialling: bool = True
    tunnelling: bool = False
    tunnel_timer: Timer | None = None


class Linker:
    """Makes edges. `own_contact()` is how others may reach this node; `relays(contact)`, whom to ask for a tunnel,
    the likeliest first."""

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
        self._linking: dict[tuple[int, bytes], _Linking] = {}
        self._shunned: dict[tuple[int, bytes], float] = {}
        self._stopped = False
        self._dials = Budget(DIALS_PER_S, DIAL_BURST, host.now())
        self._asked_dials = Budget(ASKED_DIALS_PER_S, ASKED_DIAL_BURST, host.now())
        self.tunnels: Tunnels | None = None
        self.relays: Callable[[Contact], list[Peer]] = lambda contact: []

    def stop(self) -> None:
        """Make no more edges; nobody who waits is told."""
        self._stopped = True
        for linking in self._linking.values():
            if linking.tunnel_timer is not None:
                linking.tunnel_timer.cancel()
        self._linking.clear()

    def link(
        self,
        contact: Contact,
        done: Callable[[Peer | None], None] | None = None,
        *,
        direct_only: bool = False,
        at_once: bool = False,
    ) -> None:
        """Seek an edge to `contact`; `done` is called once, perhaps at once, with the peer or None. With `direct_only`,
        no tunnel is sought, but the edge may be one that was there; `at_once`, a tunnel is sought from the start."""
        peer = self._edge(contact.id)
        endpoints = self._worth_dialling(contact)
        hopeless = not endpoints and (direct_only or not contact.endpoints)
        if peer is not None or contact.id == self._me or hopeless or self._stopped:
            if done is not None:
                done(peer)
            return
        key = (contact.id, contact.static)
        linking = self._linking.get(key)
        if linking is not None:
            if done is not None:
                linking.waiting.append(done)
            if linking.direct_only and not direct_only:
                linking.direct_only = False
                self._tunnel_later(linking)
            return
        if not self._dials.take(self._host.now()):
            self._counters["dials_over_budget"] += 1
            if done is not None:
                done(None)
            return
        linking = self._linking[key] = _Linking(contact, direct_only, [] if done is None else [done])
        if not direct_only:
            self._tunnel_later(linking, 0.0 if at_once or not endpoints else TUNNEL_AFTER_S)
        if endpoints:
            self._handshakes.begin(contact, endpoints, lambda peer, reason: self._dialled(linking))
            self._host.call_later(ASK_TO_DIAL_AFTER_S, lambda: self._ask_to_dial(contact))
        else:
            linking.dialling = False

    def link_for_others(self, contact: Contact, done: Callable[[Peer | None], None]) -> None:
        """As `link`, direct only, for a node that asks for a tunnel: within the budget for what others ask of us."""
        if self._edge(contact.id) is None and not self._asked_dials.take(self._host.now()):
            self._counters["dials_over_budget"] += 1
            done(None)
        else:
            self.link(contact, done, direct_only=True)

    def asked_to_dial(self, contact: Contact) -> None:
        """A node that is dialling us asked us to dial it too."""
        endpoints = self._worth_dialling(contact)
        if self._edge(contact.id) is not None or (contact.id, contact.static) in self._linking or not endpoints:
            return
        if not self._asked_dials.take(self._host.now()):
            self._counters["dials_over_budget"] += 1
            return
        self._handshakes.begin(contact, endpoints)

    def names_a_way(self, contact: Contact) -> bool:
        """Whether it says where the node is."""
        return bool(contact.endpoints)

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
        return peer if peer is not None and peer.path is not None and peer.up else None

    def _ask_to_dial(self, contact: Contact) -> None:
        if (contact.id, contact.static) in self._linking and self._edge(contact.id) is None:
            self._router.tell(contact.id, ConnectToMe(self._own_contact()))

    def _dialled(self, linking: _Linking) -> None:
        linking.dialling = False
        self._settle(linking)

    def _tunnel_later(self, linking: _Linking, delay_s: float = 0.0) -> None:
        if linking.tunnel_timer is None:
            linking.tunnelling = True
            linking.tunnel_timer = self._host.call_later(delay_s, lambda: self._tunnel(linking))

    def _tunnel(self, linking: _Linking) -> None:
        contact = linking.contact
        relays = self.relays(contact)[:MAX_RELAYS_ASKED]
        if self._stopped or self._edge(contact.id) is not None or self.tunnels is None or not relays:
            self._tunnelled(linking)
            return

        def opened(tunnel: Tunnel | None) -> None:
            if tunnel is None or self._stopped:
                self._tunnelled(linking)
            else:
                self._counters["tunnels_opened"] += 1
                self._handshakes.begin(contact, (tunnel,), lambda peer, reason: self._tunnelled(linking))

        def another(tunnel: Tunnel) -> None:
            if self._edge(contact.id) is None and not self._stopped:
                self._handshakes.begin(contact, (tunnel,))

        self.tunnels.open(contact, relays, opened, another)

    def _tunnelled(self, linking: _Linking) -> None:
        linking.tunnelling = False
        self._settle(linking)

    def _settle(self, linking: _Linking) -> None:
        """Tell who waits, once there is an edge or nothing is left to try."""
        contact = linking.contact
        peer = self._edge(contact.id)
        if peer is None and (linking.dialling or linking.tunnelling):
            return
        if peer is not None and not peer.declared:
            peer.declared = contact.endpoints  # behind a tunnel it can't be seen where it is
        if self._linking.get((contact.id, contact.static)) is not linking:
            return
        del self._linking[contact.id, contact.static]
        if linking.tunnel_timer is not None:
            linking.tunnel_timer.cancel()
        if peer is None:
            self.shun(contact)
        else:
            self.forgive(contact)
        for done in linking.waiting:
            done(peer)


def _is_loopback(endpoint: Endpoint) -> bool:
    return endpoint.address.startswith("127.") or endpoint.address == "::1"
