"""Proof of membership before any Diffie-Hellman (mac1), and of the return address when busy (mac2).

Every handshake message ends in mac1 | mac2, 16 bytes each. mac1 is keyed with the network secret and the
receiver's static key: whoever does not know both gets silence. A busy responder answers an initiation not with
work but with a cookie, a MAC of the source it came from; the next initiation proves by mac2 that the cookie
arrived there. Pure: machines that take `now`; nothing here does a Diffie-Hellman, sends, or keeps state for a
source that has not proven itself.

Source: WireGuard, sections 5.3 and 5.4.7 of Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", NDSS
2017, and its ratelimiter. One difference: WireGuard seals cookies with XChaCha20-Poly1305 under one key a
responder. Lacking XChaCha20 here, each reply has a key of its own, derived by BLAKE2s from the same inputs and the
24-byte random nonce, for ChaCha20-Poly1305 with nonce zero. A key seals one message, so the nonce never repeats.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2s
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dht.errors import BadDatagram
from dht.host import Rng

COOKIE_REPLY: Final = 0x13
VERSION: Final = 1
MAC_BYTES: Final = 16
COOKIE_NONCE_BYTES: Final = 24
# kind, version, two zeros | index of the initiation | nonce | sealed cookie with its tag
COOKIE_REPLY_BYTES: Final = 4 + 4 + COOKIE_NONCE_BYTES + 2 * MAC_BYTES

COOKIE_LIFE_S: Final = 120.0
BUSY_HANDSHAKES: Final = 50  # more than this many within BUSY_WINDOW_S make a responder busy
BUSY_WINDOW_S: Final = 1.0
BUSY_FOR_S: Final = 1.0
SOURCE_RATE_HZ: Final = 20.0
SOURCE_BURST: Final = 5.0
MAX_SOURCES: Final = 4096
MAX_COOKIES: Final = 1024

_ZERO_NONCE: Final = bytes(12)
_COOKIE_LABEL: Final = b"p2pvpn/1 cookie\0"
_MAC1_LABEL: Final = b"p2pvpn/1 mac1\0"


def mac1_key(mac_key: bytes, receiver_static: bytes) -> bytes:
    """The key of mac1 in every message to the owner of `receiver_static`."""
    return blake2s(_MAC1_LABEL + mac_key + receiver_static).digest()


def mac(key: bytes, content: bytes) -> bytes:
    """Keyed BLAKE2s-128: mac1 under `mac1_key`, mac2 under a cookie."""
    return blake2s(content, key=key, digest_size=MAC_BYTES).digest()


def append_macs(key: bytes, content: bytes, cookie: bytes | None = None) -> bytes:
    """`content` | mac1 | mac2; mac2 is zero without a cookie. `key` comes from `mac1_key`."""
    with_mac1 = content + mac(key, content)
    return with_mac1 + (bytes(MAC_BYTES) if cookie is None else mac(cookie, with_mac1))


def check_mac1(key: bytes, datagram: bytes) -> None:
    """Raises BadDatagram unless the sender knew the network secret and to whom it wrote."""
    if len(datagram) < 2 * MAC_BYTES:
        raise BadDatagram("a handshake message has no room for its MACs")
    if not hmac.compare_digest(mac(key, datagram[: -2 * MAC_BYTES]), datagram[-2 * MAC_BYTES : -MAC_BYTES]):
        raise BadDatagram("mac1 is wrong: the sender is no member, or wrote to somebody else")


@dataclass(frozen=True, slots=True)
class CookieReply:
    """`Try again with this`: the answer of a busy responder to the initiation numbered `receiver_index`."""

    receiver_index: int
    nonce: bytes
    sealed: bytes

    def pack(self) -> bytes:
        head = bytes((COOKIE_REPLY, VERSION, 0, 0)) + self.receiver_index.to_bytes(4, "big")
        return head + self.nonce + self.sealed

    @classmethod
    def parse(cls, datagram: bytes) -> CookieReply:
        """The inverse of `pack`. Raises BadDatagram."""
        if len(datagram) != COOKIE_REPLY_BYTES:
            raise BadDatagram(f"a cookie reply has {COOKIE_REPLY_BYTES} bytes, not {len(datagram)}")
        if datagram[:4] != bytes((COOKIE_REPLY, VERSION, 0, 0)):
            raise BadDatagram("a cookie reply of another kind or version")
        body = 8 + COOKIE_NONCE_BYTES
        return cls(int.from_bytes(datagram[4:8], "big"), datagram[8:body], datagram[body:])


def _reply_key(mac_key: bytes, responder_static: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(blake2s(_COOKIE_LABEL + mac_key + responder_static + nonce).digest())


class CookieJar:
    """An initiator's cookies, one a responder, each for 120 s. Bounded: the oldest makes room."""

    __slots__ = ("_cookies", "_mac_key")

    def __init__(self, mac_key: bytes) -> None:
        self._mac_key = mac_key
        self._cookies: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def keep(self, responder_static: bytes, sent_mac1: bytes, reply: CookieReply, now: float) -> None:
        """Opens `reply`, which must answer the initiation that had `sent_mac1`. Raises BadDatagram."""
        key = _reply_key(self._mac_key, responder_static, reply.nonce)
        try:
            cookie = key.decrypt(_ZERO_NONCE, reply.sealed, sent_mac1)
        except InvalidTag:
            raise BadDatagram("a cookie reply does not authenticate") from None
        self._cookies.pop(responder_static, None)
        self._cookies[responder_static] = cookie, now
        if len(self._cookies) > MAX_COOKIES:
            self._cookies.popitem(last=False)

    def cookie(self, responder_static: bytes, now: float) -> bytes | None:
        """The cookie to make mac2 with, if there is a fresh one."""
        cookie, since = self._cookies.get(responder_static, (None, 0.0))
        if cookie is not None and now - since >= COOKIE_LIFE_S:
            del self._cookies[responder_static]
            return None
        return cookie


class Admission(Enum):
    """What to do with an initiation whose mac1 is right."""

    PROCESS = auto()
    SEND_COOKIE = auto()
    DROP = auto()


class _Secret(NamedTuple):
    key: bytes
    since: float


class Doorkeeper:
    """A responder's guard: decides which initiations deserve the work of a handshake.

    `source` is whatever a cookie must prove: a packed endpoint (6 or 18 bytes) for a datagram, or the id of the
    sender when it came through the ring.
    """

    __slots__ = (
        "_accepted_at",
        "_buckets",
        "_busy_until",
        "_mac1_key",
        "_mac_key",
        "_older",
        "_rng",
        "_secret",
        "_static",
    )

    def __init__(self, mac_key: bytes, static_public: bytes, rng: Rng) -> None:
        self._mac_key, self._static, self._rng = mac_key, static_public, rng
        self._mac1_key = mac1_key(mac_key, static_public)
        self._accepted_at: deque[float] = deque(maxlen=BUSY_HANDSHAKES + 1)
        self._busy_until = float("-inf")
        self._buckets = SourceBuckets()
        self._secret = _Secret(b"", float("-inf"))
        self._older = self._secret

    def admit(self, datagram: bytes, source: bytes, now: float) -> Admission:
        """Judges an initiation. Raises BadDatagram when mac1 is wrong: then nothing is sent, ever."""
        check_mac1(self._mac1_key, datagram)
        if self.needs_cookie(now):
            if not self._has_cookie(datagram, source, now):
                return Admission.SEND_COOKIE
            if not self._buckets.take(source, now):
                return Admission.DROP
        self._accepted_at.append(now)
        return Admission.PROCESS

    def retract(self) -> None:
        """The initiation let in last was an old one sent again: it is no sign of a flood."""
        if self._accepted_at:
            self._accepted_at.pop()

    def needs_cookie(self, now: float) -> bool:
        """Whether more than 50 handshakes were let in within a second, a second ago or less."""
        accepted = self._accepted_at
        if len(accepted) > BUSY_HANDSHAKES and now - accepted[0] <= BUSY_WINDOW_S:
            self._busy_until = now + BUSY_FOR_S
        return now < self._busy_until

    def reply(self, datagram: bytes, source: bytes, now: float) -> bytes:
        """The cookie reply to an admitted-with-cookie initiation: 64 bytes, fewer than any initiation has."""
        self._rotate(now)
        nonce = self._rng.randbytes(COOKIE_NONCE_BYTES)
        key = _reply_key(self._mac_key, self._static, nonce)
        sealed = key.encrypt(_ZERO_NONCE, mac(self._secret.key, source), datagram[-2 * MAC_BYTES : -MAC_BYTES])
        return CookieReply(int.from_bytes(datagram[4:8], "big"), nonce, sealed).pack()

    def _has_cookie(self, datagram: bytes, source: bytes, now: float) -> bool:
        self._rotate(now)
        content, mac2 = datagram[:-MAC_BYTES], datagram[-MAC_BYTES:]
        # The secret before this one counts too, or a cookie could die in its bearer's hands.
        for secret in (self._secret, self._older):
            if secret.key and hmac.compare_digest(mac(mac(secret.key, source), content), mac2):
                return True
        return False

    def _rotate(self, now: float) -> None:
        age_s = now - self._secret.since
        if age_s < COOKIE_LIFE_S:
            return
        stale = age_s >= 2 * COOKIE_LIFE_S
        self._older = _Secret(b"", float("-inf")) if stale else self._secret
        self._secret = _Secret(self._rng.randbytes(32), now)


class SourceBuckets:
    """A token bucket a source: 20 handshakes a second, 5 at once. An IPv6 source is its /64.

    At most 4096 are kept. A bucket full again is forgotten; when none is, newcomers are refused, since every
    source in the table has proven its address within the last quarter of a second.
    """

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # oldest first: tokens, and when

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: bytes, now: float) -> bool:
        """Whether `source` may have one more handshake now."""
        buckets, key = self._buckets, _bucket_key(source)
        full_again_s = SOURCE_BURST / SOURCE_RATE_HZ
        while buckets and now - next(iter(buckets.values()))[1] >= full_again_s:
            buckets.popitem(last=False)
        tokens, since = buckets.pop(key, (SOURCE_BURST, now))
        if len(buckets) >= MAX_SOURCES:
            return False
        tokens = min(SOURCE_BURST, tokens + (now - since) * SOURCE_RATE_HZ)
        granted = tokens >= 1.0
        buckets[key] = tokens - 1.0 if granted else tokens, now
        return granted


def _bucket_key(source: bytes) -> bytes:
    match len(source):
        case 6:
            return source[:4]  # all ports of an IPv4 address share a bucket
        case 18:
            return source[:8]
        case _:
            return source
