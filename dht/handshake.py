"""The handshake between two members: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s in two datagrams.

    initiation: 0x11 | version | 2 zero | sender index (4) | ephemeral (32) | static, sealed (48) | payload, sealed
                | mac1 (16) | mac2 (16)
    response:   0x12 | version | 2 zero | sender index (4) | receiver index (4) | ephemeral (32) | payload, sealed
                | mac1 (16) | mac2 (16, zero)
    a payload, before sealing: the datagram's header again | length (2) | packed map | zeros

Noise has no place for associated data, so the header stands in the payload too: else a member on the path, who can
compute mac1, could alter the indices unseen. A full initiation, with certificate, has 1200 bytes: paths that
can't carry them show at once, and no response is longer than its initiation. A compact one (renewing keys between
ends that know each other's certificate) has 256.

Pure: machines that take `now` and a source of randomness. Nothing here keeps peers, judges counters or sends.
Sources: Noise revision 34, pattern IKpsk2; WireGuard (NDSS 2017), section 5.4, for the outer format.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Final

from dht.certificate import Member, Network, read_certificate
from dht.cookie import MAC_BYTES, VERSION, append_macs, mac1_key
from dht.cookie import check_mac1 as check_mac1_under
from dht.errors import BadDatagram, CertificateRefused
from dht.features import MAX_FEATURES
from dht.host import Endpoint, Rng
from dht.identity import STATIC_KEY_PURPOSE, Identity, check_signature
from dht.noise import KEY_BYTES, TAG_BYTES
from dht.packing import Fields, Packable, pack
from dht.session import Keypair
from dht.suite import HandshakeEnd

INITIATION: Final = 0x11
RESPONSE: Final = 0x12
FULL_INITIATION_BYTES: Final = 1200
COMPACT_INITIATION_BYTES: Final = 256
MAX_CERTIFICATE_BYTES: Final = 900  # what a full initiation has room for, with the longest of everything else

ACCEPTED: Final = 0
DUPLICATE_IDENTITY: Final = 1

_INITIATION_HEADER_BYTES: Final = 8
_RESPONSE_HEADER_BYTES: Final = 12
_MACS_BYTES: Final = 2 * MAC_BYTES
# Everything but the payload: header, ephemeral key, sealed static key, tag of the payload, macs.
_INITIATION_OVERHEAD: Final = _INITIATION_HEADER_BYTES + KEY_BYTES + KEY_BYTES + 2 * TAG_BYTES + _MACS_BYTES
_RESPONSE_OVERHEAD: Final = _RESPONSE_HEADER_BYTES + KEY_BYTES + TAG_BYTES + _MACS_BYTES
_LENGTH_BYTES: Final = 2
_U64: Final = (1 << 64) - 1
_LATEST_CLOCK_S: Final = float(1 << 48)


@dataclass(frozen=True, slots=True)
class Payload:
    """What the two ends tell each other under the handshake's seal.

    `certificate` and `static_signature` are empty in a compact message. `counter` grows with every initiation of
    one initiator, across restarts; `instance` is drawn anew by each process; `aes` says that AES-GCM is done in
    hardware here; `verdict` is the responder's; `observed` is where the sender sees the other end; `member` says
    that the sender has joined the ring; `clock` is the sender's time. The last two may be missing: `features` says
    what else the sender understands (`dht.features`), `datagram_bytes` how long a datagram its own link carries at
    most, 0 when it does not say.
    """

    certificate: bytes = b""
    static_signature: bytes = b""
    counter: int = 0
    instance: int = 0
    aes: bool = False
    verdict: int = ACCEPTED
    observed: Endpoint | None = None
    member: bool = False
    clock: float = 0.0
    features: int = 0
    datagram_bytes: int = 0

    def pack(self) -> bytes:
        """At most 69 bytes when compact, 140 and the certificate when full."""
        entries: dict[int, Packable] = {
            3: self.instance,
            4: self.aes,
            5: self.verdict,
            7: self.member,
            8: float(self.clock),
        }
        if self.certificate:
            entries[0], entries[1] = self.certificate, self.static_signature
        if self.counter:
            entries[2] = self.counter
        if self.observed is not None:
            entries[6] = self.observed.pack()
        if self.features:
            entries[9] = self.features
        if self.datagram_bytes:
            entries[10] = self.datagram_bytes
        return pack(entries)

    @classmethod
    def parse(cls, packed: bytes) -> Payload:
        """The inverse of `pack`. Raises BadDatagram."""
        fields = Fields.parse(packed, "handshake payload")
        certificate = fields.octets(0, 1, MAX_CERTIFICATE_BYTES, b"")
        observed = fields.octets(6, 6, 18, b"")
        return cls(
            certificate=certificate,
            static_signature=fields.octets(1, 64, 64) if certificate else b"",
            counter=fields.integer(2, 0, _U64, 0),
            instance=fields.integer(3, 0, _U64),
            aes=fields.flag(4),
            verdict=fields.integer(5, 0, 255),
            observed=Endpoint.parse(observed) if observed else None,
            member=fields.flag(7),
            clock=fields.number(8, 0.0, _LATEST_CLOCK_S),
            features=fields.integer(9, 0, MAX_FEATURES, 0),
            datagram_bytes=fields.integer(10, 0, 0xFFFF, 0),
        )


class Initiation:
    """The initiator's half-open state: one initiation sent, its response awaited."""

    __slots__ = ("_aes", "_identity", "_noise", "index", "mac1", "peer_static", "started_at")

    def __init__(
        self,
        identity: Identity,
        noise: HandshakeEnd,
        peer_static: bytes,
        index: int,
        aes: bool,
        mac1: bytes,
        started_at: float,
    ) -> None:
        self._identity, self._noise, self._aes = identity, noise, aes
        self.peer_static, self.index, self.mac1, self.started_at = peer_static, index, mac1, started_at

    @classmethod
    def begin(
        cls,
        identity: Identity,
        peer_static: bytes,
        index: int,
        payload: Payload,
        rng: Rng,
        now: float,
        cookie: bytes | None = None,
    ) -> tuple[Initiation, bytes]:
        """A new handshake with the owner of `peer_static`, and the datagram that begins it. `index` is ours to
        choose and names the keypair to come. Raises BadDatagram when `peer_static` is a key of low order."""
        noise = identity.suite.initiator(
            _prologue(identity.network),
            identity.network.psk(),
            (identity.static_private, identity.static_public),
            rng.randbytes(KEY_BYTES),
            peer_static,
        )
        header = bytes((INITIATION, VERSION, 0, 0)) + index.to_bytes(4, "big")
        total = FULL_INITIATION_BYTES if payload.certificate else COMPACT_INITIATION_BYTES
        sealed = noise.write(_frame(header, payload, total - _INITIATION_OVERHEAD))
        datagram = append_macs(mac1_key(identity.network.mac_key(), peer_static), header + sealed, cookie)
        assert len(datagram) == total, "the certificate is too long for an initiation"
        mac1 = datagram[-_MACS_BYTES:-MAC_BYTES]
        return cls(identity, noise, peer_static, index, payload.aes, mac1, now), datagram

    def finish(self, datagram: bytes, now: float) -> tuple[Payload, Keypair]:
        """What the responder says, and the keys. Raises BadDatagram, and then still awaits the true response."""
        _check_outside(datagram, RESPONSE, _RESPONSE_OVERHEAD, FULL_INITIATION_BYTES)
        if datagram[8:12] != self.index.to_bytes(4, "big"):
            raise BadDatagram("a response to another initiation")
        if any(datagram[-MAC_BYTES:]):
            raise BadDatagram("a response with a mac2, which nobody asked for")
        check_mac1(self._identity, datagram)
        if self._noise.complete:
            raise BadDatagram("a second response to one initiation")
        header = datagram[:_RESPONSE_HEADER_BYTES]
        # On a copy: a member on the path could repeat the true message behind an altered header.
        noise = copy(self._noise)
        payload = _unframe(header, noise.read(datagram[_RESPONSE_HEADER_BYTES:-_MACS_BYTES]))
        self._noise = noise
        forth, back = noise.split()
        remote_index = int.from_bytes(header[4:8], "big")
        aes = self._aes and payload.aes
        aead = self._identity.suite.aead
        return payload, Keypair(forth, back, aes, self.index, remote_index, now, initiator=True, aead=aead)


class Received:
    """An initiation that the responder has decrypted: sent by the owner of `static`, perhaps long ago.

    Whether it is a replay only the caller can tell, from `payload.counter`.
    """

    __slots__ = ("_bytes", "_noise", "payload", "sender_index", "static")

    def __init__(self, noise: HandshakeEnd, static: bytes, payload: Payload, sender_index: int, size: int) -> None:
        self._noise, self._bytes = noise, size
        self.static, self.payload, self.sender_index = static, payload, sender_index

    @classmethod
    def open(cls, identity: Identity, datagram: bytes) -> Received:
        """Raises BadDatagram for anything but a well-formed initiation to us from somebody with the secret."""
        _check_outside(datagram, INITIATION, COMPACT_INITIATION_BYTES, FULL_INITIATION_BYTES)
        check_mac1(identity, datagram)
        network = identity.network
        static = identity.static_private, identity.static_public
        noise = identity.suite.responder(_prologue(network), network.psk(), static)
        header = datagram[:_INITIATION_HEADER_BYTES]
        payload = _unframe(header, noise.read(datagram[_INITIATION_HEADER_BYTES:-_MACS_BYTES]))
        if payload.certificate and len(datagram) != FULL_INITIATION_BYTES:
            raise BadDatagram(
                f"an initiation with a certificate has {FULL_INITIATION_BYTES} bytes, not {len(datagram)}"
            )
        remote_static = noise.remote_static
        assert remote_static is not None
        return cls(noise, remote_static, payload, int.from_bytes(header[4:8], "big"), len(datagram))

    def respond(self, identity: Identity, index: int, payload: Payload, rng: Rng, now: float) -> tuple[Keypair, bytes]:
        """The keys and the response, once. `payload` may carry a certificate only if the initiation did."""
        self._noise.use_ephemeral(rng.randbytes(KEY_BYTES))
        header = bytes((RESPONSE, VERSION, 0, 0)) + index.to_bytes(4, "big") + self.sender_index.to_bytes(4, "big")
        sealed = self._noise.write(_frame(header, payload, 0))
        datagram = append_macs(mac1_key(identity.network.mac_key(), self.static), header + sealed)
        assert len(datagram) <= self._bytes, "a response is never longer than its initiation"
        forth, back = self._noise.split()
        aes = payload.aes and self.payload.aes
        aead = identity.suite.aead
        return Keypair(back, forth, aes, index, self.sender_index, now, initiator=False, aead=aead), datagram


def peer_member(network: Network, static: bytes, payload: Payload, now: float) -> Member:
    """The member whom a full payload proves to own `static`. Raises CertificateRefused."""
    if not payload.certificate:
        raise CertificateRefused("the handshake carries no certificate")
    member = read_certificate(network, payload.certificate, now)
    try:
        check_signature(member, network, STATIC_KEY_PURPOSE, static, payload.static_signature)
    except BadDatagram as error:
        raise CertificateRefused(str(error)) from None
    return member


def check_mac1(identity: Identity, datagram: bytes) -> None:
    """Cheap, and so comes before everything else. Raises BadDatagram when the sender is no member, or meant
    somebody else."""
    check_mac1_under(mac1_key(identity.network.mac_key(), identity.static_public), datagram)


def _prologue(network: Network) -> bytes:
    return b"p2pvpn/1" + network.id


def _check_outside(datagram: bytes, kind: int, least: int, most: int) -> None:
    if not least <= len(datagram) <= most:
        raise BadDatagram(f"a handshake message of {len(datagram)} bytes, not {least} to {most}")
    if datagram[0] != kind:
        raise BadDatagram(f"a message of kind {datagram[0]:#04x}, not {kind:#04x}")
    if datagram[1] != VERSION or datagram[2] or datagram[3]:
        raise BadDatagram(f"a handshake of version {datagram[1]}, not {VERSION}, or with unknown flags")


def _frame(header: bytes, payload: Payload, total: int) -> bytes:
    """The plain payload behind `header`, filled up with zeros to `total` bytes."""
    packed = payload.pack()
    return (header + len(packed).to_bytes(_LENGTH_BYTES, "big") + packed).ljust(total, b"\0")


def _unframe(header: bytes, plain: bytes) -> Payload:
    start = len(header) + _LENGTH_BYTES
    if len(plain) < start or plain[: len(header)] != header:
        raise BadDatagram("the header was altered on its way")
    end = start + int.from_bytes(plain[len(header) : start], "big")
    if end > len(plain) or any(plain[end:]):
        raise BadDatagram("a handshake payload is not filled up with zeros alone")
    return Payload.parse(plain[start:end])
