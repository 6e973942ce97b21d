"""STUN Binding: the RFC's own vectors, real captured messages, another implementation, and whoever means harm."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from random import Random

import aioice.stun
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import stun
from dht.cookie import SOURCE_BURST
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.stun import REQUEST_BYTES, StunResponder, read_response, request
from tests.fuzzing import addresses, fuzzed

# RFC 5769, sections 2.1 to 2.3.
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
SAMPLE_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
SAMPLE_RESPONSE4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
SAMPLE_RESPONSE6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)

endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
transactions = st.binary(min_size=12, max_size=12)


def answering() -> StunResponder:
    return StunResponder(on=True)


def captured(name: str) -> bytes:
    folder = os.environ.get("P2PVPN_DATA")
    if not folder or not (file := Path(folder, "stun", name)).exists():
        pytest.skip("needs the data of P2PVPN_DATA")
    return file.read_bytes()


def test_the_rfcs_responses_say_what_the_rfc_says() -> None:
    assert read_response(SAMPLE_RESPONSE4, TRANSACTION) == Endpoint("192.0.2.1", 32853)
    assert read_response(SAMPLE_RESPONSE6, TRANSACTION) == Endpoint("2001:db8:1234:5678:11:2233:4455:6677", 32853)


def test_an_ice_request_is_told_which_attributes_mean_nothing_here() -> None:
    """RFC 8489, section 6.3.1: PRIORITY must be understood, and only ICE understands it."""
    answer = answering().answer(SAMPLE_REQUEST, Endpoint("192.0.2.1", 5000), 0.0)
    assert answer is not None
    assert len(answer) <= len(SAMPLE_REQUEST)
    assert answer[8:20] == TRANSACTION
    with pytest.raises(BadDatagram, match="error 420"):
        read_response(answer, TRANSACTION)
    assert aioice.stun.parse_message(answer).attributes["ERROR-CODE"][0] == 420


@pytest.mark.parametrize("place", [*range(0, len(SAMPLE_REQUEST) - 8, 5), -1])
def test_a_single_wrong_bit_is_noticed(place: int) -> None:
    damaged = bytearray(SAMPLE_REQUEST)
    damaged[place] ^= 1
    with pytest.raises(BadDatagram):
        answering().answer(bytes(damaged), Endpoint("192.0.2.1", 5000), 0.0)


@given(transactions, endpoints)
@fuzzed()
def test_every_question_of_ours_gets_its_asker_s_endpoint_and_no_longer_answer(
    transaction: bytes, source: Endpoint
) -> None:
    question = request(transaction)
    answer = answering().answer(question, source, 0.0)
    assert answer is not None
    assert len(answer) <= len(question) == REQUEST_BYTES
    assert read_response(answer, transaction) == source


@given(transactions, endpoints)
@fuzzed(weight=0.5)
def test_another_implementation_reads_ours_and_we_read_its(transaction: bytes, source: Endpoint) -> None:
    theirs = aioice.stun.parse_message(request(transaction))
    assert theirs.message_method == aioice.stun.Method.BINDING
    assert theirs.message_class == aioice.stun.Class.REQUEST
    assert theirs.transaction_id == transaction
    answer = answering().answer(request(transaction), source, 0.0)
    assert answer is not None
    assert aioice.stun.parse_message(answer).attributes["XOR-MAPPED-ADDRESS"] == (source.address, source.port)
    response = aioice.stun.Message(
        message_method=aioice.stun.Method.BINDING,
        message_class=aioice.stun.Class.RESPONSE,
        transaction_id=transaction,
        attributes={"XOR-MAPPED-ADDRESS": (source.address, source.port), "SOFTWARE": "somebody's"},
    )
    response.add_fingerprint()
    assert read_response(bytes(response), transaction) == source


def test_strangers_get_nothing_unless_somebody_wants_that() -> None:
    with pytest.raises(BadDatagram, match="not answered here"):
        StunResponder().answer(request(TRANSACTION), Endpoint("192.0.2.1", 5000), 0.0)


def test_a_bare_request_is_shorter_than_its_answer_and_gets_none() -> None:
    bare = b"\x00\x01\x00\x00" + stun.MAGIC + TRANSACTION
    with pytest.raises(BadDatagram, match="fewer than its answer"):
        answering().answer(bare, Endpoint("192.0.2.1", 5000), 0.0)


def test_one_source_is_answered_so_often_and_no_oftener() -> None:
    responder, question = answering(), request(TRANSACTION)
    answers = [responder.answer(question, Endpoint("192.0.2.1", port), 0.0) for port in range(1000, 1100)]
    assert sum(answer is not None for answer in answers) == SOURCE_BURST
    assert responder.answer(question, Endpoint("192.0.2.2", 1), 0.0) is not None


def test_a_response_or_an_indication_provokes_nothing() -> None:
    for kind in (0x0101, 0x0111, 0x0011):
        with pytest.raises(BadDatagram):
            answering().answer(stun._message(kind, TRANSACTION, b""), Endpoint("192.0.2.1", 5000), 0.0)


def test_only_the_answer_to_ones_own_question_counts() -> None:
    answer = answering().answer(request(TRANSACTION), Endpoint("192.0.2.1", 5000), 0.0)
    assert answer is not None
    with pytest.raises(BadDatagram, match="another question"):
        read_response(answer, bytes(12))
    with pytest.raises(BadDatagram, match="no response"):
        read_response(request(TRANSACTION), TRANSACTION)
    with pytest.raises(BadDatagram, match="without an address"):
        read_response(stun._message(0x0101, TRANSACTION, b""), TRANSACTION)


def test_an_old_server_s_plain_address_counts_too() -> None:
    body = bytes.fromhex("0001000800010d7dc0000201")
    assert read_response(stun._message(0x0101, TRANSACTION, body), TRANSACTION) == Endpoint("192.0.2.1", 3453)


@given(st.binary(max_size=1400))
@fuzzed()
def test_noise_is_refused(noise: bytes) -> None:
    for first in (b"", b"\x00\x01", b"\x00\x01\x00\x10" + stun.MAGIC):
        with suppress(BadDatagram):
            read_response(first + noise, TRANSACTION)
        with suppress(BadDatagram):
            answer = answering().answer(first + noise, Endpoint("192.0.2.1", 1), 0.0)
            assert answer is None or len(answer) <= len(first + noise)


def test_damaged_messages_are_read_or_refused_and_never_answered_at_length() -> None:
    seed = 20489
    rng = Random(seed)
    print(f"seed {seed}")
    for _ in range(5000):
        damaged = bytearray(rng.choice((SAMPLE_REQUEST, SAMPLE_RESPONSE4, SAMPLE_RESPONSE6, request(TRANSACTION))))
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        message = bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged) + 1)))])
        with suppress(BadDatagram):
            read_response(message, TRANSACTION)
        with suppress(BadDatagram):
            answer = answering().answer(message, Endpoint("2001:db8::1", 1), 0.0)
            assert answer is None or len(answer) <= len(message)


def test_captured_requests_of_other_programs_are_understood() -> None:
    for name in ("binding_request_ice_controlled.bin", "binding_request_ice_controlling.bin"):
        question = captured(name)
        answer = answering().answer(question, Endpoint("192.0.2.1", 5000), 0.0)
        assert answer is not None
        with pytest.raises(BadDatagram, match="error 420"):
            read_response(answer, question[8:20])


def test_a_captured_response_of_another_program_is_understood() -> None:
    response = captured("binding_response.bin")
    assert read_response(response, response[8:20]) == Endpoint("80.200.136.90", 53054)
