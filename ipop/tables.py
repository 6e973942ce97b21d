"""What the commands print for people, with rich. Loaded by commands only, never by a running node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import IO, Any, NamedTuple, cast

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ipop.wording import duration_text, path_text, size_text

STATE_STYLES = {"ready": "bold green", "joining": "yellow", "isolated": "bold red"}
PATH_STYLES = {"direct": "green", "proxy": "cyan", "overlay": "yellow"}
SHORT_ID_CHARS = 8
RENEW_WITHIN_S = 30 * 86_400.0
PIPE_WIDTH = 250
OVERLAY_MEANS = "overlay: over the ring, through other members, encrypted end to end"
SENTENCE_CHARS = 24  # the narrowest column in which one can still be read


def show_status(status: dict[str, Any], now: float) -> None:
    """What needs somebody's attention, the node, the ring, then the peers."""
    node, ring = status["node"], status["ring"]
    names = {peer["id"]: peer["name"] for peer in status["peers"]}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("node", Text(f"{node['name']}  {node['id'][:SHORT_ID_CHARS]}  of network {node['network']}"))
    grid.add_row("state", Text(node["state"], STATE_STYLES.get(node["state"], "")))
    grid.add_row("addresses", f"{'  '.join(node['addresses'])}  on {node['tap']}")
    if "mtu" in node:
        grid.add_row("MTU", f"{node['mtu']} bytes, on links of {node['underlay_mtu']}")
    for state in node.get("offloads", {}).get("fast path", ()):
        grid.add_row("fast path", Text(state))
    grid.add_row("up for", duration_text(node["uptime_s"]))
    size = ring["size_estimate"]
    grid.add_row("ring", f"about {size} node{'' if size == 1 else 's'}")
    for list_name in ("predecessors", "successors", "fingers"):
        shown = " ".join(names.get(node_id) or node_id[:SHORT_ID_CHARS] for node_id in ring[list_name])
        grid.add_row(list_name, Text(shown or "none"))
    console = make_console()
    for warning in _warnings(node, now):
        console.print(Text(f"! {warning}", "bold red"))
    console.print(grid)
    console.print()
    show_peers(status["peers"])


def _warnings(node: dict[str, Any], now: float) -> Iterator[str]:
    if node["alarm"]:
        yield node["alarm"]
    left_s = datetime.fromisoformat(node["expires"]).timestamp() - now
    if left_s < RENEW_WITHIN_S:
        ends = f"ends in {duration_text(left_s)}" if left_s > 0 else "has ended"
        yield (
            f"the certificate {ends} ({node['expires']}): renew it where the authority is, with"
            f" 'p2pvpn issue {node['name']} --ca {node['network']}.ca --out FILE', and start this node with it"
        )


def show_peers(peers: list[dict[str, Any]]) -> None:
    """One line a peer."""
    if not peers:
        make_console().print("no peers yet")
        return
    columns = (
        Column("NAME"),
        Column("ADDRESS", spare=1),
        Column("PATH"),
        Column("ENDPOINT", spare=4),
        Column("RTT", right=True),
        Column("SENT", right=True, spare=2),
        Column("RECEIVED", right=True, spare=3),
    )
    rows = [
        (
            peer["name"],
            next(iter(peer["addresses"]), "-"),
            path_cell(peer),
            peer["endpoint"] or "-",
            rtt_text(peer["rtt_ms"]),
            size_text(peer["tx_bytes"]),
            size_text(peer["rx_bytes"]),
        )
        for peer in peers
    ]
    print_columns(columns, rows)
    if any(peer["path"] == "overlay" for peer in peers):
        make_console().print(Text(f"\n{OVERLAY_MEANS}", "dim"))


class Column(NamedTuple):
    """A column of `print_columns`. `wraps`: it holds sentences. Where a terminal is too narrow, the columns with the
    greatest `spare` are left out; those with 0 never are."""

    title: str
    right: bool = False
    spare: int = 0
    wraps: bool = False


def print_columns(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> None:
    """One line a row, more where a sentence wraps, or a terminal is too narrow even for what can't be left out."""
    console = make_console()
    # Names and texts come from others: never markup.
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]

    def table_of(kept: Sequence[int], *, fits: bool, sentence_chars: int | None = None) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for index in kept:
            column = columns[index]
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                overflow="fold",
                no_wrap=fits and not column.wraps,
                max_width=sentence_chars if column.wraps else None,
            )
        for row in cells:
            table.add_row(*(row[index] for index in kept))
        return table

    def fits(kept: Sequence[int]) -> bool:
        options = console.options.update(width=PIPE_WIDTH)
        narrowest = table_of(kept, fits=True, sentence_chars=SENTENCE_CHARS)
        return Measurement.get(console, options, narrowest).maximum <= console.width

    kept = list(range(len(columns)))
    while not fits(kept) and any(columns[index].spare for index in kept):
        kept.remove(max(kept, key=lambda index: columns[index].spare))
    console.print(table_of(kept, fits=fits(kept)))


def rtt_text(rtt_ms: float | None) -> str:
    return "-" if rtt_ms is None else f"{rtt_ms:.1f} ms"


def path_cell(view: dict[str, Any]) -> Text:
    """A path by its name, in its colour."""
    return Text(path_text(view), PATH_STYLES.get(view["path"] or "", ""))


def make_console() -> Console:
    console = Console(highlight=False)
    # Into a pipe there is no width to keep to, and cut-off addresses help nobody.
    if console.is_terminal:
        return console
    return Console(highlight=False, width=PIPE_WIDTH, file=cast("IO[str]", _Unpadded(console.file)))


class _Unpadded:
    """A file that takes whole lines, and leaves out the blanks with which tables fill them up."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        return self._file.write(re.sub(" +(?=\n)", "", text))
