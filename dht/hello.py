"""The question to a bootstrap that is known by host:port alone: who are you?

    request: 0x15 | 3 zero | nonce (12) | sealed {certificate, counter, signature, padding}
    reply:   0x16 | 3 zero | the request's nonce (12) | sealed {contact}

Both are sealed under a key derived from the network secret, so that an outsider gets no answer and reads no
certificate. The request is signed and carries a handshake counter: a captured one is worthless, and no answer is
longer than its question. The reply is a hint: the handshake that follows proves it. Pure: no clock, no I/O.
"""

from __future__ import annotations

from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dht.certificate import Member, Network, read_certificate
from dht.contact import Contact
from dht.errors import BadDatagram
from dht.identity import Identity, check_signature
from dht.packing import Fields, Packable, pack

REQUEST = 0x15
REPLY = 0x16
PURPOSE = "hello"
NONCE_BYTES = 12
REQUEST_BYTES = 1000
MAX_CERTIFICATE_BYTES = 800
_HEADER_BYTES = 4 + NONCE_BYTES


def _cipher(network: Network, first_byte: int) -> ChaCha20Poly1305:
    label = b"p2pvpn/1 hello " + bytes((first_byte,))
    return ChaCha20Poly1305(blake2s(label, key=network.mac_key()).digest())


def _seal(network: Network, first_byte: int, nonce: bytes, plaintext: bytes) -> bytes:
    header = bytes((first_byte, 0, 0, 0)) + nonce
    return header + _cipher(network, first_byte).encrypt(nonce, plaintext, header)


def _open(network: Network, first_byte: int, datagram: bytes) -> bytes:
    header = datagram[:_HEADER_BYTES]
    if len(header) < _HEADER_BYTES or header[:4] != bytes((first_byte, 0, 0, 0)):
        raise BadDatagram("not a hello of this version")
    try:
        return _cipher(network, first_byte).decrypt(header[4:], datagram[_HEADER_BYTES:], header)
    except InvalidTag:
        raise BadDatagram("a hello from outside the network") from None


def nonce_of(datagram: bytes) -> bytes:
    return datagram[4:_HEADER_BYTES]


def ask(identity: Identity, counter: int, nonce: bytes) -> bytes:
    """A request. `counter` comes from the same sequence as handshake counters; `nonce` is 12 random bytes."""
    signature = identity.sign(PURPOSE, nonce + counter.to_bytes(8, "big"))
    entries: dict[int, Packable] = {0: identity.member.certificate, 1: counter, 2: signature}
    # Padded, so that the answer is always shorter than what asked for it.
    entries[3] = bytes(max(0, REQUEST_BYTES - _HEADER_BYTES - 16 - len(pack(entries)) - 4))
    return _seal(identity.network, REQUEST, nonce, pack(entries))


def read_request(network: Network, datagram: bytes, now: float) -> tuple[Member, int]:
    """The member who asks and the request's counter, which the caller must find new. Raises BadDatagram."""
    fields = Fields.parse(_open(network, REQUEST, datagram), "hello")
    member = read_certificate(network, fields.octets(0, 1, MAX_CERTIFICATE_BYTES), now)
    counter = fields.integer(1, 0, (1 << 64) - 1)
    signed = nonce_of(datagram) + counter.to_bytes(8, "big")
    check_signature(member, network, PURPOSE, signed, fields.octets(2, 64, 64))
    return member, counter


def answer(network: Network, request: bytes, contact: Contact) -> bytes:
    """The reply to a request that was read and found new."""
    return _seal(network, REPLY, nonce_of(request), pack({0: contact.pack()}))


def read_reply(network: Network, datagram: bytes) -> Contact:
    """The contact in a reply; the caller matches the nonce with its own. Raises BadDatagram."""
    return Contact.parse(Fields.parse(_open(network, REPLY, datagram), "hello reply").octets(0, 1, 256))
