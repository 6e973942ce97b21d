"""What `p2pvpn crawl` prints for people. Loaded by commands only, never by a running node."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from ipop.tables import SHORT_ID_CHARS, Column, make_console, print_columns


def show_crawl(crawl: dict[str, Any]) -> None:
    """The nodes in the order of their ids, then what is missing, then what it came to."""
    names = {node["id"]: node["name"] for node in crawl["nodes"]}

    def named(ids: list[str]) -> str:
        return names.get(ids[0], ids[0][:SHORT_ID_CHARS]) if ids else "-"

    columns = (
        Column("ID"),
        Column("NAME"),
        Column("SUCCESSOR"),
        Column("PREDECESSOR", spare=1),
        Column("FINGERS", right=True, spare=2),
        Column("EDGES", right=True, spare=3),
        Column("COORDINATE", right=True, spare=5),
        Column("VERSION", spare=4),
    )
    rows = [
        (
            node["id"][:SHORT_ID_CHARS],
            node["name"],
            named(node["successors"]),
            named(node["predecessors"]),
            str(len(node["fingers"])),
            str(node["edges"]),
            _coordinate_text(node["coordinate"]),
            node["version"] or "-",
        )
        for node in crawl["nodes"]
    ]
    print_columns(columns, rows)
    console = make_console()
    if crawl["missing"]:
        console.print()
    for hole in crawl["missing"]:
        console.print(Text(f"! {_hole_text(hole)}", "bold red"))
    console.print(Text(f"\n{summary(crawl)}"))


def summary(crawl: dict[str, Any]) -> str:
    """A crawl in a line."""
    count = len(crawl["nodes"])
    how = "one after the other" if crawl["sequential"] else "by tree"
    whole = "complete" if crawl["complete"] else "incomplete"
    return (
        f"{count} node{'' if count == 1 else 's'} seen {how} in {crawl['took_s']:.1f} s, {whole};"
        f" consistency {crawl['consistency']:.3f}"
    )


def _coordinate_text(coordinate: dict[str, Any] | None) -> str:
    if coordinate is None:
        return "-"
    return f"({coordinate['x_ms']:.0f}, {coordinate['y_ms']:.0f}) + {coordinate['height_ms']:.0f} ms"


def _hole_text(hole: dict[str, Any]) -> str:
    part = f"{hole['from'][:SHORT_ID_CHARS]} to {hole['to'][:SHORT_ID_CHARS]}"
    if hole["id"] is None:
        return f"nobody was reached of the nodes from {part}"
    if hole["alone"]:
        return f"{hole['id'][:SHORT_ID_CHARS]} did not answer: {hole['reason']}"
    return f"{hole['id'][:SHORT_ID_CHARS]} did not answer: {hole['reason']}; nodes from {part} may be missing with it"
