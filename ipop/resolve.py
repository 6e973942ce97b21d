"""From a virtual address to a session with the node that holds it: `ip:<address>` in the DHT, then a session.

Answers are remembered: who holds an address for minutes, that nobody does or that its holder is silent for
seconds, so that a program that keeps trying costs one lookup every two seconds and no more. Never touches a
packet (that is `ipop.datapath`) and never trusts a record beyond the certificate that signed it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, Protocol, TypeVar

from dht.certificate import Member
from dht.contact import Contact
from dht.errors import BadDatagram
from dht.host import Host
from dht.records import address_name, host_name

Address = IPv4Address | IPv6Address

KNOWN_S = 300.0  # Addresses move only when the authority gives them to somebody else.
FAILED_S = 2.0  # Short: a node that has just started must be found by the next try of a waiting program.
RETRY_S = 0.3
DEADLINE_S = 5.0  # Longer than a lookup with one lost message, shorter than people's patience.
MAX_KNOWN = 4096
MAX_FAILED = 1024
MAX_ASKING = 256


class Reason(Enum):
    """Why an address or a name leads to no session; the texts are for people."""

    NOBODY = "no such node has been seen on the ring; is it up?"
    RING_SILENT = "the ring did not answer in time"
    PEER_SILENT = "its node is known but did not answer"
    TOO_MANY = "too many other lookups are under way"


Located = Member | Reason


class Claim(Protocol):
    """What is read of a DHT record: the verified member that signed it, and whether it still stands by it."""

    @property
    def owner(self) -> Member: ...
    @property
    def value(self) -> bytes: ...


class Answer(Protocol):
    """What is read of a DHT answer: valid records, and how many replicas answered at all."""

    @property
    def records(self) -> Sequence[Claim]: ...
    @property
    def answered(self) -> int: ...


class Ring(Protocol):
    """The part of `dht.node.Node` that finds nodes."""

    def get(self, name: str, done: Callable[[Answer], None], *, first: bool = False) -> None: ...
    def open_session(self, peer_id: int, done: Callable[[object], None], contact: Contact | None = None) -> None: ...


T = TypeVar("T")


class Remembered(Generic[T]):
    """A bounded table whose entries are forgotten after a time; the oldest go first when it is full."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Address, tuple[T, float]] = OrderedDict()

    def put(self, address: Address, value: T, until: float) -> None:
        self._entries[address] = (value, until)
        self._entries.move_to_end(address)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def get(self, address: Address, now: float) -> T | None:
        entry = self._entries.get(address)
        if entry is None:
            return None
        if entry[1] <= now:
            del self._entries[address]
            return None
        return entry[0]

    def forget(self, address: Address) -> None:
        self._entries.pop(address, None)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(slots=True)
class _Asking:
    """One address on its way to a session, and everybody who waits for it."""

    until: float
    waiting: list[Callable[[Located], None]]


class Resolver:
    """Finds the member that holds an address, and opens a session with it.

    `ready` says whether this node is in the ring: until it is, an empty answer proves nothing and is asked again.
    """

    def __init__(self, host: Host, ring: Ring, ready: Callable[[], bool]) -> None:
        self._host, self._ring, self._ready = host, ring, ready
        self._known: Remembered[Member] = Remembered(MAX_KNOWN)
        self._failed: Remembered[Reason] = Remembered(MAX_FAILED)
        self._contacts: OrderedDict[int, Contact] = OrderedDict()  # by node id: what the records said
        self._asking: dict[Address, _Asking] = {}
        self._stopped = False

    def stop(self) -> None:
        """Forget all lookups under way: nobody is called any more."""
        self._stopped = True
        self._asking.clear()

    def learn(self, address: Address, member: Member) -> None:
        """Remember what a certificate proved: `member` holds `address`, and is there."""
        self._known.put(address, member, self._host.now() + KNOWN_S)
        self._failed.forget(address)

    def failure(self, address: Address) -> Reason | None:
        """Why `reach` failed for this address a moment ago; None when it is worth trying."""
        return self._failed.get(address, self._host.now())

    def reach(self, address: Address, done: Callable[[Located], None]) -> None:
        """Calls `done` once: with the holder of `address` when a session with it is open, or with the reason why
        there is none. Callers that wait for the same address share one attempt."""
        asking = self._asking.get(address)
        if asking is not None:
            asking.waiting.append(done)
            return
        if len(self._asking) >= MAX_ASKING:
            done(Reason.TOO_MANY)
            return
        asking = _Asking(self._host.now() + DEADLINE_S, [done])
        self._asking[address] = asking

        def expire() -> None:
            finish(Reason.RING_SILENT if self._known.get(address, self._host.now()) is None else Reason.PEER_SILENT)

        def located(found: Located) -> None:
            if self._asking.get(address) is not asking:
                return
            if isinstance(found, Reason):
                finish(found)
            else:
                contact = self._contacts.get(found.id)
                self._ring.open_session(
                    found.id, lambda session: finish(found if session else Reason.PEER_SILENT), contact
                )

        def finish(found: Located) -> None:
            if self._asking.get(address) is not asking:
                return  # The deadline came first, or this is the ring's second word on the matter.
            timer.cancel()
            del self._asking[address]
            if isinstance(found, Reason):
                self._failed.put(address, found, self._host.now() + FAILED_S)
                self._known.forget(address)
            for waiting in asking.waiting:
                waiting(found)

        timer = self._host.call_later(DEADLINE_S, expire)
        self.locate(address, located)

    def locate(self, address: Address, done: Callable[[Located], None]) -> None:
        """Calls `done` with the member that holds `address`, or the reason why it is not known."""
        known = self._known.get(address, self._host.now())
        if known is not None:
            done(known)
            return

        def found(located: Located) -> None:
            if isinstance(located, Member):
                self._known.put(address, located, self._host.now() + KNOWN_S)
            done(located)

        self._ask(address_name(address), lambda owner: owner.holds(address), found)

    def locate_name(self, name: str, done: Callable[[Located], None]) -> None:
        """Calls `done` with the member whose certificate says `name`. Anybody may publish under a name, but only
        the authority can put it into a certificate."""
        self._ask(host_name(name), lambda owner: owner.name == name, done)

    def _remember_contact(self, claim: Claim) -> None:
        # The value saves the second lookup, of the holder's descriptor, when it holds its contact.
        try:
            contact = Contact.parse(claim.value)
        except BadDatagram:
            return
        if contact.id == claim.owner.id:
            self._contacts[contact.id] = contact
            self._contacts.move_to_end(contact.id)
            if len(self._contacts) > MAX_KNOWN:
                self._contacts.popitem(last=False)

    def _ask(self, name: str, proves: Callable[[Member], bool], done: Callable[[Located], None]) -> None:
        """One DHT lookup, repeated while the ring is not joined or nobody answers."""
        until = self._host.now() + DEADLINE_S

        def ask() -> None:
            if not self._stopped:
                self._ring.get(name, answered, first=True)

        def answered(answer: Answer) -> None:
            # An empty value: withdrawn.
            claims = [record for record in answer.records if record.value and proves(record.owner)]
            if claims:
                # Two holders: the authority gave the address away again, and the later certificate counts.
                claim = max(claims, key=lambda claim: (claim.owner.not_before, claim.owner.id))
                self._remember_contact(claim)
                done(claim.owner)
            elif answer.answered and self._ready():
                done(Reason.NOBODY)
            elif self._host.now() + RETRY_S < until:
                self._host.call_later(RETRY_S, ask)
            else:
                done(Reason.NOBODY if answer.answered else Reason.RING_SILENT)

        ask()
