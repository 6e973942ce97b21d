"""What gateways are asked and answer: examples from the RFCs, round trips, and nonsense."""

from __future__ import annotations

import sys
from contextlib import suppress
from ipaddress import IPv4Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.host import Endpoint
from shortcuts.gateway import default_gateway
from shortcuts.portmap_wire import (
    MAX_LIFETIME_S,
    PCP_VERSION,
    PMP_VERSION,
    PcpAnnouncement,
    PcpMapping,
    PmpAddress,
    PmpMapping,
    Refusal,
    ask_pcp_mapping,
    ask_pmp_address,
    ask_pmp_mapping,
    can_be_public,
    lost_state,
    read,
)
from shortcuts.upnp_wire import (
    MAX_REPORT_BYTES,
    UpnpMapping,
    UpnpRequest,
    check_url,
    read_location,
    read_report,
    report,
    search,
)
from tests.fuzzing import fuzzed

NONCE = bytes(range(12))
GATEWAY = "192.168.7.1"
PCP_MAPPED = bytes.fromhex(
    "02810000 00000e10 00000005 000000000000000000000000"
    "000102030405060708090a0b 11000000 1ba5 1ba6 00000000000000000000ffff0b000001"
)


def test_questions_have_the_layout_of_the_rfcs() -> None:
    assert ask_pmp_address() == b"\0\0"
    assert ask_pmp_mapping(7077, 7078, 3600) == bytes.fromhex("0001 0000 1ba5 1ba6 00000e10")
    assert ask_pmp_mapping(7077, 7078, 0) == bytes.fromhex("0001 0000 1ba5 0000 00000000"), "RFC 6886, section 3.4"
    asked = ask_pcp_mapping("192.168.7.2", NONCE, 7077, Endpoint("11.0.0.1", 7078), 3600)
    assert asked == bytes.fromhex(
        "02010000 00000e10 00000000000000000000ffffc0a80702"
        "000102030405060708090a0b 11000000 1ba5 1ba6 00000000000000000000ffff0b000001"
    )
    deleting = ask_pcp_mapping("192.168.7.2", NONCE, 7077, Endpoint("11.0.0.1", 7078), 0)
    assert deleting[4:8] == bytes(4)
    assert deleting[42:] == bytes.fromhex("0000 00000000000000000000ffff00000000")


def test_answers_are_read() -> None:
    assert read(bytes.fromhex("0080 0000 00000005 0b000001")) == PmpAddress(5, "11.0.0.1")
    assert read(bytes.fromhex("0081 0000 00000005 1ba5 1ba6 00000e10")) == PmpMapping(5, 7077, 7078, 3600)
    assert read(PCP_MAPPED) == PcpMapping(5, NONCE, 7077, Endpoint("11.0.0.1", 7078), 3600)
    assert read(bytes.fromhex("02800000 00000000 00000007 000000000000000000000000")) == PcpAnnouncement(7)


def test_a_refusal_says_why_and_in_which_protocol() -> None:
    assert read(bytes.fromhex("0081 0002 00000005 1ba5 1ba6 00000000")) == Refusal(PMP_VERSION, 2, "not authorized")
    assert read(bytes.fromhex("0081 0001 00000005")) == Refusal(PMP_VERSION, 1, "unsupported version")
    refused = PCP_MAPPED[:3] + b"\x08" + PCP_MAPPED[4:]
    assert read(refused) == Refusal(PCP_VERSION, 8, "no resources")
    assert read(PCP_MAPPED[:3] + b"\xfe" + PCP_MAPPED[4:]) == Refusal(PCP_VERSION, 254, "result 254")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\0\x80\0",
        ask_pmp_address(),
        ask_pmp_mapping(1, 1, 1),
        bytes.fromhex("0081 0000 00000005 1ba5 0000 00000e10"),
        bytes.fromhex("0081 0000 00000005 1ba5 1ba6 00000e"),
        bytes.fromhex("0082 0000 00000005 1ba5 1ba6 00000e10"),
        PCP_MAPPED[:-1],
        PCP_MAPPED[:-4],
        PCP_MAPPED[:36] + b"\x06" + PCP_MAPPED[37:],
        PCP_MAPPED[:42] + b"\0\0" + PCP_MAPPED[44:],
        PCP_MAPPED[:44] + b"\x20" + PCP_MAPPED[45:],
        PCP_MAPPED + bytes(1100),
    ],
)
def test_nonsense_is_refused(damaged: bytes) -> None:
    with pytest.raises(BadDatagram):
        read(damaged)


@given(st.binary(max_size=1200))
@fuzzed()
def test_noise_is_read_or_refused(noise: bytes) -> None:
    for start in (b"", b"\0\x80\0\0", b"\0\x81\0\0", PCP_MAPPED[:4], PCP_MAPPED[:24]):
        with suppress(BadDatagram):
            answer = read(start + noise)
            if isinstance(answer, PmpMapping | PcpMapping):
                assert 0 <= answer.lifetime_s <= MAX_LIFETIME_S


@pytest.mark.parametrize(
    ("before_s", "after_s", "elapsed_s", "lost"),
    [
        (1000, 1300, 300.0, False),
        (1000, 1301, 300.0, False),
        (1000, 1281, 300.0, False),  # a clock that is a sixteenth slow
        (1000, 1000, 0.1, False),
        (1000, 5, 300.0, True),
        (1000, 998, 0.1, True),
        (10, 12, 300.0, True),
        (1000, 2000, 300.0, True),
    ],
)
def test_an_epoch_tells_whether_the_gateway_forgot(before_s: int, after_s: int, elapsed_s: float, lost: bool) -> None:
    assert lost_state(before_s, after_s, elapsed_s) is lost


def test_private_and_carriers_addresses_cannot_be_public() -> None:
    for address in ("10.1.2.3", "100.64.0.2", "100.127.255.255", "172.31.0.1", "192.168.1.1", "169.254.1.1", "0.0.0.0"):
        assert not can_be_public(address)
    for address in ("11.0.0.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "203.0.113.1", "198.18.0.1"):
        assert can_be_public(address)


def routes(*lines: str) -> str:
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"
    return "\n".join((head, *lines))


def route(target: str, gateway: str, flags: int, metric: int, mask: str) -> str:
    def number(address: str) -> str:
        return f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}"

    return "\t".join(
        ("eth0", number(target), number(gateway), f"{flags:04X}", "0", "0", str(metric), number(mask), "0", "0", "0")
    )


def test_the_gateway_is_that_of_the_best_default_route() -> None:
    lan = route("192.168.7.0", "0.0.0.0", 1, 0, "255.255.255.0")
    half = route("0.0.0.0", "10.8.0.1", 3, 0, "128.0.0.0")
    worse = route("0.0.0.0", "192.168.7.3", 3, 600, "0.0.0.0")
    best = route("0.0.0.0", GATEWAY, 3, 100, "0.0.0.0")
    assert default_gateway(routes(half, worse, best, lan)) == IPv4Address(GATEWAY)
    assert default_gateway(routes(lan)) == "no IPv4 default route"
    assert default_gateway(routes(route("0.0.0.0", "0.0.0.0", 1, 0, "0.0.0.0"))) == (
        "the IPv4 default route has no gateway"
    )
    assert default_gateway(routes("nonsense", "", "a b c d e f g h")) == "no IPv4 default route"


def test_a_description_is_fetched_from_the_gateway_alone() -> None:
    found = b"HTTP/1.1 200 OK\r\nST: x\r\nLocation: http://192.168.7.1:5555/rootDesc.xml\r\n\r\n"
    assert read_location(found, GATEWAY) == "http://192.168.7.1:5555/rootDesc.xml"
    for elsewhere in (
        b"http://192.168.7.9:5555/rootDesc.xml",
        b"http://192.168.7.1.evil.example/",
        b"http://192.168.7.1@evil.example/",
        b"https://192.168.7.1/",
        b"file:///etc/passwd",
        b"http://192.168.7.1:99999/",
        b"http://192.168.7.1:0/",
        b"http://192.168.7.1:5555/" + b"x" * 300,
        b"http://localhost/",
    ):
        with pytest.raises(BadDatagram):
            read_location(found.replace(b"http://192.168.7.1:5555/rootDesc.xml", elsewhere), GATEWAY)
    with pytest.raises(BadDatagram):
        read_location(search("x"), GATEWAY)
    with pytest.raises(BadDatagram):
        check_url("http://192.168.7.1:80/ two", GATEWAY)


@given(st.binary(max_size=3000))
@fuzzed()
def test_noise_in_answers_to_a_search_is_refused(noise: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.7.1"):
        with suppress(BadDatagram):
            assert read_location(start + noise, GATEWAY).startswith(f"http://{GATEWAY}")


def test_a_report_says_what_was_reported() -> None:
    for result in (UpnpMapping("11.0.0.1", 7077, 3600), "refused: Invalid Args"):
        assert read_report(report(result)) == result
    request = UpnpRequest(GATEWAY, "192.168.7.2", 7077, 7078, 3600)
    assert UpnpRequest.from_text(request.to_text()) == request


def test_a_report_that_says_nothing_is_refused() -> None:
    seed = 6887
    rng = Random(seed)
    print(f"seed {seed}")
    good = report(UpnpMapping("11.0.0.1", 7077, 3600))
    wrong = [
        b"",
        b"[]",
        b"[" * MAX_REPORT_BYTES,
        b'{"failed": 5}',
        b'{"failed": "\\u001b[2J"}',
        good.replace(b"7077", b"true"),
        good.replace(b"7077", b"0"),
        good.replace(b"7077", b"65536"),
        good.replace(b"11.0.0.1", b"fe80::1"),
        good.replace(b"11.0.0.1", b"evil.example"),
        good.replace(b"3600", b"-1"),
        good.replace(b"3600", b"1e9"),
    ]
    for line in wrong:
        with pytest.raises(BadDatagram):
            read_report(line)
    for _ in range(2000):
        damaged = bytearray(good)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(BadDatagram):
            read_report(bytes(damaged))
