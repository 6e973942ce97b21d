"""Transport: datagrams sealed under keys that a handshake agreed on, and the turnover of those keys.

    0x14 | 3 zero | receiver index (4) | counter (8) | ciphertext and tag

This is per-packet code. It never logs, never parses what it carries, and holds no timer: `now` is handed in. The
header is not associated data: the counter is the nonce, and everything before it has one legal value, which is
checked; authenticating it again would cost a tenth of the time of a small packet.

Sources: WireGuard (NDSS 2017), sections 5.4.6 and 6, for message, limits and rotation; Noise revision 34, section
12, for nonces; RFC 9001, appendix B.1, for how much AES-GCM may seal under one key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag

from dht.certificate import Member
from dht.errors import BadDatagram, StaleDatagram
from dht.replay import REJECT_AT, ReplayWindow
from dht.runs import Into, open_run, seal_run
from dht.suite import NOISE, Aead

TRANSPORT: Final = 0x14
HEADER_BYTES: Final = 16
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES

REKEY_AFTER_S: Final = 120.0
REJECT_AFTER_S: Final = 180.0
REKEY_TIMEOUT_S: Final = 5.0  # how long one handshake may take before another is tried
KEEPALIVE_S: Final = 10.0
# An initiator who only receives renews its keys in time for one more handshake before they are refused.
REKEY_WHEN_RECEIVING_S: Final = REJECT_AFTER_S - KEEPALIVE_S - REKEY_TIMEOUT_S
FORGET_AFTER_S: Final = 3 * REJECT_AFTER_S

REKEY_AFTER_MESSAGES: Final = 1 << 60
# Beyond 2^28 packets of at most 2^11 bytes, AES-GCM may be told from randomness with probability over 2^-57.
AES_REKEY_AFTER_MESSAGES: Final = 1 << 27
AES_REJECT_AFTER_MESSAGES: Final = 1 << 28

MAX_AWAITED: Final = 3
MAX_PAST: Final = 8  # a bound for bursts: keys die at 180 s, so one or two is usual

_ZEROS: Final = bytes(4)


class NoKeypair(Exception):
    """There is nothing to seal with: no handshake yet, or its keys are used up. Not the peer's fault."""


class Keypair:
    """The two transport keys of one handshake, the counter of what was sealed, the window of what was opened."""

    __slots__ = (
        "_decrypt",
        "_decrypt_into",
        "_encrypt",
        "_encrypt_into",
        "_head",
        "_peer_head",
        "_worn_at",
        "aes",
        "born_at",
        "initiator",
        "keys",
        "limit",
        "local_index",
        "reject_at",
        "remote_index",
        "sent",
        "window",
    )

    def __init__(
        self,
        send_key: bytes,
        receive_key: bytes,
        aes: bool,
        local_index: int,
        remote_index: int,
        born_at: float,
        initiator: bool,
        aead: Callable[[bytes, bool], Aead] = NOISE.aead,
    ) -> None:
        sealing, opening = aead(send_key, aes), aead(receive_key, aes)
        self._encrypt, self._decrypt = sealing.encrypt, opening.decrypt
        # Older versions of the library can't write to memory of ours: there are no runs then.
        self._encrypt_into: Into | None = getattr(sealing, "encrypt_into", None)
        self._decrypt_into: Into | None = getattr(opening, "decrypt_into", None)
        self.aes = aes
        self.keys = send_key, receive_key  # for `ipop.fastpath`, which seals and opens by itself
        self.local_index, self.remote_index = local_index, remote_index
        self.born_at, self.reject_at = born_at, born_at + REJECT_AFTER_S
        self.initiator = initiator
        self.sent = 0
        self._worn_at = AES_REKEY_AFTER_MESSAGES if aes else REKEY_AFTER_MESSAGES
        self.limit = AES_REJECT_AFTER_MESSAGES if aes else REJECT_AT
        self._head = transport_head(remote_index)
        self._peer_head = transport_head(local_index)
        self.window = ReplayWindow()

    @property
    def worn(self) -> bool:
        """Whether so much was sealed that new keys are due."""
        return self.sent >= self._worn_at

    @property
    def spent(self) -> bool:
        """Whether nothing more may be sealed."""
        return self.sent >= self.limit

    def seal(self, plaintext: bytes) -> bytes:
        """A whole transport datagram. Raises NoKeypair once the counter has reached its limit."""
        counter = self.sent
        if counter >= self.limit:
            raise NoKeypair("the keys have sealed all they may")
        self.sent = counter + 1
        sequence = counter.to_bytes(8, "big")
        nonce = _ZEROS + (sequence if self.aes else sequence[::-1])
        return self._head + sequence + self._encrypt(nonce, plaintext, None)

    def seal_all(self, plaintexts: Sequence[bytes]) -> list[bytes]:
        """As `seal`, one datagram each, in order."""
        first = self.sent
        after = first + len(plaintexts)
        if after > self.limit:
            raise NoKeypair("the keys have sealed all they may")
        self.sent = after
        head, encrypt = self._head, self._encrypt
        if self.aes:
            sequences = [counter.to_bytes(8, "big") for counter in range(first, after)]
            return [
                head + sequence + encrypt(_ZEROS + sequence, plaintext, None)
                for sequence, plaintext in zip(sequences, plaintexts, strict=True)
            ]
        return [
            head + counter.to_bytes(8, "big") + encrypt(_ZEROS + counter.to_bytes(8, "little"), plaintext, None)
            for counter, plaintext in enumerate(plaintexts, first)
        ]

    def seal_run(self, plaintexts: Sequence[bytes], before: bytes) -> memoryview | None:
        """As `seal_all` for plaintexts that are a run, each datagram behind `before`; None when that can't be done.
        Good until the next call for any keypair."""
        first = self.sent
        after = first + len(plaintexts)
        if self._encrypt_into is None or after > self.limit:
            return None
        self.sent = after
        return seal_run(self._encrypt_into, self.aes, before + self._head, first, plaintexts)

    def open_run(self, buffer: memoryview, size: int, skip: int = 0) -> tuple[memoryview, int] | None:
        """The plaintexts of the datagrams in `buffer`, one behind the other, and how long each is, but the last, which
        may be shorter. Good until the next call for any keypair. None when `open_all` must look at them."""
        if self._decrypt_into is None:
            return None
        opened = open_run(self._decrypt_into, self.aes, self._peer_head, buffer, size, skip)
        if opened is None or not self.window.accept_rising(opened[2]):
            return None
        return opened[0], opened[1]

    def open_all(self, buffer: memoryview, size: int, skip: int = 0) -> tuple[list[bytes], list[bytes]]:
        """The plaintexts of the datagrams in `buffer`, each of `size` bytes but the last; and, as they are, those
        datagrams that `open` would refuse. In front of each lie `skip` bytes that are not part of it."""
        whole = len(buffer) // size * size
        cut = list(_cutter(size, skip).iter_unpack(buffer[:whole])) if size > HEADER_BYTES + skip else []
        rest = bytes(buffer[len(cut) * size + skip :])
        cut += [(rest[:8], rest[8:16], rest[16:])] if rest else []
        plaintexts: list[bytes] = []
        opened: list[tuple[bytes, bytes, bytes]] = []
        refused: list[bytes] = []
        peer_head, decrypt, aes = self._peer_head, self._decrypt, self.aes
        for datagram in cut:
            head, sequence, sealed = datagram
            if head == peer_head and len(sequence) == 8:
                try:
                    plaintext = decrypt(_ZEROS + (sequence if aes else sequence[::-1]), sealed, None)
                except InvalidTag:
                    pass
                else:
                    plaintexts.append(plaintext)
                    opened.append(datagram)
                    continue
            refused.append(b"".join(datagram))
        counters = [int.from_bytes(sequence, "big") for _, sequence, _ in opened]
        if not counters or (
            counters == list(range(counters[0], counters[0] + len(counters)))
            and self.window.accept_run(counters[0], len(counters))
        ):
            return plaintexts, refused
        new = [self.window.accept(counter) for counter in counters]
        refused += [b"".join(datagram) for datagram, fresh in zip(opened, new, strict=True) if not fresh]
        return [plaintext for plaintext, fresh in zip(plaintexts, new, strict=True) if fresh], refused

    def open(self, datagram: bytes) -> bytes:
        """The plaintext. Raises BadDatagram for a forged, altered, repeated or outdated datagram."""
        if datagram[:8] != self._peer_head:
            raise BadDatagram("not a transport datagram for these keys")
        sequence = datagram[8:16]
        nonce = _ZEROS + (sequence if self.aes else sequence[::-1])
        try:
            plaintext = self._decrypt(nonce, datagram[16:], None)
        except (InvalidTag, ValueError):  # ValueError: the datagram ends within the counter
            raise BadDatagram("a transport datagram does not authenticate") from None
        # Only now: a forged counter must not close the window on true ones.
        if not self.window.accept(int.from_bytes(sequence, "big")):
            raise BadDatagram("a transport datagram came twice, or far too late")
        return plaintext


@lru_cache(maxsize=64)
def _cutter(size: int, skip: int) -> Struct:
    """Takes datagrams of `size` bytes apart: what must be equal, the counter, what is sealed."""
    return Struct(f"{skip}x8s8s{size - HEADER_BYTES - skip}s")


def transport_head(index: int) -> bytes:
    """The first 8 bytes of a transport datagram to the owner of `index`."""
    return bytes((TRANSPORT, 0, 0, 0)) + index.to_bytes(4, "big")


class Session:
    """All that two nodes need to talk, whatever the path: a few keypairs, in three roles.

    `awaited` are a responder's, newest first, unused until the initiator proves by a transport datagram that it has
    one; `current` seals; `past`, newest first, still open what was on its way when the keys changed. WireGuard
    keeps one of each. Here an initiator that tried twice may take the answer to its first try, so that each is
    awaited; and ends that initiate at once may go on sealing under different keypairs, each in the other's past,
    where a single place would be lost to the next renewal with packets still in flight.
    """

    __slots__ = ("_awaited", "_past", "current", "member", "static")

    def __init__(self, member: Member, static: bytes) -> None:
        self.member, self.static = member, static
        self.current: Keypair | None = None
        self._awaited: tuple[Keypair, ...] = ()
        self._past: tuple[Keypair, ...] = ()

    def install(self, keypair: Keypair) -> None:
        """Take a new keypair into use: at once as the initiator, as the responder once the peer used it."""
        if keypair.initiator:
            # The peer may seal with an awaited one already: both initiated at once.
            self._succeed(keypair, self._awaited)
            self._awaited = ()
        else:
            self._awaited = (keypair, *self._awaited)[:MAX_AWAITED]
        self.forget(keypair.born_at)

    def seal(self, plaintext: bytes, now: float) -> bytes:
        """A transport datagram under the current keys. Raises NoKeypair when there are none fit for sending."""
        current = self.current
        if current is None or now >= current.reject_at:
            raise NoKeypair("no fresh keys to seal with")
        return current.seal(plaintext)

    def seal_all(self, plaintexts: Sequence[bytes], now: float) -> list[bytes]:
        """As `seal`, one datagram each, in order; all or none."""
        current = self.current
        if current is None or now >= current.reject_at:
            raise NoKeypair("no fresh keys to seal with")
        return current.seal_all(plaintexts)

    def seal_run(self, plaintexts: Sequence[bytes], before: bytes, now: float) -> memoryview | None:
        """As `Keypair.seal_run` under the current keys; None also when there are none fit for sending."""
        current = self.current
        if current is None or now >= current.reject_at:
            return None
        return current.seal_run(plaintexts, before)

    def is_current(self, keypair: Keypair, now: float) -> bool:
        """Whether `keypair` seals and opens now, so that opening with it changes nothing here."""
        return keypair is self.current and now < keypair.reject_at

    def open(self, keypair: Keypair, datagram: bytes, now: float) -> bytes:
        """The plaintext of a datagram under `keypair`, one of this session's. Raises BadDatagram."""
        if now >= keypair.reject_at:
            raise StaleDatagram("a transport datagram under keys too old")
        plaintext = keypair.open(datagram)
        if keypair is not self.current and keypair in self._awaited:
            newer = self._awaited.index(keypair)
            self._succeed(keypair, self._awaited[newer + 1 :])
            self._awaited = self._awaited[:newer]
        return plaintext

    def can_seal(self, now: float) -> bool:
        """Whether `seal` would work now."""
        current = self.current
        return current is not None and now < current.reject_at and not current.spent

    def wants_rekey(self, now: float, *, receiving: bool = False) -> bool:
        """Whether this end should initiate a handshake to renew keys it has. Ask when sending; ask with
        `receiving` when a datagram arrived. Only initiators renew for age, so that the two ends do not race."""
        current = self.current
        if current is None:
            return False
        if self._awaited and now - self._awaited[0].born_at < REKEY_TIMEOUT_S:
            return False  # the peer has just done it
        if current.worn:
            return True
        limit_s = REKEY_WHEN_RECEIVING_S if receiving else REKEY_AFTER_S
        return current.initiator and now - current.born_at >= limit_s

    def keypairs(self) -> tuple[Keypair, ...]:
        """Every keypair still kept, the one sealed with first."""
        return (*(() if self.current is None else (self.current,)), *self._awaited, *self._past)

    def indices(self) -> tuple[int, ...]:
        """Our index of every keypair still kept: what the peer may address us by."""
        return tuple(keypair.local_index for keypair in self.keypairs())

    def keep_only(self, keypair: Keypair) -> None:
        """Drop every other keypair: the peer's process that agreed on them is gone."""
        self.current, self._past = keypair, ()
        self._awaited = ()

    def forget(self, now: float) -> bool:
        """Drop keypairs that can open nothing any more, the current one after 540 s; whether there were any. To be
        called now and then, so that idle sessions hold no keys; `install` does it too."""
        kept = len(self.keypairs())
        if self.current is not None and now - self.current.born_at >= FORGET_AFTER_S:
            self.current = None
        if self._awaited or self._past:
            self._awaited = tuple(keypair for keypair in self._awaited if now < keypair.reject_at)
            self._past = tuple(keypair for keypair in self._past if now < keypair.reject_at)
        return len(self.keypairs()) < kept

    def _succeed(self, keypair: Keypair, superseded: tuple[Keypair, ...]) -> None:
        former = () if self.current is None else (self.current,)
        self._past = (*former, *superseded, *self._past)[:MAX_PAST]
        self.current = keypair
