"""What iperf3 and ping say, as numbers; and the search for a rate that loses nothing. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sims.lab.namespace import LabError

REPLY = re.compile(r"\btime=([0-9.]+) ms")
# A rate counts as free of loss up to this: one packet of a thousand may fall to a processor that was elsewhere.
LOSS_ALLOWED = 0.001
BEHIND_ALLOWED = 0.05
# The search ends when the best rate without loss and the lowest with loss are this close, or after so many trials.
CLOSE_ENOUGH = 1.08
MOST_TRIALS = 12
# A sender that reaches less of the rate it was told than this can't do more.
SENDER_EXHAUSTED = 0.9


@dataclass(frozen=True, slots=True)
class Transfer:
    """One TCP measurement."""

    mbit_per_s: float
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Burst:
    """One UDP measurement."""

    sent_per_s: float
    received_per_s: float
    lost: float  # the fraction of packets

    @property
    def clean(self) -> bool:
        return self.lost <= LOSS_ALLOWED


def iperf_end(text: str) -> dict[str, dict[str, float]]:
    """The summary of `iperf3 -J`. Raises LabError with iperf3's own words when it failed."""
    try:
        report = json.loads(text)
        if "error" in report:
            raise LabError(f"iperf3: {report['error']}")
        end = report["end"]
    except (ValueError, KeyError, TypeError):
        raise LabError(f"iperf3 printed no report: {text.strip()[-200:]!r}") from None
    assert isinstance(end, dict)
    return end


def parse_tcp(text: str) -> Transfer:
    """Of `iperf3 -J`: what the receiver had, whichever end that was."""
    received = iperf_end(text)["sum_received"]
    return Transfer(received["bits_per_second"] / 1e6, int(received["bytes"]))


def parse_udp(text: str) -> Burst:
    """Of `iperf3 -u -J`."""
    end = iperf_end(text)
    sent, seen = end["sum_sent"], end["sum_received"]
    if not sent["packets"] or not seen["packets"]:
        raise LabError("iperf3 sent or received no packets")
    # The receiver counts the gaps up to the last packet it saw. It stops when the sender says so, and may miss what
    # comes after that word: harmless, unless it is much, and stood in some queue.
    behind = 1 - seen["packets"] / sent["packets"]
    lost = seen["lost_packets"] / seen["packets"]
    received = seen["packets"] - seen["lost_packets"]
    seconds = sent["seconds"]
    return Burst(sent["packets"] / seconds, received / seconds, lost if behind <= BEHIND_ALLOWED else max(lost, behind))


def parse_ping(text: str) -> list[float]:
    """The round trips, in ms, that ping printed a line for."""
    return [float(found) for found in REPLY.findall(text)]


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest of the values that is no less than this fraction of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def highest_clean_rate(trial: Callable[[float], Burst], start_per_s: float, lowest_per_s: float) -> float:
    """Packets per second received at the highest rate without loss; 0 when even the lowest rate loses.

    Doubles the rate until packets are lost, or halves it until none are, then halves the distance in between.
    """
    rate, clean, lossy = start_per_s, 0.0, math.inf
    for _ in range(MOST_TRIALS):
        burst = trial(rate)
        if burst.clean:
            clean = max(clean, burst.received_per_s)
            if burst.sent_per_s < SENDER_EXHAUSTED * rate:
                break
        else:
            lossy = min(lossy, rate, burst.sent_per_s)
        if clean and lossy / clean < CLOSE_ENOUGH:
            break
        if not clean and lossy <= lowest_per_s:
            break
        rate = clean * 2 if lossy == math.inf else math.sqrt(clean * lossy) if clean else lossy / 2
    return clean
