"""A million damaged encodings against every decoder of foreign bytes: nothing escapes but the refusal it promises.

Beside the hypothesis tests of each decoder, which look for the odd case, this one goes for numbers: true encodings,
cut, extended, spliced and with flipped bits, at a few microseconds each. A failure names the seed and the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest

from dht import hello, stun
from dht.certificate import read_certificate
from dht.contact import Contact
from dht.cookie import CookieReply
from dht.coordinate import Coordinate
from dht.envelope import Envelope
from dht.errors import BadDatagram
from dht.fragments import Reassembly, cut
from dht.handshake import Initiation, Payload, Received
from dht.host import Endpoint
from dht.ids import key_of
from dht.messages import (
    Find,
    Found,
    Kind,
    Message,
    Neighbors,
    Pong,
    Store,
    TunnelClosed,
    TunnelGranted,
    TunnelOffer,
    TunnelRefused,
    TunnelRequest,
    pack_control,
    split_control,
)
from dht.packing import Fields, pack, unpack
from dht.path import TUNNELLED
from dht.records import Record
from dht.tunnels import read_tunnelled
from ipop import cast_wire, igmp, mld
from ipop.ethernet import BadFrame, ip_ends, ipv4_packet, ipv6_packet, unwrap, wrap
from ipop.neighbor import Segment, answer, mac_for
from ipop.roll import Present
from shortcuts import portmap_wire
from shortcuts.candidates import Candidate, CandidateKind
from shortcuts.lan_wire import NONCE_BYTES, PLAINTEXT_BYTES, LanAnswer, LanCipher, LanQuestion
from shortcuts.messages import Offer
from shortcuts.nat import Answer, Filtering, Mapping, Nat
from tests.identities import START_S, make_identities
from tests.test_igmp_mld import GROUP4, GROUP6, igmp_packet, report3, report_mld2

CASES = int(os.environ.get("P2PVPN_MILLION", "1000000"))
SEED = 20261121
RNG = Random(SEED)
ONE, OTHER = make_identities(2, SEED)
NETWORK = ONE.network
CONTACT = Contact(ONE.member.id, ONE.static_public, (Endpoint("192.0.2.1", 7), Endpoint("2001:db8::1", 8)))
CANDIDATES = [Candidate(CandidateKind.HOST, endpoint) for endpoint in CONTACT.endpoints]
NAT = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Answer.NO, Answer.YES)
MESSAGES: list[Message] = [
    Find(key_of("a")),
    Found((CONTACT, CONTACT), 3),
    Neighbors(True, CONTACT, (CONTACT,), (CONTACT, CONTACT)),
    Pong(True, Endpoint("192.0.2.1", 7), 2),
    Store(key_of("a"), b"record", True),
    TunnelRequest(CONTACT, True),
    TunnelGranted(7),
    TunnelRefused(2),
    TunnelOffer(ONE.member.id, 7),
    TunnelClosed(7),
    Offer(bytes(8), tuple(CANDIDATES), NAT, Nat()),
]
RECORD = Record.sign(ONE, "name", b"value", 1, int(START_S) + 3600)
PAYLOAD = Payload(ONE.member.certificate, ONE.static_signature, 1, 2, True, 0, Endpoint("192.0.2.1", 7), True, START_S)
FOUR, SIX = bytes((10, 77, 0, 1)), bytes(15) + b"\x01"
PACKETS = [ipv4_packet(bytes(40), 17, FOUR, FOUR), ipv6_packet(bytes(40), 17, SIX, SIX)]
FRAMES = [wrap(packet, bytes(6), bytes(6)) for packet in PACKETS]
SEGMENT = Segment(ONE.member.address4, NETWORK.subnet, ONE.member.address6, NETWORK.prefix6)


# Who has 10.77.0.99? Tell the address that is ours.
OWN = ONE.member.address4.packed
QUESTION = b"\xff" * 6 + mac_for(OWN) + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"
QUESTION += mac_for(OWN) + OWN + bytes(6) + bytes((10, 77, 0, 99))


def read_control(data: bytes) -> None:
    control = split_control(data)
    fields = Fields.parse(control.body)
    for message in MESSAGES:
        if control.code == message.CODE:
            type(message).read(fields)


def initiation() -> bytes:
    _, datagram = Initiation.begin(ONE, OTHER.static_public, 7, PAYLOAD, RNG, START_S)
    return datagram


def read_neighbor(data: bytes) -> None:
    if answer(data, SEGMENT) is None:
        raise BadFrame("no question for us")


def read_fragment(data: bytes) -> None:
    Reassembly().add(data, START_S)


CIPHER = LanCipher(NETWORK)
LAN = [
    CIPHER._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
    for sealed in (
        CIPHER.seal(LanQuestion(ONE.member.id, 5, bytes(12), True), bytes(12)),
        CIPHER.seal(LanAnswer(6, bytes(12), CONTACT), bytes(12)),
    )
]


def read_lan(plaintext: bytes) -> None:
    """A member's own nonsense: outsiders' ends at the seal."""
    padded = plaintext[:PLAINTEXT_BYTES].ljust(PLAINTEXT_BYTES, b"\0")
    CIPHER.open(bytes(NONCE_BYTES) + CIPHER._cipher.encrypt(bytes(NONCE_BYTES), padded, None))


def stun_response() -> bytes:
    said = stun.StunResponder(on=True).answer(stun.request(bytes(12)), CONTACT.endpoints[0], START_S)
    assert said is not None
    return said


def read_stun_request(datagram: bytes) -> None:
    stun.StunResponder(on=True).answer(datagram, CONTACT.endpoints[0], START_S)


# RFC 6886: an address, a mapping, a refusal.
PMP = [
    bytes((0, 128, 0, 0)) + (9).to_bytes(4, "big") + bytes((192, 0, 2, 1)),
    bytes((0, 129, 0, 0)) + (9).to_bytes(4, "big") + bytes((27, 88, 27, 88, 0, 0, 14, 16)),
    bytes((0, 129, 0, 2)) + (9).to_bytes(4, "big") + bytes(8),
]

IGMP = [
    igmp_packet(b"\x16\0\0\0" + GROUP4),
    report3((4, GROUP4, (FOUR,)), (1, GROUP4, (FOUR, FOUR))),
    igmp.query(GROUP4, response_s=1, robustness=2, interval_s=125),
]
MLD = [
    report_mld2((4, GROUP6, (SIX,)), (1, GROUP6, ())),
    mld.query(response_s=10, robustness=2, interval_s=125),
]
CASTS = [
    *cast_wire.sign_together(ONE.sign, cast_wire.Kind.PACKET, PACKETS[:1] * 2, 7, int(START_S)),
    cast_wire.sign_alone(ONE.sign, cast_wire.Kind.TWICE, PACKETS[1], 7, int(START_S)),
    cast_wire.sign_alone(ONE.sign, cast_wire.Kind.BUSY, FOUR + GROUP4, 7, int(START_S)),
]

# What it reads, true encodings, and its share of the cases: a decoder that proves signatures gets fewer.
DECODERS: dict[str, tuple[Callable[[bytes], object], list[bytes], float]] = {
    "msgpack": (unpack, [pack({0: [1, b"x", "y"], 1: {2: None, 3: 1.5}}), *(pack(m.fields()) for m in MESSAGES)], 0.19),
    "control": (read_control, [pack_control(message, Kind.ASK, 9) for message in MESSAGES], 0.19),
    "contact": (Contact.parse, [CONTACT.pack()], 0.05),
    "endpoint": (Endpoint.parse, [endpoint.pack() for endpoint in CONTACT.endpoints], 0.05),
    "envelope": (Envelope.parse, [Envelope(9, 0, 1, 2, 3, b"payload").pack()], 0.05),
    "fragment": (read_fragment, cut(bytes(3000), 5), 0.05),
    "payload": (Payload.parse, [PAYLOAD.pack()], 0.06),
    "cookie": (CookieReply.parse, [CookieReply(1, bytes(24), bytes(32)).pack()], 0.03),
    "packet": (ip_ends, PACKETS, 0.05),
    "frame": (unwrap, FRAMES, 0.05),
    "igmp": (igmp.read_report, IGMP, 0.012),
    "mld": (mld.read_report, MLD, 0.012),
    "cast": (cast_wire.parse, CASTS, 0.012),
    "roll call": (Present.parse, [Present("n1", 3, True).pack()], 0.004),
    "neighbor": (read_neighbor, [QUESTION], 0.04),
    "coordinate": (Coordinate.parse, [Coordinate(12.0, -7.0, 3.0, 0.4).pack()], 0.01),
    "candidate": (Candidate.parse, [candidate.pack() for candidate in CANDIDATES], 0.03),
    "nat": (Nat.parse, [NAT.pack()], 0.01),
    "tunnelled": (read_tunnelled, [bytes((TUNNELLED, 0, 0, 0)) + bytes(40)], 0.01),
    "stun request": (read_stun_request, [stun.request(bytes(12))], 0.01),
    "stun response": (lambda data: stun.read_response(data, bytes(12)), [stun_response()], 0.01),
    "port mapping": (portmap_wire.read, PMP, 0.02),
    "link": (read_lan, LAN, 0.01),
    "record": (lambda data: Record.parse(NETWORK, data, START_S), [RECORD.raw], 0.015),
    "certificate": (lambda data: read_certificate(NETWORK, data, START_S), [ONE.member.certificate], 0.01),
    "hello": (lambda data: hello.read_request(NETWORK, data, START_S), [hello.ask(ONE, 1, bytes(12))], 0.01),
    "initiation": (lambda data: Received.open(OTHER, data), [initiation()], 0.005),
}


def damaged(rng: Random, samples: list[bytes]) -> bytes:
    data = bytearray(rng.choice(samples))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(0, len(data) + 1)
        match rng.randrange(0, 6):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(0, 8)
            case 2 if data:
                data[at % len(data)] = rng.randrange(0, 256)
            case 3:
                del data[at:]
            case 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                other = rng.choice(samples)
                data[at:] = other[rng.randrange(0, len(other)) :]
    return bytes(data)


def test_the_shares_make_up_the_whole() -> None:
    assert abs(sum(share for _, _, share in DECODERS.values()) - 1.0) < 0.01


@pytest.mark.parametrize("name", DECODERS)
def test_nothing_escapes_a_decoder_but_its_refusal(name: str) -> None:
    decode, samples, share = DECODERS[name]
    for sample in samples:
        decode(sample)
    rng = Random(f"{SEED} {name}")
    refused = 0
    for case in range(int(CASES * share)):
        data = damaged(rng, samples)
        try:
            decode(data)
        except (BadDatagram, BadFrame):
            refused += 1
        except Exception as escaped:
            raise AssertionError(f"seed {SEED}, {name}, case {case}: {escaped!r} for {data.hex()}") from escaped
    assert refused > 0, "nothing was ever refused: are the samples damaged at all?"
