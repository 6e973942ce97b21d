"""What the commands print for people, with rich. Loaded by commands only, never by a running node."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipop.wording import duration_text, path_text, size_text

STATE_STYLES = {"ready": "bold green", "joining": "yellow", "isolated": "bold red"}
PATH_STYLES = {"direct": "green", "proxy": "cyan", "overlay": "yellow"}
SHORT_ID_CHARS = 8
RENEW_WITHIN_S = 30 * 86_400.0
PIPE_WIDTH = 250


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
    grid.add_row("up for", duration_text(node["uptime_s"]))
    size = ring["size_estimate"]
    grid.add_row("ring", f"about {size} node{'' if size == 1 else 's'}")
    for list_name in ("predecessors", "successors", "fingers"):
        shown = " ".join(names.get(node_id) or node_id[:SHORT_ID_CHARS] for node_id in ring[list_name])
        grid.add_row(list_name, Text(shown or "none"))
    console = _console()
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
        _console().print("no peers yet")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("NAME", "ADDRESS", "PATH", "ENDPOINT"):
        table.add_column(title, no_wrap=True)
    for title in ("RTT", "SENT", "RECEIVED"):
        table.add_column(title, justify="right", no_wrap=True)
    for peer in peers:
        rtt_ms = peer["rtt_ms"]
        table.add_row(
            Text(peer["name"]),
            next(iter(peer["addresses"]), "-"),
            Text(path_text(peer), PATH_STYLES.get(peer["path"], "")),
            peer["endpoint"] or "-",
            "-" if rtt_ms is None else f"{rtt_ms:.1f} ms",
            size_text(peer["tx_bytes"]),
            size_text(peer["rx_bytes"]),
        )
    _console().print(table)


def show_why(why: dict[str, Any]) -> None:
    """The path in use, and all that is known about others."""
    console = _console()
    console.print(Text(f"{why['peer']}: {path_text(why)}", PATH_STYLES.get(why["path"] or "", "")))
    console.print(Text(why["reason"]))
    known = {"local NAT": why["local_nat"], "remote NAT": why["remote_nat"], "next retry": why["next_retry_s"]}
    for title, value in known.items():
        if value is not None:
            console.print(Text(f"{title}: {value}"))
    for title in ("candidates", "attempts", "proxies"):
        for entry in why[title]:
            console.print(Text(f"{title}: {entry}"))


def _console() -> Console:
    console = Console(highlight=False)
    # Into a pipe there is no width to keep to, and cut-off addresses help nobody.
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)
