"""The table of `make bench` and the ratios under it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

RAW, P2PVPN, RELAYED, OPENVPN = "raw veth", "p2pvpn", "p2pvpn via relay", "openvpn"

Sample = dict[str, float]  # What was measured of a system once, by the keys of METRICS.


@dataclass(frozen=True, slots=True)
class Metric:
    """One column."""

    key: str
    heading: tuple[str, str]
    decimals: int = 0
    scale: float = 1.0


METRICS = (
    Metric("tcp1", ("TCP 1", "->Mb/s")),
    Metric("tcp1_back", ("", "<-Mb/s")),
    Metric("tcp4", ("TCP 4", "->Mb/s")),
    Metric("tcp4_back", ("", "<-Mb/s")),
    Metric("udp64", ("UDP 64", "kpkt/s"), 1, 1e-3),
    Metric("udp1200", ("UDP1200", "kpkt/s"), 1, 1e-3),
    Metric("rtt_ms", ("RTT", "ms"), 3),
    Metric("rtt_p99_ms", ("", "p99"), 3),
    Metric("bulk_rtt_ms", ("in bulk", "ms"), 2),
    Metric("bulk_rtt_p99_ms", ("", "p99"), 2),
    Metric("cpu_s_per_gb", ("CPU", "s/GB"), 2),
    Metric("rss_mb", ("RSS", "MB"), 1),
    Metric("start_s", ("start", "s"), 2),
)


def medians(samples: Sequence[Sample]) -> Sample:
    """Of every metric over the samples that have it."""
    keys = {key: None for sample in samples for key in sample}
    return {key: median(sample[key] for sample in samples if key in sample) for key in keys}


def table(rows: Mapping[str, Sample]) -> str:
    """One line for each system, one column for each metric; `-` for what was not measured."""
    cells = [["system", *(metric.heading[0] for metric in METRICS)], ["", *(metric.heading[1] for metric in METRICS)]]
    for name, row in rows.items():
        cells.append([name, *(cell(metric, row.get(metric.key)) for metric in METRICS)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]).rstrip() for line in cells
    )


def cell(metric: Metric, value: float | None) -> str:
    return "-" if value is None else f"{value * metric.scale:.{metric.decimals}f}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """What p2pvpn has for every one of something else, and what it should."""

    what: str
    value: float
    goal: float
    at_least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "MISSED"
        return f"{self.what}: {self.value:.2f}{self.unit} (goal: {bound} {self.goal:g}{self.unit}) {verdict}"


def both_ways(row: Sample, key: str = "tcp1") -> float:
    """TCP throughput, the mean of the two directions."""
    return (row[key] + row[f"{key}_back"]) / 2


def ratios(rows: Mapping[str, Sample], *, plain_wire: bool) -> list[Ratio]:
    """The project's goals (issue 3) that these rows can tell about."""
    ours, openvpn = rows.get(P2PVPN), rows.get(OPENVPN)
    if ours is None:
        return []
    others = {name: row for name, row in rows.items() if name not in (RAW, P2PVPN, RELAYED)}
    found: list[Ratio] = []
    if openvpn is not None:
        found += against_openvpn(ours, openvpn, plain_wire=plain_wire)
    if others and plain_wire:
        fastest = max(others, key=lambda name: both_ways(others[name]))
        found.append(Ratio(f"TCP 1 / {fastest}, the next fastest", both_ways(ours) / both_ways(others[fastest]), 1.5))
    if plain_wire:
        found.append(Ratio("RTT p99 in bulk", ours["bulk_rtt_p99_ms"], 5, at_least=False, unit=" ms"))
        if relayed := rows.get(RELAYED):
            found.append(Ratio("TCP 1 via relay / direct", both_ways(relayed) / both_ways(ours), 0.7))
    return found


def against_openvpn(ours: Sample, openvpn: Sample, *, plain_wire: bool) -> Iterable[Ratio]:
    yield Ratio("TCP 1 / OpenVPN", both_ways(ours) / both_ways(openvpn), 5 if plain_wire else 1)
    if not plain_wire:
        yield Ratio("TCP 4 / OpenVPN", both_ways(ours, "tcp4") / both_ways(openvpn, "tcp4"), 1)
        return
    goals: dict[str, tuple[str, float, bool]] = {
        "cpu_s_per_gb": ("CPU s/GB / OpenVPN", 0.25, False),
        "rtt_ms": ("RTT idle / OpenVPN", 1.5, False),
        "udp64": ("UDP 64 / OpenVPN", 1, True),
        "udp1200": ("UDP 1200 / OpenVPN", 1, True),
    }
    for key, (what, goal, at_least) in goals.items():
        if openvpn.get(key) and key in ours:
            yield Ratio(what, ours[key] / openvpn[key], goal, at_least)
