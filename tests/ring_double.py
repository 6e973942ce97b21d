"""A ring in memory, for the tests of what stands on a ring: who published what, who answers, what was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dht.certificate import Member
from dht.envelope import Inner
from dht.host import Host
from ipop.resolve import Answer


@dataclass
class Published:
    """As `dht.records.Record`, as far as the resolver looks."""

    owner: Member
    value: bytes = b"\1"


@dataclass
class Found:
    """As `dht.dht.GetResult`, as far as the resolver looks."""

    records: list[Published]
    answered: int


@dataclass
class RingDouble:
    """Answers after `delay_s`. `online` nodes accept a session; `sessions` are those that have one."""

    host: Host
    delay_s: float = 0.1
    replicas: int = 4
    silent: bool = False
    records: dict[str, list[Member]] = field(default_factory=dict)
    online: set[int] = field(default_factory=set)
    sessions: set[int] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    sent_traffic: list[tuple[int, bytes]] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)  # of all that was sent, in order
    room: int = 1420
    receive_traffic: Callable[[Member, Sequence[bytes]], None] | None = None
    receive: Callable[[Member, bytes], None] | None = None

    def publish(self, member: Member) -> None:
        for name in (f"ip:{member.address4}", f"ip:{member.address6}", f"name:{member.name}"):
            self.records.setdefault(name, []).append(member)
        self.online.add(member.id)

    def get(self, name: str, done: Callable[[Answer], None], *, first: bool = False) -> None:
        self.asked.append(name)
        if not self.silent:
            found = Found([Published(owner) for owner in self.records.get(name, ())], self.replicas)
            self.host.call_later(self.delay_s, lambda: done(found))

    def open_session(self, peer_id: int, done: Callable[[object], None], contact: object = None) -> None:
        self.opened.append(peer_id)

        def settle() -> None:
            if peer_id in self.online:
                self.sessions.add(peer_id)
            done("session" if peer_id in self.online else None)

        self.host.call_later(self.delay_s, settle)

    def send_packet(self, peer_id: int, packet: bytes, traffic_class: int = 0) -> bool:
        if peer_id not in self.sessions:
            return False
        self.sent.append((peer_id, packet))
        self.classes.append(traffic_class)
        return True

    def send_traffic(self, peer_id: int, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        """Whole packets go to `sent` as by `send_packet`; the others, with their kind in front, to `sent_traffic`."""
        if peer_id not in self.sessions:
            return False
        for plaintext in plaintexts:
            self.classes.append(traffic_class)
            if plaintext[0] == Inner.PACKET:
                self.sent.append((peer_id, plaintext[1:]))
            else:
                self.sent_traffic.append((peer_id, plaintext))
        return True

    def room_bytes(self, peer_id: int) -> int:
        return self.room

    def on_traffic(self, callback: Callable[[Member, Sequence[bytes]], None]) -> None:
        self.receive_traffic = callback

    def on_run(self, callback: Callable[[Member, memoryview, int], None]) -> None:
        self.receive_run = callback

    def on_packet(self, callback: Callable[[Member, bytes], None]) -> None:
        self.receive = callback
