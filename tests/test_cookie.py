"""mac1, cookies and the doorkeeper: who gets silence, who gets a cookie, who gets work."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.cookie import (
    BUSY_HANDSHAKES,
    COOKIE_LIFE_S,
    COOKIE_REPLY_BYTES,
    MAC_BYTES,
    MAX_COOKIES,
    MAX_SOURCES,
    Admission,
    CookieJar,
    CookieReply,
    Doorkeeper,
    SourceBuckets,
    append_macs,
    check_mac1,
    mac1_key,
)
from dht.errors import BadDatagram
from dht.handshake import COMPACT_INITIATION_BYTES
from dht.host import Endpoint
from tests.fuzzing import fuzzed

MAC_KEY = bytes(range(32))
RESPONDER = bytes(range(32, 64))
SOURCE = Endpoint("192.0.2.1", 7000).pack()
NOW = 1_800_000_000.0
KEY = mac1_key(MAC_KEY, RESPONDER)


def doorkeeper(seed: int = 1) -> Doorkeeper:
    return Doorkeeper(MAC_KEY, RESPONDER, Random(seed))


def busy_doorkeeper(now: float = NOW) -> Doorkeeper:
    keeper = doorkeeper()
    for number in range(BUSY_HANDSHAKES + 1):
        assert keeper.admit(initiation(number), SOURCE, now) is Admission.PROCESS
    return keeper


def initiation(index: int = 7, cookie: bytes | None = None) -> bytes:
    """What a doorkeeper sees of an initiation: its index, anything, and the MACs."""
    return append_macs(KEY, bytes((0x11, 1, 0, 0)) + index.to_bytes(4, "big") + bytes(100), cookie)


def sent_mac1(datagram: bytes) -> bytes:
    return datagram[-2 * MAC_BYTES : -MAC_BYTES]


def fetch_cookie(keeper: Doorkeeper, source: bytes = SOURCE, now: float = NOW) -> bytes:
    """The cookie that an honest initiator at `source` ends up with."""
    first, jar = initiation(), CookieJar(MAC_KEY)
    assert keeper.admit(first, source, now) is Admission.SEND_COOKIE
    jar.keep(RESPONDER, sent_mac1(first), CookieReply.parse(keeper.reply(first, source, now)), now)
    cookie = jar.cookie(RESPONDER, now)
    assert cookie is not None
    return cookie


def test_mac1_needs_the_network_key_and_the_receivers_key() -> None:
    check_mac1(KEY, initiation())
    for other in (mac1_key(bytes(32), RESPONDER), mac1_key(MAC_KEY, bytes(32))):
        with pytest.raises(BadDatagram, match="mac1"):
            check_mac1(other, initiation())


def test_mac1_covers_every_byte_before_it() -> None:
    datagram = initiation()
    for at in range(len(datagram) - MAC_BYTES):
        altered = bytearray(datagram)
        altered[at] ^= 0x40
        with pytest.raises(BadDatagram, match="mac1"):
            check_mac1(KEY, bytes(altered))


def test_an_idle_responder_asks_for_no_cookie_and_a_busy_one_does() -> None:
    keeper = doorkeeper()
    for number in range(BUSY_HANDSHAKES + 1):
        assert not keeper.needs_cookie(NOW + number * 0.001)
        assert keeper.admit(initiation(number), SOURCE, NOW + number * 0.001) is Admission.PROCESS
    assert keeper.needs_cookie(NOW + 0.1)
    assert keeper.admit(initiation(), SOURCE, NOW + 0.1) is Admission.SEND_COOKIE


def test_fifty_a_second_are_not_too_many() -> None:
    keeper = doorkeeper()
    for number in range(500):
        assert keeper.admit(initiation(number), SOURCE, NOW + number / BUSY_HANDSHAKES) is Admission.PROCESS


def test_a_responder_stays_busy_for_a_second() -> None:
    keeper = busy_doorkeeper()
    assert keeper.needs_cookie(NOW + 1.0)  # the last moment at which the 51 count: busy for one more second
    assert keeper.needs_cookie(NOW + 1.9)
    assert not keeper.needs_cookie(NOW + 2.0)


def test_messages_with_a_wrong_mac1_get_silence_and_do_not_make_a_responder_busy() -> None:
    keeper = doorkeeper()
    for _ in range(1000):
        with pytest.raises(BadDatagram):
            keeper.admit(initiation()[:-33] + bytes(33), SOURCE, NOW)
    assert not keeper.needs_cookie(NOW)
    with pytest.raises(BadDatagram):
        busy_doorkeeper().admit(initiation()[:-33] + bytes(33), SOURCE, NOW)


def test_a_cookie_lets_its_bearer_in_while_busy() -> None:
    keeper = busy_doorkeeper()
    cookie = fetch_cookie(keeper)
    assert keeper.admit(initiation(8, cookie), SOURCE, NOW) is Admission.PROCESS


def test_a_cookie_is_worth_nothing_from_another_source() -> None:
    keeper = busy_doorkeeper()
    cookie = fetch_cookie(keeper)
    for source in (Endpoint("192.0.2.1", 7001), Endpoint("192.0.2.2", 7000), Endpoint("2001:db8::1", 7000)):
        assert keeper.admit(initiation(8, cookie), source.pack(), NOW) is Admission.SEND_COOKIE
    assert keeper.admit(initiation(8, cookie), bytes(20), NOW) is Admission.SEND_COOKIE


def test_every_flipped_byte_of_mac2_is_noticed_while_busy() -> None:
    keeper = busy_doorkeeper()
    datagram = initiation(8, fetch_cookie(keeper))
    for at in range(len(datagram) - MAC_BYTES, len(datagram)):
        altered = bytearray(datagram)
        altered[at] ^= 1
        assert keeper.admit(bytes(altered), SOURCE, NOW) is Admission.SEND_COOKIE


def test_without_load_mac2_does_not_matter() -> None:
    assert doorkeeper().admit(initiation(8, bytes(16)), SOURCE, NOW) is Admission.PROCESS


@pytest.mark.parametrize("fetched_after_s", [0.0, 60.0, 119.9])
def test_a_cookie_is_good_for_its_whole_life_whenever_it_was_given(fetched_after_s: float) -> None:
    keeper = busy_doorkeeper()
    fetch_cookie(keeper)  # draws the secret
    now = NOW + fetched_after_s
    for number in range(BUSY_HANDSHAKES + 1):
        keeper.admit(initiation(number, None), SOURCE, now)
    if fetched_after_s:
        assert keeper.needs_cookie(now)
    cookie = fetch_cookie(keeper, now=now)
    later = now + COOKIE_LIFE_S - 0.1
    for number in range(BUSY_HANDSHAKES + 1):
        keeper.admit(initiation(number), SOURCE, later)
    assert keeper.needs_cookie(later)
    assert keeper.admit(initiation(9, cookie), SOURCE, later) is Admission.PROCESS


def test_a_cookie_of_four_minutes_ago_is_refused() -> None:
    keeper = busy_doorkeeper()
    cookie = fetch_cookie(keeper)
    later = NOW + 2 * COOKIE_LIFE_S
    for number in range(BUSY_HANDSHAKES + 1):
        keeper.admit(initiation(number), SOURCE, later)
    assert keeper.admit(initiation(9, cookie), SOURCE, later) is Admission.SEND_COOKIE


def test_a_source_with_a_cookie_gets_five_at_once_and_twenty_a_second() -> None:
    keeper = busy_doorkeeper()
    cookie = fetch_cookie(keeper)
    verdicts = [keeper.admit(initiation(number, cookie), SOURCE, NOW) for number in range(10)]
    assert verdicts == [Admission.PROCESS] * 5 + [Admission.DROP] * 5
    granted = sum(
        keeper.admit(initiation(number, cookie), SOURCE, NOW + number / 1000) is Admission.PROCESS
        for number in range(1, 1001)
    )
    assert 19 <= granted <= 20


def test_a_reply_is_shorter_than_any_initiation() -> None:
    keeper = busy_doorkeeper()
    assert len(keeper.reply(initiation(), SOURCE, NOW)) == COOKIE_REPLY_BYTES == 64 < COMPACT_INITIATION_BYTES


def test_a_reply_names_the_initiation_it_answers() -> None:
    reply = CookieReply.parse(busy_doorkeeper().reply(initiation(0xABCD1234), SOURCE, NOW))
    assert reply.receiver_index == 0xABCD1234


def test_replies_never_repeat_a_nonce() -> None:
    keeper = busy_doorkeeper()
    replies = [CookieReply.parse(keeper.reply(initiation(), SOURCE, NOW)) for _ in range(100)]
    assert len({reply.nonce for reply in replies}) == len({reply.sealed for reply in replies}) == 100


def test_a_jar_refuses_replies_to_others_and_every_flipped_byte() -> None:
    keeper, first = busy_doorkeeper(), initiation()
    reply = keeper.reply(first, SOURCE, NOW)
    jar = CookieJar(MAC_KEY)
    with pytest.raises(BadDatagram):
        jar.keep(RESPONDER, bytes(16), CookieReply.parse(reply), NOW)  # to an initiation that we did not send
    with pytest.raises(BadDatagram):
        jar.keep(bytes(32), sent_mac1(first), CookieReply.parse(reply), NOW)
    with pytest.raises(BadDatagram):
        CookieJar(bytes(32)).keep(RESPONDER, sent_mac1(first), CookieReply.parse(reply), NOW)
    for at in range(len(reply)):
        altered = bytearray(reply)
        altered[at] ^= 0x10
        if 4 <= at < 8:  # the index only says which initiation is answered
            assert CookieReply.parse(bytes(altered)).receiver_index != 7
            continue
        with pytest.raises(BadDatagram):
            jar.keep(RESPONDER, sent_mac1(first), CookieReply.parse(bytes(altered)), NOW)
    assert jar.cookie(RESPONDER, NOW) is None
    jar.keep(RESPONDER, sent_mac1(first), CookieReply.parse(reply), NOW)
    assert jar.cookie(RESPONDER, NOW) is not None


def test_a_jar_forgets_after_two_minutes_and_is_bounded() -> None:
    keeper, first = busy_doorkeeper(), initiation()
    jar = CookieJar(MAC_KEY)
    jar.keep(RESPONDER, sent_mac1(first), CookieReply.parse(keeper.reply(first, SOURCE, NOW)), NOW)
    assert jar.cookie(RESPONDER, NOW + COOKIE_LIFE_S - 0.1) is not None
    assert jar.cookie(RESPONDER, NOW + COOKIE_LIFE_S) is None
    for number in range(MAX_COOKIES + 10):
        static = number.to_bytes(32, "big")
        other = Doorkeeper(MAC_KEY, static, Random(number))
        jar.keep(static, sent_mac1(first), CookieReply.parse(other.reply(first, SOURCE, NOW)), NOW)
    assert len(jar._cookies) == MAX_COOKIES
    assert jar.cookie((0).to_bytes(32, "big"), NOW) is None
    assert jar.cookie((MAX_COOKIES + 9).to_bytes(32, "big"), NOW) is not None


def test_one_source_cannot_use_up_the_share_of_another() -> None:
    buckets = SourceBuckets()
    for _ in range(100):
        buckets.take(SOURCE, NOW)
    assert not buckets.take(SOURCE, NOW)
    assert not buckets.take(Endpoint("192.0.2.1", 1).pack(), NOW), "another port is the same source"
    assert buckets.take(Endpoint("192.0.2.2", 7000).pack(), NOW)


def test_a_whole_ipv6_subnet_is_one_source() -> None:
    buckets = SourceBuckets()
    granted = [buckets.take(Endpoint(f"2001:db8::{host:x}", 7000).pack(), NOW) for host in range(1, 20)]
    assert sum(granted) == 5
    assert buckets.take(Endpoint("2001:db8:0:1::1", 7000).pack(), NOW)


def test_buckets_are_bounded_and_full_ones_forgotten() -> None:
    buckets = SourceBuckets()
    for number in range(MAX_SOURCES):
        assert buckets.take(number.to_bytes(4, "big") + b"\0\1", NOW)
    assert not buckets.take(b"\xff" * 6, NOW), "nobody new while all are in use"
    assert buckets.take(bytes(4) + b"\0\1", NOW), "but those known go on"
    assert len(buckets) == MAX_SOURCES
    assert buckets.take(b"\xff" * 6, NOW + 0.25)
    assert len(buckets) == 1


@fuzzed()
@given(st.binary(max_size=100) | st.binary(min_size=60, max_size=60).map(lambda body: bytes((0x13, 1, 0, 0)) + body))
def test_any_bytes_are_a_cookie_reply_or_refused(datagram: bytes) -> None:
    try:
        reply = CookieReply.parse(datagram)
    except BadDatagram:
        return
    assert reply.pack() == datagram
    with pytest.raises(BadDatagram):
        CookieJar(MAC_KEY).keep(RESPONDER, bytes(16), reply, NOW)


@fuzzed()
@given(st.binary(max_size=100), st.binary(max_size=20))
def test_any_bytes_get_past_a_doorkeeper_only_by_mac1(content: bytes, source: bytes) -> None:
    with pytest.raises(BadDatagram):
        doorkeeper().admit(content, source, NOW)
    assert doorkeeper().admit(append_macs(KEY, content), source, NOW) is Admission.PROCESS
