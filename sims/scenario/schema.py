"""The tables of a scenario that are not parts: their keys, defaults and ranges, as `sims.scenario.options` reads them.

Each class is one table of `sims.scenario.plan`'s preface; it only holds what was read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sims.link import LEAST_QUEUE_BYTES, AccessLink
from sims.scenario.measures import Reduce, Selection
from sims.scenario.options import option, share

MAX_NODES = 1_000_000
MAX_DURATION_S = 10 * 365.25 * 86_400.0
MAX_DELAY_MS = 600_000.0
LEAST_KBIT_PER_S, MAX_KBIT_PER_S = 0.1, 1e9
MAX_QUEUE_BYTES = 1 << 40
MAX_NAME = 61
NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_NAME - 1}}}")


def name_after(file: str) -> str:
    """A name for results, after the file's."""
    stem = file.rpartition("/")[2].removesuffix(".toml").lower()
    return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:MAX_NAME] or "scenario"


@dataclass(frozen=True, kw_only=True)
class General:
    """The keys at the top."""

    name: str = option("", "what results are called; '': after the file")
    description: str = option("", "one line for `p2pvpn-sim list`")
    nodes: int = option(meaning="how many nodes there are, up or not", at_least=1, at_most=MAX_NODES)
    duration_s: float = option(60.0, "how long is measured, after arrival", at_least=0.0, at_most=MAX_DURATION_S)
    drain_s: float = option(10.0, "how long answers are waited for after that", at_least=0.0, at_most=MAX_DURATION_S)


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """The access link of a share of all nodes: what a line is like, each way."""

    name: str = option("", "what sweeps and --set call it: network.access.NAME.loss")
    share: float = option(meaning="of all nodes, drawn at random; exactly so many", at_least=0.0, at_most=1.0)
    up_kbit_per_s: float | None = option(
        None, "what it sends; no limit else", at_least=LEAST_KBIT_PER_S, at_most=MAX_KBIT_PER_S
    )
    down_kbit_per_s: float | None = option(
        None, "what it receives; no limit else", at_least=LEAST_KBIT_PER_S, at_most=MAX_KBIT_PER_S
    )
    queue_bytes: int = option(
        64 * 1024, "how much may wait at each end of it", at_least=LEAST_QUEUE_BYTES, at_most=MAX_QUEUE_BYTES
    )
    loss: float = option(0.0, "share of datagrams that it loses, each way", at_least=0.0, at_most=1.0)
    jitter_ms: float = option(0.0, "each datagram is later by up to this, each way", at_least=0.0, at_most=MAX_DELAY_MS)

    @property
    def link(self) -> AccessLink:
        """The link itself."""
        up, down = (each and each * 1000.0 for each in (self.up_kbit_per_s, self.down_kbit_per_s))
        return AccessLink(up, down, self.queue_bytes, self.loss, self.jitter_ms / 1000.0)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What befalls datagrams."""

    loss: float = share(0.0, "share of datagrams that are lost")
    duplicate: float = share(0.0, "share of datagrams that arrive twice")
    jitter_ms: float = option(0.0, "each datagram's delay is longer by up to this", at_least=0.0, at_most=MAX_DELAY_MS)
    broken_links: float = share(0.0, "share of all pairs of nodes between which nothing passes")
    up_kbit_per_s: float | None = option(
        None, "what each node's access link sends; no limit else", at_least=LEAST_KBIT_PER_S, at_most=MAX_KBIT_PER_S
    )
    down_kbit_per_s: float | None = option(
        None, "what it receives; no limit else", at_least=LEAST_KBIT_PER_S, at_most=MAX_KBIT_PER_S
    )
    queue_bytes: int = option(
        64 * 1024, "how much may wait at each end of it", at_least=LEAST_QUEUE_BYTES, at_most=MAX_QUEUE_BYTES
    )

    access: tuple[AccessOptions, ...] = option((), "links of shares of the nodes; the others have the above")

    def flaw(self) -> tuple[str, str] | None:
        total = sum(each.share for each in self.access)
        return ("access", f"the shares add up to {total:g}, more than 1") if total > 1 + 1e-9 else None

    @property
    def access_link(self) -> AccessLink | None:
        """That of every node without another, None without a limit."""
        up, down = (each and each * 1000.0 for each in (self.up_kbit_per_s, self.down_kbit_per_s))
        return None if up is None and down is None else AccessLink(up, down, self.queue_bytes)


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What every node runs."""

    kind: str = option("ring", "the ring alone, or whole VPN nodes with TAPs in memory", choices=("ring", "vpn"))
    crypto: str = option(
        "noise",
        "the real cryptography, or none, in messages of the same sizes: faster, and the same run but for forgers",
        choices=("noise", "plain"),
    )
    aes: bool = option(False, "whether nodes say that they have AES in hardware")
    routing: str = option("", "another routing policy: 'package.module:function', see examples/sim_routing.py")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """One number per seed and point."""

    name: str = option(meaning="what it is called")
    rows: str = option(meaning="kind of the rows that count")
    value: str = option("", "which of their values; not needed to count")
    reduce: Reduce = option(Reduce.MEAN, "how the rows of one seed become one number")
    where: dict[str, Any] = option(None, "only rows with these values")

    def flaw(self) -> tuple[str, str] | None:
        if not self.value and self.reduce is not Reduce.COUNT:
            return "value", f"this is missing: what is to be reduced to its {self.reduce}"
        return None

    @property
    def selection(self) -> Selection:
        return Selection(self.rows, self.value, self.reduce, self.where or {})


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published figure, to be drawn beside ours."""

    label: str = option(meaning="what the legend says")
    source: str = option(meaning="who published it, where")
    points: tuple[tuple[float, float], ...] = option(meaning="[[x, y], ...]")


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """A figure: lines with confidence intervals, a distribution, or a table of measures."""

    name: str = option(meaning="the figure's file name, without ending")
    kind: str = option("line", "what is drawn", choices=("line", "cdf", "table"))
    title: str = option("", "above the figure")
    rows: str = option("", "kind of the rows that count (line, cdf)")
    x: str = option("", "value of a row, or swept key, along the x axis (line); along the rows (table)")
    x_step: float = option(0.0, "x is rounded down to multiples of this (line)", at_least=0.0)
    y: str = option("", "value of a row (line, cdf)")
    reduce: Reduce = option(Reduce.MEAN, "how a seed's rows at one x become one number (line)")
    by: str = option("", "value of a row, or swept key: one line for each (line, cdf)")
    where: dict[str, Any] = option(None, "only rows with these values (line, cdf)")
    measures: tuple[str, ...] = option((), "which measures (table)")
    x_label: str = option("", "what x is, with its unit")
    y_label: str = option("", "what y is, with its unit")
    log_x: bool = option(False, "logarithmic x axis")
    log_y: bool = option(False, "logarithmic y axis")
    reference: tuple[Reference, ...] = option((), "published figures")

    def flaw(self) -> tuple[str, str] | None:
        if not NAME.fullmatch(self.name):
            return "name", f"'{self.name}' can't be a file's name: use a-z, 0-9, - and _"
        needed = {"line": ("rows", "x"), "cdf": ("rows", "y"), "table": ("measures",)}[self.kind]
        for key in needed:
            if not getattr(self, key):
                return key, f"this is missing: a {self.kind} needs it"
        if self.kind == "line" and not self.y and self.reduce is not Reduce.COUNT:
            return "y", f"this is missing: what is to be reduced to its {self.reduce}"
        return None

    @property
    def selection(self) -> Selection:
        return Selection(self.rows, self.y, self.reduce, self.where or {})
