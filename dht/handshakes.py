"""Begins handshakes, answers them, repeats them, and settles the awkward cases.

    attempt:  begin -> (initiation sent, up to len(RETRY_S) times) -> established | failed(reason)

Awkward cases, and what is done:
- who is to be dialled has just been answered: it is given the time of one try to come up by itself;
- both ends begin at once: the end with the lower id ignores the other's initiation if it came from where its own
  was sent, and the higher answers; after two tries neither ignores any more, as one direction may be blocked;
- a captured initiation is sent again: its mac1 was seen or its counter accepted before; nothing is answered;
- a flood: above `dht.cookie`'s limits, an initiation must prove its source with a cookie;
- the same identity runs twice: the first one heard stays, when it still answers (`dht.incumbents`); both are told;
- the peer restarted: a new instance from the same endpoint, or with nobody at the old one, takes over at once.
Source: WireGuard (NDSS 2017) sections 5.3 and 5.4; crossing rule and duplicate detection are ours.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from dht.certificate import Member
from dht.contact import Contact
from dht.cookie import MAC_BYTES, Admission, CookieJar, CookieReply, Doorkeeper
from dht.counters import Counters
from dht.errors import BadDatagram, StaleDatagram
from dht.features import ALL_FEATURES
from dht.handshake import ACCEPTED, DUPLICATE_IDENTITY, Initiation, Payload, Received, peer_member
from dht.host import Endpoint, Host, Timer
from dht.identity import Identity
from dht.ids import short
from dht.incumbents import Incumbents
from dht.path import Kind, Path, endpoint_of, kind_of, source_bytes
from dht.peer import Peer, Reborn
from dht.session import Keypair, Session
from dht.sessions import Sessions

RETRY_S = (0.6, 0.9, 1.5)
IGNORE_CROSSING_TRIES = 2
BELIEVE_UNREACHABLE = 2
MAX_ATTEMPTS = 512
MAX_ATTEMPTS_A_NODE = 4
WORST_CLOCK_S = 10 * 365 * 86400.0  # a clock further off than this is no clock
MAX_SEEN = 4096
MAX_KNOWN_MEMBERS = 2048

Done = Callable[[Peer | None, str], None]


@dataclass(slots=True, eq=False)
class Attempt:
    """One wish for a session: who, where, and who waits for it."""

    contact: Contact
    paths: tuple[Path | None, ...]  # all of one kind; (None,) is the overlay
    compact: bool
    tries: int = 0
    initiations: dict[int, Initiation] = field(default_factory=dict)  # by our index
    waiting: list[Done] = field(default_factory=list)
    timer: Timer | None = None
    sent_at: float = 0.0
    said_joined: bool = False
    unreachable: int = 0  # how often the ring said that it knows no way

    @property
    def kind(self) -> Kind:
        return kind_of(self.paths[0])


class Handshakes:
    """The handshakes of one node. `carry` as in Sessions; `duplicate(endpoint)` is told when somebody
    proved that our identity runs elsewhere too."""

    def __init__(
        self,
        host: Host,
        identity: Identity,
        counters: Counters,
        sessions: Sessions,
        carry: Callable[[bytes, Path | None, int], None],
        counts: Counter[str],
    ) -> None:
        self._host, self._identity, self._own, self._sessions = host, identity, counters, sessions
        self._carry, self._counts = carry, counts
        self._door = Doorkeeper(identity.network.mac_key(), identity.static_public, host.rng)
        self._jar = CookieJar(identity.network.mac_key())
        # By node id: a wrong static key, or the overlay, must not stand in the way of another attempt.
        self._attempts: dict[int, list[Attempt]] = {}
        self._by_index: dict[int, Attempt] = {}
        self.incumbents = Incumbents(host, sessions)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._members: OrderedDict[bytes, Member] = OrderedDict()  # by static key: for compact handshakes
        self.instance = host.rng.getrandbits(63)
        self.has_aes = False
        self.features: int = ALL_FEATURES
        self.datagram_bytes = 0
        self.joined: Callable[[], bool] = lambda: False
        self.duplicate: Callable[[Endpoint | None], None] = lambda endpoint: None
        self.tell_duplicate: Callable[[Peer, Endpoint | None], None] = lambda peer, endpoint: None
        self.observed: Callable[[Endpoint, Endpoint], None] = lambda endpoint, reporter: None
        self.restarted: Callable[[Peer], None] = lambda peer: None
        self.arrived: Callable[[Path | None], None] = lambda path: None

    def begin(self, contact: Contact, paths: Sequence[Path | None], done: Done | None = None) -> None:
        """Seek a session with `contact` over `paths`: endpoints, or tunnels, or None alone for the overlay.
        `done(peer, "")`, or `done(None, reason)`, follows, perhaps at once.

        A second wish for the same key and the same kind of path joins the first and adds its paths.
        """
        wanted = tuple(dict.fromkeys(paths))
        kind = kind_of(wanted[0])
        attempts = self._attempts.setdefault(contact.id, [])
        for attempt in attempts:
            if attempt.contact.static == contact.static and attempt.kind is kind:
                self._join(attempt, wanted, done)
                return
        if len(self._attempts) > MAX_ATTEMPTS or len(attempts) >= MAX_ATTEMPTS_A_NODE:
            self._counts["handshakes_refused_table_full"] += 1
            if not attempts:
                del self._attempts[contact.id]
            if done is not None:
                self._host.call_later(0.0, lambda: done(None, "too many handshakes at once"))
            return
        known = self._sessions.peers.get(contact.id)
        compact = known is not None and known.static == contact.static and bool(known.session.keypairs())
        attempt = Attempt(contact, wanted, compact, waiting=[] if done is None else [done])
        attempts.append(attempt)
        if known is not None and self._is_coming_up(known, kind):
            # Neighbours tell of a newcomer that has just dialled us: its first packet is on its way, and settles this.
            attempt.timer = self._host.call_later(RETRY_S[0], partial(self._try, attempt))
        else:
            self._try(attempt)

    def _is_coming_up(self, peer: Peer, kind: Kind) -> bool:
        """Whether a peer was answered so lately, by a path as good, that an attempt of ours would cross its packet."""
        if peer.answered is None or peer.up:
            return False
        answered_at, by = peer.answered
        return by <= kind and self._host.now() - answered_at < RETRY_S[0]

    def _join(self, attempt: Attempt, paths: tuple[Path | None, ...], done: Done | None) -> None:
        if done is not None:
            attempt.waiting.append(done)
        if set(paths) - set(attempt.paths) and attempt.tries < len(RETRY_S):
            attempt.paths = tuple(dict.fromkeys((*attempt.paths, *paths)))
            if attempt.timer is not None:
                attempt.timer.cancel()
            self._try(attempt)

    def renew(self, peer: Peer) -> None:
        """New keys for a peer over its present path, unless that is under way."""
        if peer.id not in self._attempts:
            self.begin(peer.contact(), (peer.path,))

    def pending(self, node_id: int) -> bool:
        """Whether any handshake with this node is under way."""
        return node_id in self._attempts

    def unreachable(self, node_id: int, index: int) -> None:
        """The ring knows no way for our initiation with this index. Said once, it may be healing; said again, waiting
        is pointless. Only who saw the initiation knows its index."""
        attempt = self._by_index.get(index)
        if attempt is not None and attempt.contact.id == node_id and attempt.kind is Kind.OVERLAY:
            attempt.unreachable += 1
            if attempt.unreachable >= BELIEVE_UNREACHABLE:
                self._end(attempt, None, "the ring knows no way to it")

    def know(self, member: Member, static: bytes) -> None:
        """Remember that `member` was proven to own `static`, so that compact handshakes will do from now on."""
        self._members[static] = member
        self._members.move_to_end(static)
        if len(self._members) > MAX_KNOWN_MEMBERS:
            self._members.popitem(last=False)

    def stop(self) -> None:
        for attempt in (attempt for several in self._attempts.values() for attempt in several):
            if attempt.timer is not None:
                attempt.timer.cancel()
        self._attempts.clear()
        self._by_index.clear()
        self.incumbents.stop()

    def settle(self, peer: Peer) -> None:
        """A packet arrived under fresh keys: whoever waits for this peer, on this kind of path, gets it."""
        peer.answered = None
        if not peer.session.can_seal(self._host.now()):
            return
        for attempt in list(self._attempts.get(peer.id, ())):
            if attempt.contact.static == peer.static and kind_of(peer.path) <= attempt.kind:
                self._end(attempt, peer, "")

    def initiation(self, datagram: bytes, path: Path | None, via: int) -> None:
        """Handle a received initiation that came by `path`, or over the overlay from `via`. Raises BadDatagram."""
        now = self._host.now()
        source = source_bytes(path, via)
        mac1 = datagram[-2 * MAC_BYTES : -MAC_BYTES]  # every try has another
        if mac1 in self._seen:
            self._counts["initiation_repeated"] += 1
            return
        match self._door.admit(datagram, source, now):
            case Admission.SEND_COOKIE:
                self._remember(mac1)
                self._carry(self._door.reply(datagram, source, now), path, via)
                return
            case Admission.DROP:
                self._counts["initiation_over_rate"] += 1
                return
            case Admission.PROCESS:
                self._remember(mac1)
        received = Received.open(self._identity, datagram)
        member = self._member(received.static, received.payload, now)
        if member.id == self._identity.member.id:
            if received.payload.instance != self.instance:
                self.duplicate(endpoint_of(path))
            return
        if endpoint_of(path) is None and via != member.id:
            raise BadDatagram(f"an initiation of {short(member.id)} came in the name of {short(via)}")
        if not self._own.is_new(member.id, received.payload.counter):
            self._counts["initiation_replayed"] += 1
            self._door.retract()
            return
        self.arrived(path)
        if self._identity.member.id < member.id and any(
            path in attempt.paths and 0 < attempt.tries <= IGNORE_CROSSING_TRIES and not attempt.compact
            for attempt in self._attempts.get(member.id, ())
        ):
            self._counts["initiation_crossed"] += 1
            return
        self._own.accept(member.id, received.payload.counter)
        incumbent = self._sessions.peers.get(member.id)
        if incumbent is not None and self.incumbents.is_challenged(incumbent, received.payload, path, now):
            self.incumbents.ask(incumbent, partial(self._answer_challenger, incumbent, member, received, path))
            return
        self._answer(member, received, path, ACCEPTED)

    def response(self, datagram: bytes, path: Path | None) -> None:
        """Handle a received response. Raises BadDatagram."""
        index = int.from_bytes(datagram[8:12], "big")
        attempt = self._by_index.get(index)
        if attempt is None:
            raise StaleDatagram("a response to no initiation of ours")
        now = self._host.now()
        payload, keypair = attempt.initiations[index].finish(datagram, now)
        member = self._member(attempt.contact.static, payload, now)
        if member.id != attempt.contact.id:
            raise BadDatagram(f"{short(member.id)} answered for {short(attempt.contact.id)}")
        if payload.verdict == DUPLICATE_IDENTITY:
            self._end(attempt, None, "the peer says that this identity already runs elsewhere")
            self.duplicate(payload.observed)
            return
        if payload.verdict != ACCEPTED:
            self._end(attempt, None, f"refused with verdict {payload.verdict}")
            return
        peer = self._establish(member, attempt.contact.static, payload, keypair)
        peer.told_joined = attempt.said_joined
        if path is not None:
            peer.came_by(path, now)
        # Our question went there and the answer came from there: this path is proven, which a better one need not be.
        fresh = path is not None and path != peer.path and (not peer.up or kind_of(path) <= kind_of(peer.path))
        if fresh:
            peer.take(path, now)
        if payload.observed is not None and isinstance(path, Endpoint):
            self.observed(payload.observed, path)
        peer.heard(path, now)
        peer.measured(now - attempt.sent_at)
        newly_up = not peer.up or fresh
        peer.up = True
        self._sessions.send(peer, b"")  # the responder may send only after it has heard us
        self._end(attempt, peer, "")
        if newly_up:
            self._sessions.came_up(peer, path)

    def cookie_reply(self, datagram: bytes) -> None:
        """Handle a busy responder's cookie: the next try will carry it. Raises BadDatagram."""
        reply = CookieReply.parse(datagram)
        attempt = self._by_index.get(reply.receiver_index)
        if attempt is None:
            raise StaleDatagram("a cookie for no initiation of ours")
        mac1 = attempt.initiations[reply.receiver_index].mac1
        self._jar.keep(attempt.contact.static, mac1, reply, self._host.now())

    def _remember(self, macs: bytes) -> None:
        self._seen[macs] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def _payload(self, *, compact: bool, verdict: int, observed: Endpoint | None, counter: int = 0) -> Payload:
        identity = self._identity
        return Payload(
            certificate=b"" if compact else identity.member.certificate,
            static_signature=b"" if compact else identity.static_signature,
            counter=counter,
            instance=self.instance,
            aes=self.has_aes,
            verdict=verdict,
            observed=observed,
            member=self.joined(),
            clock=self._host.now(),
            features=self.features,
            datagram_bytes=self.datagram_bytes,
        )

    def _member(self, static: bytes, payload: Payload, now: float) -> Member:
        if payload.certificate:
            member = peer_member(self._identity.network, static, payload, now)
            self.know(member, static)
            return member
        known = self._members.get(static)
        if known is None:
            raise BadDatagram("a compact handshake from somebody whose certificate we don't hold")
        if not known.not_before <= now <= known.not_after:
            raise BadDatagram(f"the certificate of '{known.name}' has expired")
        return known

    def _try(self, attempt: Attempt) -> None:
        now = self._host.now()
        if attempt.tries >= len(RETRY_S):
            self._counts["handshake_timeout"] += 1
            self._end(attempt, None, "no answer")
            return
        index = self._sessions.new_index()
        compact = attempt.compact and attempt.tries == 0
        endpoint = next((path for path in attempt.paths if isinstance(path, Endpoint)), None)
        payload = self._payload(compact=compact, verdict=ACCEPTED, observed=endpoint, counter=self._own.next())
        static = attempt.contact.static
        cookie = self._jar.cookie(static, now)
        try:
            initiation, datagram = Initiation.begin(self._identity, static, index, payload, self._host.rng, now, cookie)
        except BadDatagram as refusal:  # a contact with a key of low order
            self._counts["bad_contact"] += 1
            self._end(attempt, None, str(refusal))
            return
        attempt.initiations[index] = initiation
        self._by_index[index] = attempt
        attempt.sent_at = now
        attempt.said_joined = payload.member
        attempt.timer = self._host.call_later(RETRY_S[attempt.tries], partial(self._try, attempt))
        attempt.tries += 1
        for path in attempt.paths:
            self._carry(datagram, path, attempt.contact.id)

    def _end(self, attempt: Attempt, peer: Peer | None, reason: str) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        for index in attempt.initiations:
            self._by_index.pop(index, None)
        attempts = self._attempts.get(attempt.contact.id, [])
        if attempt in attempts:
            attempts.remove(attempt)
            if not attempts:
                del self._attempts[attempt.contact.id]
        for done in attempt.waiting:
            done(peer, reason)

    def _establish(self, member: Member, static: bytes, payload: Payload, keypair: Keypair) -> Peer:
        known = member.id in self._sessions.peers
        peer = self._sessions.admit(member, static)
        if peer.instance != payload.instance and peer.up and not keypair.initiator:
            # Perhaps a captured initiation that never arrived: the old session stays until these keys are used.
            peer.reborn = Reborn(keypair, payload.instance, payload.member, payload.features, payload.datagram_bytes)
            self._sessions.install(peer, keypair)
            return peer
        if peer.instance != payload.instance:
            # Keys of a process that is gone: nothing it sent can come any more.
            peer.session = Session(member, static)
            peer.instance = payload.instance
            peer.up = False
            peer.declared = ()
            if known:
                self.restarted(peer)
        peer.joined = payload.member
        peer.said(payload.features, payload.datagram_bytes)
        offset_s = payload.clock - self._host.now()
        peer.clock_offset_s = offset_s if abs(offset_s) < WORST_CLOCK_S else 0.0
        self._sessions.install(peer, keypair)
        return peer

    def _answer_challenger(
        self, incumbent: Peer, member: Member, received: Received, path: Path | None, still_there: bool
    ) -> None:
        if still_there:
            self._counts["duplicate_identity"] += 1
            self.tell_duplicate(incumbent, endpoint_of(path))
        self._answer(member, received, path, DUPLICATE_IDENTITY if still_there else ACCEPTED)

    def _answer(self, member: Member, received: Received, path: Path | None, verdict: int) -> None:
        now = self._host.now()
        index = self._sessions.new_index()
        compact = not received.payload.certificate
        observed = endpoint_of(path)
        if verdict == DUPLICATE_IDENTITY:
            observed = self._sessions.peers[member.id].endpoint
        payload = self._payload(compact=compact, verdict=verdict, observed=observed)
        keypair, datagram = received.respond(self._identity, index, payload, self._host.rng, now)
        if verdict == ACCEPTED:
            peer = self._establish(member, received.static, received.payload, keypair)
            peer.told_joined = payload.member
            peer.answered = None if peer.up else (now, kind_of(path))
        self._carry(datagram, path, member.id)
