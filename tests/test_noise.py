"""Noise handshakes: published vectors byte by byte, an independent implementation as oracle, and hostile bytes."""

from __future__ import annotations

import json
from functools import partial
from random import Random
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair as OracleKey
from noise.connection import NoiseConnection

from dht.errors import BadDatagram
from dht.noise import PATTERNS, Cipher, CipherState, Digest, HandshakeState, pattern_named, public_key
from tests.evaluation import DATA
from tests.fuzzing import fuzzed

VECTORS = DATA / "noise" / "noise_cacophony_25519.json"

CIPHERS: list[Cipher] = ["ChaChaPoly", "AESGCM"]
DIGESTS: list[Digest] = ["BLAKE2s", "SHA256"]
PATTERN_NAMES = [*PATTERNS, "XXpsk3", "IKpsk1", "IKpsk2", "NNpsk0"]

# The seven encodings of points of low order (https://cr.yp.to/ecdh.html#validate), two of them not canonical.
LOW_ORDER = [
    (0).to_bytes(32, "little"),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


class Vector(NamedTuple):
    """One published handshake; all share their keys, prologue and payloads (below)."""

    name: str
    handshake_hash: str
    ciphertexts: list[str]


PROLOGUE = b"John Galt"
PSK = b"This is my Austrian perspective!"
INITIATOR_STATIC = bytes.fromhex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1")
INITIATOR_EPHEMERAL = bytes.fromhex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a")
RESPONDER_STATIC = bytes.fromhex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893")
RESPONDER_EPHEMERAL = bytes.fromhex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b")
PAYLOADS = [
    b"Ludwig von Mises",
    b"Murray Rothbard",
    b"F. A. Hayek",
    b"Carl Menger",
    b"Jean-Baptiste Say",
    b"Eugen B\xf6hm von Bawerk",
]
# Three of haskell-cryptography/cacophony's vectors (vectors/cacophony.txt, Unlicense), so that no run goes without.
SHIPPED = [
    Vector(
        "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
        "f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5",
        [
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5"
            "6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985"
            "464cf17e51ee93109008399a21f7e13f",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222"
            "17755c0632f365717edbf34d33e87a",
            "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7",
            "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef",
            "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
            "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
        ],
    ),
    Vector(
        "Noise_IK_25519_AESGCM_SHA256",
        "669c8640d9e42a3cda2f232f78597ceefb01daa6e3df81181ccce6fc6b5026bf",
        [
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444e417bc55c7a8166c993356c1be41ef6"
            "7818a292426f301556c7f26b21d25ddb097153891a9a956cff47b83e63ad8d701c1342c209cff1ca5ecd43402762ac24"
            "9e3bd3a4c0a145fe07cb5dae28ea13a3",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843af2ccf9972e22afc67aeafcd25162f7f"
            "98c363b7762e3e4cb7d272e39f27a5",
            "66acfc92e3197de166809e6d4d5d003dcc819a84bc3522ca53c9d9",
            "71f89aa6533a6de70b0826864dd75f60806ee40170c16290189eb3",
            "4795a3423550c8bf00386bd496a3e2c76c10669d2a75ab8f79b5094c5412a25705",
            "aa0bb39097555c918e40be82abc2b909eb79d9eb87adb07e268fc37323a6cf904fd01fb391",
        ],
    ),
    Vector(
        "Noise_XX_25519_ChaChaPoly_BLAKE2s",
        "6c4c56cf71612f72d05ceb96c0155e6f4ea54a26b504c93de632a2db4a49d200",
        [
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088437c365eb362a1c991b0557fe8a7fb187d"
            "99346765d93ec63db6c1b01504ebeec55a2298d2dbff80eff034d20595153f63a196a6cead1e11b2bb13e336fa13616d"
            "d3e8b0a070c882ed3f1a78c7c06c93",
            "46c3307de83b014258717d97781c1f50936d8b7d50c0722a1739654d10392d415b670c114f79b9a4f80541570f77ce88"
            "802efa4220cff733e7b5668ba38059ec904b4b8eef9448085faf51",
            "d5e83adfaac5dc324a68f1862df54549e56d209fba707205f328b2",
            "d102c9029b1f55c788f561ba7737afbccef9c9f1bf2f238167fd40ba9c1c134867",
            "cb1ce80960382c6d5d5e740ffb724d1432f0310b200fb6f8424120f506092744baa415e155",
        ],
    ),
]


def published() -> list[Any]:
    if not VECTORS.exists():
        reason = f"the cacophony vectors are not at {VECTORS}; set P2PVPN_DATA to the folder that has noise/ in it"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(vector, id=vector["protocol_name"]) for vector in json.loads(VECTORS.read_text())["vectors"]]


def pair(
    pattern: str,
    cipher: Cipher = "ChaChaPoly",
    digest: Digest = "BLAKE2s",
    *,
    statics: tuple[bytes, bytes] = (INITIATOR_STATIC, RESPONDER_STATIC),
    ephemerals: tuple[bytes, bytes] = (INITIATOR_EPHEMERAL, RESPONDER_EPHEMERAL),
    prologue: bytes = PROLOGUE,
    psk: bytes = PSK,
) -> tuple[HandshakeState, HandshakeState]:
    """Both ends of a handshake, each with every key its pattern lets it have beforehand."""
    described = pattern_named(pattern)
    shared = psk if "psk" in pattern else None
    make = partial(HandshakeState, pattern, prologue=prologue, psk=shared, cipher=cipher, digest=digest)
    initiator = make(
        initiator=True,
        static_private=statics[0],
        ephemeral_private=ephemerals[0],
        remote_static=public_key(statics[1]) if described.initiator_knows_responder else None,
    )
    responder = make(
        initiator=False,
        static_private=statics[1],
        ephemeral_private=ephemerals[1],
        remote_static=public_key(statics[0]) if described.initiator_knows_itself else None,
    )
    return initiator, responder


def check_vector(name: str, handshake_hash: bytes, payloads: list[bytes], ciphertexts: list[bytes]) -> None:
    _, pattern, _, cipher, digest = name.split("_")
    ends = pair(pattern, cast(Cipher, cipher), cast(Digest, digest))
    keys: list[CipherState] = []
    counters = [0, 0]
    for number, (payload, ciphertext) in enumerate(zip(payloads, ciphertexts, strict=True)):
        sender, receiver = ends[number % 2], ends[1 - number % 2]
        if not sender.complete:
            assert sender.write(payload) == ciphertext
            assert receiver.read(ciphertext) == payload
            continue
        if not keys:
            assert ends[0].handshake_hash == ends[1].handshake_hash == handshake_hash
            assert ends[0].split() == ends[1].split()
            keys = [CipherState(cast(Cipher, cipher), key) for key in ends[0].split()]
        counter = counters[number % 2]
        assert keys[number % 2].encrypt(counter, b"", payload) == ciphertext
        assert keys[number % 2].decrypt(counter, b"", ciphertext) == payload
        counters[number % 2] += 1
    assert sum(counters) > 0


@pytest.mark.parametrize("vector", SHIPPED, ids=lambda vector: vector.name)
def test_shipped_vectors_are_met_byte_by_byte(vector: Vector) -> None:
    ciphertexts = [bytes.fromhex(text) for text in vector.ciphertexts]
    check_vector(vector.name, bytes.fromhex(vector.handshake_hash), PAYLOADS, ciphertexts)


@pytest.mark.parametrize("vector", published())
def test_published_vectors_are_met_byte_by_byte(vector: dict[str, Any]) -> None:
    for field, constant in {
        "init_prologue": PROLOGUE,
        "resp_prologue": PROLOGUE,
        "init_static": INITIATOR_STATIC,
        "resp_static": RESPONDER_STATIC,
        "init_ephemeral": INITIATOR_EPHEMERAL,
        "resp_ephemeral": RESPONDER_EPHEMERAL,
    }.items():
        assert bytes.fromhex(vector.get(field, constant.hex())) == constant
    assert vector.get("init_psks", [PSK.hex()]) == vector.get("resp_psks", [PSK.hex()]) == [PSK.hex()]
    payloads = [bytes.fromhex(message["payload"]) for message in vector["messages"]]
    ciphertexts = [bytes.fromhex(message["ciphertext"]) for message in vector["messages"]]
    check_vector(vector["protocol_name"], bytes.fromhex(vector["handshake_hash"]), payloads, ciphertexts)


class Oracle:
    """One end of a handshake by the noiseprotocol package."""

    def __init__(
        self, name: str, initiator: bool, prologue: bytes, static: bytes, remote_static: bytes | None, psk: bytes | None
    ) -> None:
        self.connection = NoiseConnection.from_name(name.encode())
        if initiator:
            self.connection.set_as_initiator()
        else:
            self.connection.set_as_responder()
        self.connection.set_prologue(prologue)
        if psk is not None:
            self.connection.set_psks(psk)
        self.connection.set_keypair_from_private_bytes(OracleKey.STATIC, static)
        if remote_static is not None:
            self.connection.set_keypair_from_public_bytes(OracleKey.REMOTE_STATIC, remote_static)
        self.connection.start_handshake()


@pytest.mark.parametrize("ours_initiates", [True, False], ids=["as initiator", "as responder"])
@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("pattern", ["IK", "XX", "IKpsk2", "KK", "XXpsk3", "IX"])
def test_another_implementation_understands_us(
    pattern: str, cipher: Cipher, digest: Digest, ours_initiates: bool
) -> None:
    seed = f"{pattern} {cipher} {digest} {ours_initiates}"
    print("seed", seed)
    rng = Random(seed)
    statics = rng.randbytes(32), rng.randbytes(32)
    prologue, psk = rng.randbytes(rng.randrange(40)), rng.randbytes(32)
    ends = pair(
        pattern,
        cipher,
        digest,
        statics=statics,
        ephemerals=(rng.randbytes(32), rng.randbytes(32)),
        prologue=prologue,
        psk=psk,
    )
    ours = ends[0 if ours_initiates else 1]
    described = pattern_named(pattern)
    known = described.initiator_knows_itself if ours_initiates else described.initiator_knows_responder
    oracle = Oracle(
        f"Noise_{pattern}_25519_{cipher}_{digest}",
        not ours_initiates,
        prologue,
        statics[1 if ours_initiates else 0],
        public_key(statics[0 if ours_initiates else 1]) if known else None,
        psk if "psk" in pattern else None,
    ).connection
    for number in range(len(described.messages)):
        payload = rng.randbytes(rng.randrange(200))
        if ours_initiates == (number % 2 == 0):
            assert oracle.read_message(ours.write(payload)) == payload
        else:
            assert ours.read(bytes(oracle.write_message(payload))) == payload
    assert oracle.get_handshake_hash() == ours.handshake_hash
    forth, back = (CipherState(cipher, key) for key in ours.split())
    send, receive = (forth, back) if ours_initiates else (back, forth)
    for counter in range(300):  # beyond one byte of counter, where byte order shows
        payload = rng.randbytes(20)
        assert oracle.decrypt(send.encrypt(counter, b"", payload)) == payload
        assert receive.decrypt(counter, b"", bytes(oracle.encrypt(payload))) == payload


@pytest.mark.parametrize("pattern", PATTERN_NAMES)
def test_both_ends_learn_each_others_static_key(pattern: str) -> None:
    initiator, responder = pair(pattern)
    ends = initiator, responder
    for number in range(len(pattern_named(pattern).messages)):
        ends[1 - number % 2].read(ends[number % 2].write())
    assert initiator.complete and responder.complete
    letters = pattern[:2]
    assert responder.remote_static == (None if letters[0] == "N" else public_key(INITIATOR_STATIC))
    assert initiator.remote_static == (None if letters[1] == "N" else public_key(RESPONDER_STATIC))
    assert initiator.handshake_hash == responder.handshake_hash
    assert initiator.split() == responder.split()


@pytest.mark.parametrize("pattern", ["IK", "XX", "IKpsk2"])
def test_every_flipped_bit_is_refused_and_the_true_message_still_understood(pattern: str) -> None:
    ends = pair(pattern)
    for number in range(len(pattern_named(pattern).messages)):
        sender, receiver = ends[number % 2], ends[1 - number % 2]
        message = sender.write(b"payload")
        # The first message of XX is in the clear: nothing authenticates it until the next.
        for at in range(len(message)) if (pattern, number) != ("XX", 0) else ():
            altered = bytearray(message)
            altered[at] ^= 1 << (at % 8)
            with pytest.raises(BadDatagram):
                receiver.read(bytes(altered))
        assert receiver.read(message) == b"payload"
    assert ends[0].split() == ends[1].split()


@pytest.mark.parametrize("pattern", ["IK", "IKpsk2"])
def test_every_cut_message_is_refused(pattern: str) -> None:
    initiator, responder = pair(pattern)
    for sender, receiver in ((initiator, responder), (responder, initiator)):
        message = sender.write(b"payload")
        for length in range(len(message)):
            with pytest.raises(BadDatagram):
                receiver.read(message[:length])
        with pytest.raises(BadDatagram):
            receiver.read(message + b"x")
        receiver.read(message)


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_message_that_ends_within_an_ephemeral_key_is_refused(length: int) -> None:
    _, responder = pair("XX")
    with pytest.raises(BadDatagram, match="within a key"):
        responder.read(INITIATOR_EPHEMERAL[:length])


def test_a_message_beyond_the_limit_of_noise_is_refused() -> None:
    _, responder = pair("NN")
    with pytest.raises(BadDatagram, match="65536"):
        responder.read(bytes(65536))


@pytest.mark.parametrize("what", ["prologue", "responder"])
def test_ends_that_differ_do_not_understand_each_other(what: str) -> None:
    initiator, responder = pair("IKpsk2")
    match what:
        case "prologue":
            _, responder = pair("IKpsk2", prologue=b"another")
        case "responder":
            _, responder = pair("IKpsk2", statics=(INITIATOR_STATIC, bytes(31) + b"\x01"))
    with pytest.raises(BadDatagram):
        responder.read(initiator.write())


def test_a_response_under_another_psk_is_refused() -> None:
    # psk2 enters with the second message: the first says nothing about it.
    initiator, responder = pair("IKpsk2")
    _, outsider = pair("IKpsk2", psk=bytes(32))
    message = initiator.write()
    outsider.read(message)
    with pytest.raises(BadDatagram):
        initiator.read(outsider.write())
    responder.read(message)
    initiator.read(responder.write())


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_points_of_low_order_are_refused_wherever_they_come(point: bytes) -> None:
    # As an ephemeral key of the initiator, then of the responder.
    initiator, responder = pair("IKpsk2")
    with pytest.raises(BadDatagram, match="low order"):
        responder.read(point + initiator.write()[32:])
    initiator, responder = pair("IKpsk2")
    responder.read(initiator.write())
    with pytest.raises(BadDatagram, match="low order"):
        initiator.read(point + responder.write()[32:])
    # As the static key of a responder we are told to speak to.
    lured = HandshakeState("IKpsk2", True, PROLOGUE, INITIATOR_STATIC, INITIATOR_EPHEMERAL, point, PSK)
    with pytest.raises(BadDatagram, match="low order"):
        lured.write()
    # As the static key inside an otherwise correct message, sealed where its owner alone could seal it: after es.
    initiator, responder = pair("IK")
    private, _ = initiator._static or pytest.fail("no static key")
    initiator._static = private, point
    with pytest.raises(BadDatagram, match="low order"):
        responder.read(initiator.write())


def test_a_low_order_static_key_in_the_clear_is_refused_when_used() -> None:
    _, responder = pair("IX")
    responder.read(INITIATOR_EPHEMERAL + LOW_ORDER[0])
    with pytest.raises(BadDatagram, match="low order"):
        responder.write()


@pytest.mark.parametrize("name", ["", "ik", "IKpsk", "IKpsk3", "IKpsk2psk3", "ZZ", "IK+psk2"])
def test_patterns_unknown_to_us_are_our_own_mistake(name: str) -> None:
    with pytest.raises(ValueError, match=r"no pattern|no message"):
        pattern_named(name)


def test_calls_out_of_turn_are_our_own_mistake() -> None:
    initiator, responder = pair("IK")
    with pytest.raises(AssertionError):
        responder.write()
    with pytest.raises(AssertionError):
        initiator.read(bytes(96))
    with pytest.raises(AssertionError):
        initiator.split()
    responder.read(initiator.write())
    initiator.read(responder.write())
    with pytest.raises(AssertionError):
        initiator.write()
    with pytest.raises(AssertionError):
        initiator.use_ephemeral(bytes(32))


@fuzzed()
@given(st.sampled_from(PATTERN_NAMES), st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_otherwise(pattern: str, message: bytes) -> None:
    _, responder = pair(pattern)
    try:
        responder.read(message)
    except BadDatagram:
        assert not responder.complete


@fuzzed()
@given(st.binary(max_size=200))
def test_no_bytes_make_a_waiting_initiator_fail_otherwise(message: bytes) -> None:
    initiator, responder = pair("IKpsk2")
    responder.read(initiator.write())
    with pytest.raises(BadDatagram):
        initiator.read(message)
    assert initiator.read(responder.write(b"true")) == b"true"
