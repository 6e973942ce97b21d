"""What a NAT does, found out from outside it: a classifier in RFC 4787's terms, and a hole punch by both ends at once.

Written against `dht.host.Host` alone, so that the same code judges simulated boxes and real ones; no part of the
product. Datagrams are a byte that says what they are, then fields of fixed size; others are dropped.

    ECHO nonce             -> SEEN nonce endpoint              where do you see me?
    FROM nonce which       -> STRANGER nonce                   from the server's other port, or from another address
    STRANGE nonce endpoint                                     a server asks another to do that
    HAIR nonce                                                 to oneself, by way of the box's outer address
    MEET session, MET session endpoint, PUNCH session, ACK session

Sources: RFC 4787 (terms), RFC 5780 (how to find out), RFC 8445, section 7.2.5.3.1 (peer-reflexive candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import NamedTuple

from dht.errors import BadDatagram
from dht.host import Endpoint, Host, Timer
from sims.nat import AD, APD, EI, Dependence

ASK_EVERY_S = 0.25
ASK_TIMES = 4
WAIT_S = ASK_EVERY_S * ASK_TIMES
PUNCH_EVERY_S = 0.1
PUNCH_FOR_S = 2.0
MAX_TARGETS = 8
MAX_MEETINGS = 1024
NONCE_BYTES = 8
OTHER_PORT, OTHER_ADDRESS = b"p", b"a"


class Kind(IntEnum):
    ECHO = 0xE0
    SEEN = auto()
    FROM = auto()
    STRANGE = auto()
    STRANGER = auto()
    HAIR = auto()
    MEET = auto()
    MET = auto()
    PUNCH = auto()
    ACK = auto()


class Word(NamedTuple):
    """A datagram of this module."""

    kind: Kind
    nonce: bytes
    rest: bytes

    def pack(self) -> bytes:
        return bytes((self.kind,)) + self.nonce + self.rest

    @classmethod
    def parse(cls, datagram: bytes) -> Word:
        """Raises BadDatagram."""
        if len(datagram) <= NONCE_BYTES or not Kind.ECHO <= datagram[0] <= Kind.ACK:
            raise BadDatagram("not a word of the NAT probe")
        return cls(Kind(datagram[0]), bytes(datagram[1 : 1 + NONCE_BYTES]), bytes(datagram[1 + NONCE_BYTES :]))


class Servers(NamedTuple):
    """Four endpoints on the open internet: two ports of one address, and two of another."""

    first: Endpoint
    other_port: Endpoint
    other_address: Endpoint
    both_other: Endpoint


class Server:
    """One of the four, which knows all four, and a rendezvous. What it sends goes to whoever asked, and when two
    have met, to the other, who did."""

    def __init__(self, host: Host, servers: Servers) -> None:
        self._host, self._servers = host, servers
        self._meetings: dict[tuple[bytes, bool], list[Endpoint]] = {}
        host.on_receive(self._received)

    def _received(self, datagram: bytes, source: Endpoint) -> None:
        try:
            word = Word.parse(datagram)
            if word.kind is Kind.ECHO:
                self._host.send(source, Word(Kind.SEEN, word.nonce, source.pack()).pack())
            elif word.kind is Kind.FROM:
                chosen = self._servers.other_port if word.rest == OTHER_PORT else self._servers.other_address
                self._host.send(chosen, Word(Kind.STRANGE, word.nonce, source.pack()).pack())
            elif word.kind is Kind.STRANGE and source in self._servers:
                self._host.send(Endpoint.parse(word.rest), Word(Kind.STRANGER, word.nonce, b"").pack())
            elif word.kind is Kind.MEET:
                self._meet(word.nonce, source)
        except BadDatagram:
            return

    def _meet(self, session: bytes, source: Endpoint) -> None:
        """Tell the two who name one session, in one address family, where the other is."""
        key = (session, ":" in source.address)
        ends = self._meetings.get(key)
        if ends is None:
            if len(self._meetings) >= MAX_MEETINGS:
                del self._meetings[next(iter(self._meetings))]
            ends = self._meetings[key] = []
        news = source not in ends
        if news and len(ends) < 2:
            ends.append(source)
        if len(ends) == 2 and source in ends:
            other = ends[1 - ends.index(source)]
            self._host.send(source, Word(Kind.MET, session, other.pack()).pack())
            if news:
                self._host.send(other, Word(Kind.MET, session, source.pack()).pack())


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outer`: how the first server saw us; None when no UDP gets through, and then the rest means nothing.
    `hairpins` is None when nobody was there to try it."""

    outer: Endpoint | None
    translated: bool = False
    mapping: Dependence = EI
    filtering: Dependence = EI
    preserves_port: bool = False
    hairpins: bool | None = None


class Classifier:
    """Asks one question after the other. `done(verdict)` is called once, some seconds later.

    `beside` is a host behind the same box, for the hairpin. Both hosts' receivers are taken over. The order matters:
    filters are tried before anything is sent to those who must be strangers. Each question is asked `times` times.
    """

    def __init__(
        self,
        host: Host,
        servers: Servers,
        done: Callable[[Verdict], None],
        beside: Host | None = None,
        times: int = ASK_TIMES,
    ) -> None:
        self._host, self._servers, self._done, self._beside, self._times = host, servers, done, beside, times
        self._expected: Callable[[Word, Endpoint], bool] = lambda word, source: False
        self._answered: Callable[[bytes | None], None] = lambda rest: None
        self._nonce = b""
        self._timer: Timer | None = None
        self._outer: list[Endpoint] = []
        self._filtering = APD
        host.on_receive(self._received)

    def start(self) -> None:
        self._echo(self._servers.first, self._seen_first)

    def _echo(self, server: Endpoint, answered: Callable[[bytes | None], None]) -> None:
        self._ask(self._host, server, Kind.ECHO, b"", Kind.SEEN, server, answered)

    def _seen_first(self, rest: bytes | None) -> None:
        if rest is None:
            self._done(Verdict(None))
            return
        self._outer.append(Endpoint.parse(rest))
        self._ask_stranger(OTHER_ADDRESS, self._servers.other_address, self._tried_address)

    def _ask_stranger(self, which: bytes, server: Endpoint, answered: Callable[[bytes | None], None]) -> None:
        self._ask(self._host, self._servers.first, Kind.FROM, which, Kind.STRANGER, server, answered)

    def _tried_address(self, rest: bytes | None) -> None:
        if rest is not None:
            self._filtering = EI
            self._map(self._servers.other_port)
        else:
            self._ask_stranger(OTHER_PORT, self._servers.other_port, self._tried_port)

    def _tried_port(self, rest: bytes | None) -> None:
        if rest is not None:
            self._filtering = AD
        self._map(self._servers.other_address)

    def _map(self, third: Endpoint) -> None:
        """See how two more servers see us. None of them was let in as a stranger: answers to those may leave by the
        port they wrote to, which proves nothing."""

        def seen(rest: bytes | None) -> None:
            if rest is None:
                self._done(Verdict(None))
                return
            self._outer.append(Endpoint.parse(rest))
            if len(self._outer) == 2:
                self._echo(third, seen)
            elif self._beside is None:
                self._finish(third, None)
            else:
                self._ask(
                    self._beside,
                    self._outer[0],
                    Kind.HAIR,
                    b"",
                    Kind.HAIR,
                    None,
                    lambda rest: self._finish(third, rest is not None),
                )

        self._echo(self._servers.both_other, seen)

    def _finish(self, third: Endpoint, hairpins: bool | None) -> None:
        by_first, by_both_other, by_third = self._outer
        neighbour = by_first if third == self._servers.other_port else by_both_other
        mapping = EI if by_first == by_both_other == by_third else AD if neighbour == by_third else APD
        local = self._host.local_endpoints()
        preserves = by_first.port in {endpoint.port for endpoint in local}
        self._done(Verdict(by_first, by_first not in local, mapping, self._filtering, preserves, hairpins))

    def _ask(
        self,
        asker: Host,
        to: Endpoint,
        kind: Kind,
        rest: bytes,
        answer: Kind,
        answerer: Endpoint | None,
        answered: Callable[[bytes | None], None],
    ) -> None:
        """Ask until the answer comes from `answerer` (None: from anybody), a few times; then call `answered`."""
        nonce = self._nonce = self._host.rng.randbytes(NONCE_BYTES)
        self._expected = lambda word, source: word.kind is answer and word.nonce == nonce and answerer in (None, source)
        self._answered = answered

        def again(times_left: int) -> None:
            if times_left == 0:
                self._settle(None)
                return
            asker.send(to, Word(kind, nonce, rest).pack())
            self._timer = self._host.call_later(ASK_EVERY_S, lambda: again(times_left - 1))

        again(self._times)

    def _received(self, datagram: bytes, source: Endpoint) -> None:
        try:
            word = Word.parse(datagram)
            if word.kind is Kind.SEEN:
                Endpoint.parse(word.rest)
        except BadDatagram:
            return
        if self._expected(word, source):
            self._settle(word.rest)

    def _settle(self, rest: bytes | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._expected = lambda word, source: False
        self._answered(rest)


def classify(
    host: Host,
    servers: Servers,
    done: Callable[[Verdict], None],
    beside: Host | None = None,
    times: int = ASK_TIMES,
) -> None:
    """Find out what the box before `host` does; see `Classifier`."""
    Classifier(host, servers, done, beside, times).start()


class Punch:
    """One end of a hole punch: learns the other's outer endpoint from the rendezvous, then sends to it, and to
    wherever the other's datagrams come from. `rendezvous` holds one endpoint of the same server for each address
    family. `done(the other's endpoint, or None)` is called once, `for_s` seconds after the two have met."""

    def __init__(
        self,
        host: Host,
        rendezvous: Sequence[Endpoint],
        session: bytes,
        done: Callable[[Endpoint | None], None],
        for_s: float = PUNCH_FOR_S,
    ) -> None:
        if len(session) != NONCE_BYTES:
            raise ValueError(f"a session has {NONCE_BYTES} bytes, not {len(session)}")
        self._host, self._rendezvous, self._session, self._done = host, rendezvous, session, done
        self._for_s = for_s
        self._targets: list[Endpoint] = []
        self._heard = False
        self._acked: Endpoint | None = None
        self._until = 0.0
        host.on_receive(self._received)

    def start(self) -> None:
        self._meet(ASK_TIMES * 4)

    def _meet(self, times_left: int) -> None:
        if self._targets:
            return
        if times_left == 0:
            self._done(None)
            return
        for endpoint in self._rendezvous:
            self._host.send(endpoint, Word(Kind.MEET, self._session, b"").pack())
        self._host.call_later(ASK_EVERY_S, lambda: self._meet(times_left - 1))

    def _received(self, datagram: bytes, source: Endpoint) -> None:
        try:
            word = Word.parse(datagram)
            if word.nonce != self._session:
                return
            if word.kind is Kind.MET and source in self._rendezvous:
                self._told(Endpoint.parse(word.rest))
        except BadDatagram:
            return
        if word.kind in (Kind.PUNCH, Kind.ACK) and self._targets:
            self._heard = True
            if word.kind is Kind.ACK:
                self._acked = source
            self._aim(source)

    def _told(self, other: Endpoint) -> None:
        first = not self._targets
        self._aim(other)
        if first:
            self._until = self._host.now() + self._for_s
            self._punch()

    def _aim(self, target: Endpoint) -> None:
        if target not in self._targets and len(self._targets) < MAX_TARGETS:
            self._targets.append(target)

    def _punch(self) -> None:
        if self._host.now() >= self._until:
            self._done(self._acked if self._heard else None)
            return
        for target in self._targets:
            self._host.send(target, Word(Kind.ACK if self._heard else Kind.PUNCH, self._session, b"").pack())
        self._host.call_later(PUNCH_EVERY_S, self._punch)


def punch(a: Host, b: Host, rendezvous: Sequence[Endpoint], done: Callable[[bool], None]) -> None:
    """Both ends at once, from one process: whether each hears the other and knows that it is heard. The two clocks
    must be one."""
    results: list[Endpoint | None] = []

    def ended(endpoint: Endpoint | None) -> None:
        results.append(endpoint)
        if len(results) == 2:
            done(all(result is not None for result in results))

    session = a.rng.randbytes(NONCE_BYTES)
    for host in (a, b):
        Punch(host, rendezvous, session, ended).start()


def start_servers(hosts: Sequence[Host]) -> Servers:
    """Servers on four hosts: two ports of one address, then two of another."""
    servers = Servers(*(host.local_endpoints()[0] for host in hosts))
    one, other = ({end.address for end in pair} for pair in (servers[:2], servers[2:]))
    if len(one) != 1 or len(other) != 1 or one == other:
        raise ValueError("the first two servers share an address, and the last two another one")
    for host in hosts:
        Server(host, servers)
    return servers
