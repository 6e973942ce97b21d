"""The pure parts of `make bench`: what it reads from iperf3 and ping, its search for a rate, its table and ratios."""

from __future__ import annotations

import json

import pytest

from sims.lab.bench_parse import Burst, highest_clean_rate, parse_ping, parse_tcp, parse_udp, percentile
from sims.lab.bench_site import Wire
from sims.lab.bench_table import OPENVPN, P2PVPN, RAW, RELAYED, Sample, medians, ratios, table
from sims.lab.namespace import LabError

PING = """\
PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.
64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.270 ms
From 10.77.0.1 icmp_seq=2 Destination Host Unreachable
64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=12 ms

--- 10.77.0.2 ping statistics ---
3 packets transmitted, 2 received, +1 errors, 33% packet loss, time 20ms
rtt min/avg/max/mdev = 0.270/6.135/12.000/0.100 ms
"""


def udp_report(sent: int, seen: int, lost: int, seconds: float = 0.5) -> str:
    """As iperf3 3.12 prints it."""
    return json.dumps(
        {
            "end": {
                "sum": {"packets": sent, "lost_packets": lost, "seconds": seconds},
                "sum_sent": {"packets": sent, "lost_packets": 0, "seconds": seconds},
                "sum_received": {"packets": seen, "lost_packets": lost, "seconds": seconds + 0.01},
            }
        }
    )


def row(tcp: float, **more: float) -> Sample:
    return {"tcp1": tcp, "tcp1_back": tcp, "tcp4": tcp, "tcp4_back": tcp, "bulk_rtt_p99_ms": 4.0, **more}


def test_ping_gives_its_replies_and_not_its_statistics() -> None:
    assert parse_ping(PING) == [0.270, 12.0]


def test_tcp_counts_what_was_received() -> None:
    end = {
        "sum_sent": {"bits_per_second": 9e6, "bytes": 9000},
        "sum_received": {"bits_per_second": 8e6, "bytes": 8000},
    }
    transfer = parse_tcp(json.dumps({"end": end}))
    assert (transfer.mbit_per_s, transfer.received_bytes) == (8.0, 8000)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"end": {}, "error": "unable to connect"}', "unable to connect"),
        ("iperf3: error", "no report"),
        ("", "no report"),
        ("[]", "no report"),
    ],
)
def test_a_failed_iperf3_is_no_measurement(text: str, words: str) -> None:
    with pytest.raises(LabError, match=words):
        parse_tcp(text)


def test_udp_packets_that_came_after_the_end_are_not_lost() -> None:
    burst = parse_udp(udp_report(sent=4000, seen=3997, lost=0))
    assert burst.clean
    assert (burst.sent_per_s, burst.received_per_s) == (8000, 7994)


def test_udp_packets_missing_in_the_middle_are_lost() -> None:
    assert not parse_udp(udp_report(sent=4000, seen=4000, lost=5)).clean


def test_udp_packets_that_stand_in_a_queue_at_the_end_are_lost() -> None:
    assert not parse_udp(udp_report(sent=4000, seen=3000, lost=0)).clean


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, fraction) for fraction in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize("capacity", [300.0, 7_900.0, 8_000.0, 55_000.0, 700_000.0])
def test_the_search_finds_the_rate_that_loses_nothing(capacity: float) -> None:
    def trial(rate: float) -> Burst:
        return Burst(rate, min(rate, capacity), max(0.0, 1 - capacity / rate))

    found = highest_clean_rate(trial, start_per_s=8000, lowest_per_s=250)
    assert capacity / 1.1 <= found <= capacity * 1.002


def test_the_search_ends_with_what_the_sender_can_do() -> None:
    asked = []

    def trial(rate: float) -> Burst:
        asked.append(rate)
        return Burst(min(rate, 20_000), min(rate, 20_000), 0.0)

    assert highest_clean_rate(trial, start_per_s=8000, lowest_per_s=250) == 20_000
    assert asked == [8000, 16_000, 32_000]


def test_the_search_gives_up_where_every_rate_loses() -> None:
    assert highest_clean_rate(lambda rate: Burst(rate, rate / 2, 0.5), start_per_s=8000, lowest_per_s=250) == 0


def test_medians_are_taken_metric_by_metric() -> None:
    samples: list[Sample] = [{"tcp1": 1, "rtt_ms": 9}, {"tcp1": 5, "rtt_ms": 3}, {"tcp1": 3}]
    assert medians(samples) == {"tcp1": 3, "rtt_ms": 6}


def test_the_table_has_a_line_for_each_system_and_a_dash_for_what_it_lacks() -> None:
    lines = table({RAW: {"tcp1": 10_290.4}, P2PVPN: {"tcp1": 686.2, "udp64": 39_260, "rtt_ms": 0.6651}}).splitlines()
    assert len(lines) == 4
    assert lines[2].split() == ["raw", "veth", "10290", *["-"] * 12]
    assert lines[3].split() == ["p2pvpn", "686", "-", "-", "-", "39.3", "-", "0.665", *["-"] * 6]
    assert (
        len({line.index(number) + len(number) for line, number in zip(lines[2:], ("10290", "686"), strict=True)}) == 1
    )


def test_ratios_compare_with_openvpn_the_next_fastest_and_the_direct_path() -> None:
    rows = {
        RAW: row(10_000),
        P2PVPN: row(1000, cpu_s_per_gb=5, rtt_ms=0.3, udp64=30, udp1200=20),
        RELAYED: row(600),
        OPENVPN: row(200, cpu_s_per_gb=20, rtt_ms=0.3, udp64=20, udp1200=40),
        "tinc": row(500),
    }
    found = {ratio.what: (ratio.value, ratio.met) for ratio in ratios(rows, plain_wire=True)}
    assert found == {
        "TCP 1 / OpenVPN": (5, True),
        "CPU s/GB / OpenVPN": (0.25, True),
        "RTT idle / OpenVPN": (1, True),
        "UDP 64 / OpenVPN": (1.5, True),
        "UDP 1200 / OpenVPN": (0.5, False),
        "TCP 1 / tinc, the next fastest": (2, True),
        "RTT p99 in bulk": (4, True),
        "TCP 1 via relay / direct": (0.6, False),
    }


def test_on_a_bad_wire_openvpn_is_to_be_reached() -> None:
    found = ratios({P2PVPN: row(90), OPENVPN: row(100)}, plain_wire=False)
    assert [(ratio.what, ratio.met) for ratio in found] == [("TCP 1 / OpenVPN", False), ("TCP 4 / OpenVPN", False)]
    assert str(found[0]) == "TCP 1 / OpenVPN: 0.90 (goal: at least 1) MISSED"


@pytest.mark.parametrize("names", [(), (RAW, OPENVPN), (P2PVPN,)])
def test_no_ratio_needs_a_system_that_was_not_measured(names: tuple[str, ...]) -> None:
    found = ratios({name: row(100) for name in names}, plain_wire=True)
    assert [ratio.what for ratio in found] == (["RTT p99 in bulk"] if P2PVPN in names else [])


@pytest.mark.parametrize(
    "wire, text",
    [
        (Wire(), "no loss, no delay"),
        (Wire(loss_percent=1), "1 % loss each way"),
        (Wire(loss_percent=0.5, delay_ms=20), "0.5 % loss and 20 ms delay each way"),
    ],
)
def test_a_wire_says_what_it_does(wire: Wire, text: str) -> None:
    assert str(wire) == text
