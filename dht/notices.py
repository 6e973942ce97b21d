"""Notices: short messages for every member of a ring that arrive, signed by who sent them.

A notice is the argument of a question that everybody answers by having read it (`dht.aggregate`): confirmed hop by hop,
handed to others where a member fails, and reported back: how many have it, and who is missing. For much traffic there
are frames (`dht.broadcast`).

    length of body (2) | body | length of certificate (2) | certificate | signature (64)

**Why signed**: members pass notices on, and any of them could else speak in another's name. A signature is checked
before a notice is handed on, which takes a fraction of a millisecond a hop, little beside the hop itself; frames, of
which there may be thousands a second, do without. The signature names the ring, so that a notice of one
group is none in another. Sequences start from the clock: what is not newer than the notices of its sender that were
forgotten, or older than MAX_AGE_S, is heard no more, so that a notice can't be repeated. The newest of each sender is
on disk before anybody hears it: after a restart nothing up to it is heard, whether it was before or not.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dht.aggregate import About, Aggregates, Kind, Outcome
from dht.branch_messages import MAX_ARGUMENT_BYTES
from dht.certificate import MAX_CERTIFICATE_BYTES, Member, Network, prove_certificate, read_certificate
from dht.counters import Greatest
from dht.errors import BadDatagram
from dht.host import Host
from dht.identity import Identity, check_signature
from dht.packing import Fields, pack
from dht.storage import Storage

MAX_TOPIC_CHARS: Final = 64
MAX_NOTICE_BYTES: Final = 2048
MAX_AGE_S: Final = 600.0  # clocks may differ by as much
WINDOW: Final = 256  # of one sender's notices
MAX_SENDERS: Final = 1024
JOURNAL: Final = "notices"
NOTICE_DEADLINE_S: Final = 20.0
_US: Final = 1_000_000
_SIGNATURE_BYTES: Final = 64
_TOPIC, _SEQUENCE, _VALUE = range(3)


@dataclass(frozen=True, slots=True)
class Notice:
    """What a member said to everybody in its ring. Made by `sign` and `prove` alone, so always its sender's."""

    sender: Member
    topic: str
    sequence: int  # µs since the Unix epoch, by the sender's clock, or one more than its last
    value: bytes

    @classmethod
    def sign(cls, identity: Identity, ring: str, topic: str, value: bytes, sequence: int) -> bytes:
        """A notice of our own for the ring called `ring`. Raises ValueError when no other node would take it."""
        if not 0 < len(topic) <= MAX_TOPIC_CHARS or not topic.isprintable():
            raise ValueError(f"a topic has 1 to {MAX_TOPIC_CHARS} printable characters")
        if len(value) > MAX_NOTICE_BYTES:
            raise ValueError(f"a notice has at most {MAX_NOTICE_BYTES} bytes, not {len(value)}")
        body = pack({_TOPIC: topic, _SEQUENCE: sequence, _VALUE: value})
        certificate = identity.member.certificate
        content = len(body).to_bytes(2, "big") + body + len(certificate).to_bytes(2, "big") + certificate
        return content + identity.sign(_purpose(ring), content)


def _purpose(ring: str) -> str:
    return f"notice in {ring}"


@lru_cache(maxsize=256)
def prove(network: Network, ring: str, raw: bytes) -> Notice:
    """The notice in `raw`, proven to be its sender's, whatever its age. Raises BadDatagram; refusals aren't
    remembered."""
    body, at = _chunk(raw, 0)
    certificate, at = _chunk(raw, at)
    if len(raw) > MAX_ARGUMENT_BYTES or len(certificate) > MAX_CERTIFICATE_BYTES:
        raise BadDatagram(f"a notice of {len(raw)} bytes")
    if len(raw) - at != _SIGNATURE_BYTES:
        raise BadDatagram(f"a notice ends in {len(raw) - at} bytes, not in a signature of {_SIGNATURE_BYTES}")
    sender = prove_certificate(network, certificate)
    check_signature(sender, network, _purpose(ring), raw[:at], raw[at:])
    fields = Fields.parse(body, "notice")
    topic = fields.text(_TOPIC, MAX_TOPIC_CHARS)
    return Notice(sender, topic, fields.integer(_SEQUENCE, 0, 1 << 63), fields.octets(_VALUE, 0, MAX_NOTICE_BYTES))


def _chunk(raw: bytes, at: int) -> tuple[bytes, int]:
    start = at + 2
    end = start + int.from_bytes(raw[at:start], "big")
    if start > len(raw) or end > len(raw):
        raise BadDatagram("a notice is cut short")
    return raw[start:end], end


class _Heard:
    """The latest notices of one sender. Whatever is not above `floor` counts as heard."""

    __slots__ = ("floor", "latest")

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.latest: list[int] = []

    def is_new(self, sequence: int) -> bool:
        if sequence <= self.floor or sequence in self.latest:
            return False
        insort(self.latest, sequence)
        if len(self.latest) > WINDOW:
            self.floor = self.latest.pop(0)
        return True


class Notices:
    """The notices of one ring. `ring` is what it is called in signatures; `network_time()` is what most members take
    the time to be."""

    def __init__(
        self,
        host: Host,
        identity: Identity,
        storage: Storage,
        aggregates: Aggregates,
        network_time: Callable[[], float],
        ring: str,
        counters: Counter[str],
    ) -> None:
        self._host, self._identity, self._aggregates = host, identity, aggregates
        self._network_time, self._ring, self._counters = network_time, ring, counters
        self._topics: dict[str, Callable[[Member, bytes], None]] = {}
        self._heard: OrderedDict[int, _Heard] = OrderedDict()
        self._greatest = Greatest(storage, JOURNAL)
        self._sequence = 0
        self._kind: Kind[Notice, None] = Kind(
            "notice", self._read, self._take, lambda value: b"", lambda octets: None, lambda a, b: None
        )
        aggregates.register(self._kind)

    def on(self, topic: str, receive: Callable[[Member, bytes], None]) -> None:
        """Give notices of `topic` to `receive(sender, value)`. Raises ValueError when somebody has the topic."""
        if topic in self._topics:
            raise ValueError(f"the topic '{topic}' is taken")
        self._topics[topic] = receive

    def send(
        self,
        topic: str,
        value: bytes,
        done: Callable[[Outcome[None]], None] = lambda outcome: None,
        deadline_s: float = NOTICE_DEADLINE_S,
    ) -> None:
        """Tell every other member. `done(outcome)` hears how many have it (`reached`, this node included) and who is
        missing, within `deadline_s` seconds. Raises ValueError for what nobody would take."""
        self._sequence = max(self._sequence + 1, int(self._network_time() * _US))
        raw = Notice.sign(self._identity, self._ring, topic, value, self._sequence)
        self._counters["notices_sent"] += 1
        self._aggregates.ask(self._kind, raw, deadline_s, done)

    def _read(self, raw: bytes, about: About) -> Notice:
        notice = prove(self._identity.network, self._ring, raw)
        now = self._network_time()
        read_certificate(self._identity.network, notice.sender.certificate, self._host.now())  # its validity ends
        if notice.sender.id != about.origin:
            raise BadDatagram("a notice is handed on as another member's")
        if abs(now - notice.sequence / _US) > MAX_AGE_S:
            raise BadDatagram(f"a notice of '{notice.sender.name}' is {now - notice.sequence / _US:.0f} s old")
        return notice

    def _take(self, notice: Notice, about: About) -> None:
        if about.hop is None:
            return  # our own
        sender = notice.sender.id
        heard = self._heard.get(sender)
        if heard is None:
            if len(self._heard) >= MAX_SENDERS:
                self._heard.popitem(last=False)
            heard = self._heard[sender] = _Heard(self._greatest.of(sender))
        self._heard.move_to_end(sender)
        if not heard.is_new(notice.sequence):
            self._counters["notice_repeated"] += 1
            return
        if notice.sequence > self._greatest.of(sender):
            self._greatest.accept(sender, notice.sequence)
        receive = self._topics.get(notice.topic)
        if receive is None:
            self._counters["notices_unread"] += 1
        else:
            self._counters["notices_received"] += 1
            receive(notice.sender, notice.value)
