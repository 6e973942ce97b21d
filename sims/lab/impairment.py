"""What a wire does to frames beside carrying them: a value, shared by the wire and those who ask for one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

MAX_DELAY_MS = 60_000.0
UNITS = {"ms": "ms", "percent": "%", "mbit": "Mbit/s", "bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Impairment:
    """For one direction. Jitter is uniform within plus or minus, and keeps the order; what is reordered overtakes all
    that is underway. `rate_mbit` 0 is no limit, `blackhole_bytes` 0 no black hole: else an IP packet longer than that
    is lost in silence, as where ICMP is filtered. ARP is never lost: it is not what such a wire stands for."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    rate_mbit: float = 0.0
    blackhole_bytes: int = 0

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            most = 100.0 if name.endswith("_percent") else MAX_DELAY_MS if name.endswith("_ms") else math.inf
            if not math.isfinite(value) or not 0 <= value <= most:
                raise ValueError(f"{name} is {value:g}: it must be from 0{f' to {most:g}' if most < math.inf else ''}")
        if self.jitter_ms > self.delay_ms:
            raise ValueError(f"jitter_ms is {self.jitter_ms:g}, more than delay_ms: nothing arrives before it left")

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        figures = [(*name.split("_"), f"{value:g}") for name, value in self.as_dict().items() if value]
        return ", ".join(f"{what} {value} {UNITS[unit]}" for what, unit, value in figures) or "perfect"


KEYS = tuple(field.name for field in fields(Impairment))
