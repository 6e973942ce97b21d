"""What `p2pvpn-lab` prints for people †, with rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200
PATH_STYLES = {"direct": "green", "proxy": "cyan", "overlay": "yellow", "none": "bold red"}
PATH_LETTERS = {"direct": "D", "proxy": "P", "overlay": "o", "none": "-"}
SHORT = {
    "endpoint-independent": "independent",
    "address-dependent": "address",
    "address-and-port-dependent": "address and port",
}


def console() -> Console:
    """As wide as the terminal; wide enough for any table where there is none."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def show_hosts(rows: Sequence[dict[str, Any]]) -> None:
    """Where every host is, and what is between it and the internet."""
    table = Table(box=None, pad_edge=False)
    for title in ("host", "site", "nat", "underlay", "outside", "virtual", "node", "wires from it outwards"):
        table.add_column(title, overflow="fold")
    for row in rows:
        firewall = "" if row["firewall"] == "open" else f", {row['firewall']} firewall"
        wires = [w["up"] if w["up"] == w["down"] else f"up {w['up']}; down {w['down']}" for w in row["wires"]]
        table.add_row(
            row["host"],
            row["site"],
            row["nat"] + firewall,
            f"{'  '.join(row['underlay'])}  UDP {row['port']}",
            row["outside"] or "",
            "  ".join(row["virtual"][:1]),
            Text(row["node"], {"runs": "green", "ended": "bold red"}.get(row["node"], "dim")),
            " | ".join(wires),
        )
    console().print(table)


def show_behaviours(found: dict[str, dict[str, Any] | None]) -> None:
    """What probes found on the hosts' way out."""
    table = Table(box=None, pad_edge=False)
    for title in ("host", "mapping depends on", "filtering depends on", "translated", "keeps port", "hairpins"):
        table.add_column(title)
    for name, nat in found.items():
        if nat is None:
            table.add_row(name, Text("no UDP passes", "bold red"))
            continue
        dependence = [SHORT[nat[field]].replace("independent", "nothing") for field in ("mapping", "filtering")]
        flags = ["yes" if nat[field] else "no" for field in ("translated", "keeps_port", "hairpins")]
        table.add_row(name, *dependence, *flags)
    console().print(table)


def show_paths(names: Sequence[str], paths: dict[tuple[str, str], str]) -> None:
    """How each host, a row, reaches each other, a column."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="center")
    for number, source in enumerate(names, 1):
        cells = [paths.get((source, target)) for target in names]
        marks = [Text(PATH_LETTERS[path], PATH_STYLES[path]) if path else Text("") for path in cells]
        table.add_row(f"{number} {source}", *marks)
    console().print(table)
