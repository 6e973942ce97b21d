"""How a node finds its way back: bootstraps, nodes known from earlier runs, and nodes that were lost.

A node without an edge to a member asks its bootstraps and dials whom it knew, more and more slowly. A member goes on
dialling the nodes it lost, one at a time: after a partition this is how the halves meet again. Whom a node had
edges or sessions with is kept on disk, so that it can rejoin when every bootstrap is dead, and so that a restarted
node calls on its old peers at once instead of letting them wait for a timeout.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from dht import hello
from dht.contact import Contact
from dht.cookie import SourceBuckets
from dht.counters import Counters
from dht.errors import BadDatagram
from dht.host import Endpoint, Host, Timer
from dht.identity import Identity
from dht.packing import Fields, pack
from dht.peer import Peer
from dht.sessions import Sessions
from dht.storage import Storage

log = logging.getLogger(__name__)

FILE = "peers"
VERSION = 1
MAX_KEPT = 128
MAX_LOST = 256
MAX_HELLOS = 64
SAVE_AFTER_S = 1.0
SEEK_S = (0.5, 1.0, 2.0, 4.0)  # between two tries while there is no edge; the last one repeats
DIAL_AT_ONCE = 16
COMPLAIN_AFTER_TRIES = 4
LOST_S = 20.0  # between two calls on lost nodes, while the loss is fresh
FRESH_S = 1800.0
STALE_LOST_S = 300.0
CALL_ON_BOOTSTRAPS_S = (20.0, 300.0)  # of a member: doubled from the first to the second


class Acquaintances:
    """Whom a node can turn to. `dial(contact, done)` seeks an edge; `met(peer)` is told of a lost one found again;
    `has_member()` says whether there is an edge to a member of the ring."""

    def __init__(
        self,
        host: Host,
        identity: Identity,
        storage: Storage,
        own: Counters,
        sessions: Sessions,
        dial: Callable[[Contact, Callable[[Peer | None], None]], None],
        met: Callable[[Peer], None],
        has_member: Callable[[], bool],
        own_contact: Callable[[], Contact],
        counts: Counter[str],
    ) -> None:
        self._host, self._identity, self._storage, self._own = host, identity, storage, own
        self._sessions, self._dial, self._met, self._has_member = sessions, dial, met, has_member
        self._own_contact, self._counts = own_contact, counts
        self._bootstraps: tuple[Endpoint, ...] = ()
        self.unknown_names: tuple[str, ...] = ()  # bootstraps that DNS knows nothing of yet
        self._hellos: dict[bytes, Endpoint] = {}
        self._lost: dict[int, tuple[Contact, float]] = {}
        self._kept: list[Contact] = self._load()
        self._askers = SourceBuckets()
        self._answered = False  # a bootstrap has, in this run
        self._tries = 0
        self._started_at = 0.0
        self._timer: Timer | None = None
        self._save_timer: Timer | None = None
        self._bootstraps_at = 0.0
        self._bootstraps_every_s = CALL_ON_BOOTSTRAPS_S[0]
        self.sent: Callable[[Endpoint], None] = lambda endpoint: None

    @property
    def any(self) -> bool:
        """Whether there is anybody to turn to at all."""
        return bool(self._bootstraps or self.unknown_names or self._kept or self._lost)

    def unanswered(self) -> str | None:
        """What to tell a person whose bootstraps all keep silent, or can't be found."""
        names = ", ".join(self.unknown_names)
        if names and not self._bootstraps:
            return f"no bootstrap's name could be looked up: {names}"
        if self._answered or not self._bootstraps or self._tries < COMPLAIN_AFTER_TRIES:
            return None
        where = ", ".join(map(str, self._bootstraps))
        return f"no answer from {where}: is it up, is its UDP port open, is this bundle of its network?" + (
            f" And no name could be looked up of: {names}" if names else ""
        )

    def start(self, bootstraps: Sequence[Endpoint]) -> None:
        self._bootstraps = tuple(bootstraps)
        self._started_at = self._host.now()
        for contact in self._kept[:MAX_KEPT]:
            self._lost[contact.id] = (contact, self._started_at)
            self._dial(contact, self._dialled)
        self._seek()

    def use_bootstraps(self, bootstraps: Sequence[Endpoint]) -> None:
        """The names of the bootstraps have new addresses."""
        if tuple(bootstraps) != self._bootstraps:
            self._bootstraps = tuple(bootstraps)
            self.hurry()

    def meet(self, contact: Contact) -> None:
        """A hint of where a member is: dial it, unless there is an edge to it."""
        if contact.id != self._identity.member.id:
            self._dial(contact, self._dialled)

    def hurry(self) -> None:
        """Something changed (an address, the last edge): try everybody soon."""
        self._tries = 0
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._host.call_later(0.0, self._seek)

    def call_all(self) -> None:
        """Dial everybody who was lost, at once."""
        for contact, _ in list(self._lost.values())[-MAX_KEPT:]:
            self._dial(contact, self._dialled)
        self.hurry()

    def stop(self) -> None:
        for timer in (self._timer, self._save_timer):
            if timer is not None:
                timer.cancel()
        if self._save_timer is not None:
            self._save()

    def edge_up(self, peer: Peer) -> None:
        self._lost.pop(peer.id, None)
        self._save_soon()

    def edge_lost(self, peer: Peer, endpoint: Endpoint | None) -> None:
        """An edge died. `endpoint` is where it was, if it is worth trying again."""
        contact = peer.contact()
        if endpoint is not None and endpoint not in contact.endpoints:
            contact = Contact(contact.id, contact.static, (endpoint, *contact.endpoints[:4]))
        if contact.endpoints:
            self._lost.pop(peer.id, None)
            if len(self._lost) >= MAX_LOST:
                del self._lost[next(iter(self._lost))]
            self._lost[peer.id] = (contact, self._host.now())
        self._save_soon()

    def lost(self, node_id: int) -> tuple[Endpoint, float] | None:
        """Where a node was that was lost and not found again, and when it was given up."""
        contact, since = self._lost.get(node_id, (None, 0.0))
        # Who is only known from an earlier run was not lost in this one.
        return None if contact is None or since <= self._started_at else (contact.endpoints[0], since)

    def request(self, datagram: bytes, source: Endpoint) -> bytes | None:
        """Answer somebody's hello. Raises BadDatagram; None for a repeated one."""
        if not self._askers.take(source.pack(), self._host.now()):
            self._counts["hello_over_rate"] += 1
            return None
        member, counter = hello.read_request(self._identity.network, datagram, self._host.now())
        if member.id == self._identity.member.id or not self._own.is_new(member.id, counter):
            self._counts["hello_repeated"] += 1
            return None
        self._own.accept(member.id, counter)
        return hello.answer(self._identity.network, datagram, self._own_contact())

    def reply(self, datagram: bytes, source: Endpoint) -> None:
        """A bootstrap said who it is: dial it where it was asked. Raises BadDatagram."""
        endpoint = self._hellos.pop(hello.nonce_of(datagram), None)
        self._answered |= endpoint is not None
        if endpoint is None:
            raise BadDatagram("a hello reply that nobody asked for")
        contact = hello.read_reply(self._identity.network, datagram)
        if contact.id == self._identity.member.id:
            return
        endpoints = dict.fromkeys((source, endpoint, *contact.endpoints))
        self._dial(Contact(contact.id, contact.static, tuple(endpoints)[:6]), self._dialled)

    def _dialled(self, peer: Peer | None) -> None:
        if peer is not None and peer.joined:
            self._met(peer)

    def _seek(self) -> None:
        now = self._host.now()
        if not self._has_member():
            self._ask_bootstraps()
            lost = list(self._lost.values())
            if self._tries and lost:
                for contact, _ in self._host.rng.sample(lost, min(DIAL_AT_ONCE, len(lost))):
                    self._dial(contact, self._dialled)
            delay_s = SEEK_S[min(self._tries, len(SEEK_S) - 1)]
            self._tries += 1
            silence = self.unanswered()
            if silence is not None and self._tries.bit_count() == 1:  # rarer and rarer
                log.warning("%s", silence)
        else:
            self._tries = 0
            delay_s = LOST_S
            fresh = [contact for contact, since in self._lost.values() if now - since < FRESH_S]
            stale = [contact for contact, since in self._lost.values() if now - since >= FRESH_S]
            if fresh:
                self._dial(self._host.rng.choice(fresh), self._dialled)
            elif stale and self._host.rng.random() < LOST_S / STALE_LOST_S:
                self._dial(self._host.rng.choice(stale), self._dialled)
            if now - self._bootstraps_at >= self._bootstraps_every_s:
                self._bootstraps_every_s = min(2 * self._bootstraps_every_s, CALL_ON_BOOTSTRAPS_S[1])
                self._ask_bootstraps()
        self._timer = self._host.call_later(delay_s * self._host.rng.uniform(0.8, 1.2), self._seek)

    def _ask_bootstraps(self) -> None:
        self._bootstraps_at = self._host.now()
        connected = {peer.endpoint for peer in self._sessions.edges()}
        for endpoint in self._bootstraps:
            if endpoint in connected or endpoint in self._own_contact().endpoints:
                continue
            nonce = self._host.rng.randbytes(hello.NONCE_BYTES)
            if len(self._hellos) >= MAX_HELLOS:
                del self._hellos[next(iter(self._hellos))]
            self._hellos[nonce] = endpoint
            self.sent(endpoint)
            self._host.send(endpoint, hello.ask(self._identity, self._own.next(), nonce))

    # On disk

    def _load(self) -> list[Contact]:
        stored = self._storage.load(FILE)
        if stored is None:
            return []
        try:
            fields = Fields.parse(stored, "file of known peers", max_bytes=1 << 16)
            if fields.integer(0, 0, 255) != VERSION:
                return []
            contacts = [Contact.parse(packed) for packed in fields.octets_list(1, MAX_KEPT, 256)]
        except BadDatagram:
            # Only a memory of whom we met: a damaged one is worth as much as none.
            self._counts["known_peers_unreadable"] += 1
            return []
        return [contact for contact in contacts if contact.endpoints and contact.id != self._identity.member.id]

    def _save_soon(self) -> None:
        if self._save_timer is None:
            self._save_timer = self._host.call_later(SAVE_AFTER_S, self._save)

    def _save(self) -> None:
        self._save_timer = None
        contacts = [peer.contact() for peer in self._sessions.peers.values() if peer.up and peer.endpoint is not None]
        known = {contact.id for contact in contacts}
        newest_lost = [contact for contact, _ in reversed(self._lost.values()) if contact.id not in known]
        kept = [contact for contact in (*contacts, *newest_lost) if contact.endpoints][:MAX_KEPT]
        self._storage.save(FILE, pack({0: VERSION, 1: [contact.pack() for contact in kept]}))
