"""What `groups` prints for people, with rich. Loaded by commands only."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from ipop.tables import Column, make_console, print_columns, rtt_text

STATE_STYLES = {"member": "green", "alone": "yellow", "expelled": "bold red"}
WAYS = {"quiet": "the network", "both": "network and ring", "ring": "its ring"}


def show_groups(answer: dict[str, Any]) -> None:
    """Groups, their members, then multicast."""
    console = make_console()
    if not answer["groups"]:
        console.print("in no group: 'p2pvpn group join NAME' joins one")
    for group in answer["groups"]:
        _show_group(group)
    multicast = answer["multicast"]
    if multicast is None:
        console.print("\nno multicast: this node was started with --no-multicast")
        return
    console.print()
    wanted = " ".join(multicast["wanted"]) or "none"
    console.print(Text(f"multicast groups wanted here: {wanted}"))
    console.print(f"whole network: {multicast['tx_per_s']:.1f} packets/s sent, {multicast['rx_per_s']:.1f} received")
    if multicast["busy"]:
        columns = (
            Column("BUSY GROUP"),
            Column("SENT BY"),
            Column("ON RING", right=True),
            Column("SUBSCRIBERS", right=True),
            Column("DEPTH", right=True),
            Column("SENT/S", right=True),
            Column("RECEIVED/S", right=True),
        )
        rows = [
            (
                busy["group"],
                WAYS[busy["sends_by"]] if busy["tx_per_s"] else "-",
                str(busy["members"]),
                str(busy["subscribers"]),
                _number(busy["depth"]),
                f"{busy['tx_per_s']:.1f}",
                f"{busy['rx_per_s']:.1f}",
            )
            for busy in multicast["busy"]
        ]
        print_columns(columns, rows)


def _show_group(group: dict[str, Any]) -> None:
    console = make_console()
    opened = "opened by a secret" if group["secret"] else "named in certificates"
    line = Text(f"{group['name']}: ")
    line.append(group["state"], STATE_STYLES.get(group["state"], ""))
    line.append(f", {opened}, epoch {group['epoch']}, {len(group['members'])} members, depth {_number(group['depth'])}")
    if group["missing"]:
        line.append(f", {group['missing']} parts of the ring silent", "yellow")
    if group["refused"]:
        line.append(f", {group['refused']} messages refused", "yellow")
    console.print(line)
    if group["members"]:
        columns = (Column("  MEMBER"), Column("HOPS", right=True), Column("PATH"), Column("RTT", right=True))
        rows = [
            (f"  {member['name']}", str(member["hops"]), member["path"] or "-", rtt_text(member["rtt_ms"]))
            for member in group["members"]
        ]
        print_columns(columns, rows)


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
