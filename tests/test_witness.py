"""Frames that came along a tree are believed when their origin signed them, once, and while they are fresh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ipop.cast_wire import Cast, Kind, Warrant, parse, sign_alone, sign_together
from ipop.ethernet import ipv4_packet, ipv6_packet
from ipop.resolve import Address, Located, Reason
from ipop.witness import (
    CHECKS_AT_ONCE,
    FRESH_S,
    KNOWN_S,
    LOOKUPS_AT_ONCE,
    LOOKUPS_PER_S,
    MAX_ASKED,
    MAX_HELD,
    MAX_WAITING,
    REMEMBER_S,
    Witness,
)
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from tests.identities import make_identities

GROUP = bytes((239, 1, 2, 3))
GROUP6 = b"\xff\x15" + bytes(13) + b"\x07"


class Court:
    """A witness, and what it said."""

    def __init__(self) -> None:
        self.engine = Engine(3)
        host = Network(self.engine, Constant(20)).host()
        self.members = make_identities(3, 3, now=self.engine.now)
        self.counters: Counter[str] = Counter()
        self.asked: list[tuple[Address, Callable[[Located], None]]] = []
        self.answers = True
        self.verdicts: list[tuple[bytes, bool]] = []
        network, clock = self.members[0].network, lambda: self.engine.now
        self.witness = Witness(host, network, self.locate, clock, self.proven, self.counters)

    def proven(self, cast: Cast, new: bool) -> None:
        self.verdicts.append((cast.body[-1:], new))

    def locate(self, address: Address, done: Callable[[Located], None]) -> None:
        self.asked.append((address, done))
        if self.answers:
            self.answer(len(self.asked) - 1)

    def answer(self, number: int) -> None:
        address, done = self.asked[number]
        holders = [each.member for each in self.members if each.member.holds(address)]
        done(holders[0] if holders else Reason.NOBODY)

    def frames(
        self, *texts: bytes, by: int = 1, of: int = 1, first: int = 1000, six: bool = False
    ) -> list[Cast | Warrant]:
        """Packets from the address of member `of`, signed by member `by`: several with their warrant last."""
        member = self.members[of].member
        bodies = [
            ipv6_packet(text, 17, member.address6.packed, GROUP6)
            if six
            else ipv4_packet(text, 17, member.address4.packed, GROUP)
            for text in texts
        ]
        sign, now = self.members[by].sign, int(self.engine.now)
        if len(bodies) == 1:
            return [parse(sign_alone(sign, Kind.PACKET, bodies[0], first, now))]
        return [parse(frame) for frame in sign_together(sign, Kind.PACKET, bodies, first, now)]

    def judge(self, *frames: Cast | Warrant) -> list[tuple[bytes, bool]]:
        """What is known of these now."""
        self.verdicts.clear()
        for frame in frames:
            self.witness.take(frame)
        return list(self.verdicts)


def test_what_its_origin_signed_is_new_once() -> None:
    court = Court()
    casts = court.frames(b"a", b"b", b"c")
    assert court.judge(*casts) == [(b"a", True), (b"b", True), (b"c", True)]
    assert court.judge(*casts) == [(b"a", False), (b"b", False), (b"c", False)]
    assert court.counters["cast_repeated"] == 3
    assert len(court.asked) == 1


def test_frames_and_their_warrant_may_come_in_any_order_and_repeatedly() -> None:
    court = Court()
    one, two, three, warrant = court.frames(b"a", b"b", b"c")
    same = court.frames(b"s", b"s", first=500)
    assert court.judge(*same) == [(b"s", True)] * 2, "equal packets are two packets"
    assert court.judge(one) == []
    assert court.judge(warrant) == [(b"a", True)]
    assert court.judge(two, warrant, two) == [(b"b", True), (b"b", False)]
    assert court.judge(three) == [(b"c", True)]


def test_frames_without_a_warrant_wait_in_vain_and_are_bounded() -> None:
    court = Court()
    assert court.judge(*court.frames(b"k")) == [(b"k", True)]
    batches = [court.frames(b"x", b"y", first=2000 + 2 * number) for number in range(MAX_HELD)]
    assert court.judge(*(frame for each in batches for frame in each[:2])) == []
    assert court.counters["cast_without_warrant"] == MAX_HELD
    assert court.judge(batches[0][2]) == [] and len(court.judge(batches[-1][2])) == 2


def test_a_forged_frame_takes_the_place_of_none() -> None:
    court = Court()
    assert court.judge(*court.frames(b"k")) == [(b"k", True)]
    true = court.frames(b"a", b"b", first=3000)
    forged = court.frames(b"c", b"d", by=2, first=3000)
    assert court.judge(*forged[:2], *true[:2], *forged[:2], forged[2]) == []
    assert court.counters["cast_forged"] == 1
    assert court.judge(true[2]) == [(b"a", True), (b"b", True)]
    assert court.judge(*forged[:2]) == [] and court.counters["cast_forged"] == 3


def test_another_member_cannot_speak_for_it() -> None:
    court = Court()
    assert court.judge(*court.frames(b"a", by=2, of=1)) == []
    assert court.counters["cast_forged"] == 1
    assert court.judge(*court.frames(b"a", by=1, of=1)) == [(b"a", True)], "a forgery uses up nothing"


def test_ipv4_and_ipv6_of_one_member_share_their_sequence() -> None:
    court = Court()
    assert court.judge(*court.frames(b"a", first=7)) == [(b"a", True)]
    assert court.judge(*court.frames(b"b", first=7, six=True)) == [(b"b", False)]
    assert court.judge(*court.frames(b"b", first=8, six=True)) == [(b"b", True)]


def test_frames_wait_while_their_origin_is_looked_up_and_no_longer() -> None:
    court = Court()
    court.answers = False
    many = [court.frames(b"x", first=number)[0] for number in range(MAX_WAITING + 5)]
    assert court.judge(*many) == []
    court.answer(0)
    assert len(court.verdicts) == MAX_WAITING and all(new for _, new in court.verdicts)
    assert court.counters["cast_waiting_dropped"] == 5


def test_addresses_that_nobody_holds_are_asked_about_seldom_and_few_at_a_time() -> None:
    court = Court()
    cast = court.frames(b"a")[0]
    nobody = [
        parse(
            sign_alone(
                court.members[1].sign, Kind.PACKET, ipv4_packet(b"", 17, bytes((10, 77, 9, number)), GROUP), 1, 5
            )
        )
        for number in range(1, MAX_ASKED + 3)
    ]
    assert court.judge(nobody[0], nobody[0]) == []
    assert len(court.asked) == 1 and court.counters["cast_origin_unknown"] == 2
    court.answers = False
    court.judge(*nobody[1:], cast)
    assert len(court.asked) == 1 + MAX_ASKED and court.counters["cast_origin_not_asked"] == 2


def test_who_invents_addresses_makes_no_storm_of_lookups() -> None:
    court = Court()
    sign, seconds = court.members[1].sign, 10
    for number in range(400 * seconds):
        source = bytes((10, 77, number >> 8, number & 0xFF))
        court.judge(parse(sign_alone(sign, Kind.PACKET, ipv4_packet(b"", 17, source, GROUP), 1, 5)))
        court.engine.run_for(1 / 400)
    assert len(court.asked) <= LOOKUPS_AT_ONCE + LOOKUPS_PER_S * seconds + 1
    assert len(court.asked) + court.counters["cast_origin_not_asked"] == 400 * seconds
    court.engine.run_for(1.0)
    assert court.judge(court.frames(b"a")[0]) == [(b"a", True)], "others are found again at once"


def test_what_somebody_kept_does_not_pass_later() -> None:
    court = Court()
    casts = court.frames(b"a")
    assert court.judge(*casts) == [(b"a", True)]
    for wait_s in (FRESH_S - 2, 4, REMEMBER_S, KNOWN_S):
        court.engine.run_for(wait_s)
        assert court.judge(*casts) in ([], [(b"a", False)])
    assert court.counters["cast_stale"] == 3


def test_a_host_whose_clock_was_set_back_is_heard_again() -> None:
    court = Court()
    assert court.judge(*court.frames(b"a", first=10_000_000)) == [(b"a", True)]
    assert court.judge(*court.frames(b"b", first=1000)) == [(b"b", False)]
    court.engine.run_for(REMEMBER_S + 1)
    assert court.judge(*court.frames(b"c", first=1001)) == [(b"c", True)]


def test_checks_are_bounded() -> None:
    court = Court()
    cast = court.frames(b"a", by=2)[0]
    court.witness._checks.take(court.engine.now, CHECKS_AT_ONCE - 1)
    court.judge(cast, cast)
    assert court.counters["cast_forged"] == 1 and court.counters["cast_checks_limited"] == 1
