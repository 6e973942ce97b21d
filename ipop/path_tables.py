"""What `why`, `shortcuts`, `proxies` and `netcheck` print for people, with rich. Loaded by commands only."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from ipop.tables import OVERLAY_MEANS, PATH_STYLES, Column, make_console, path_cell, print_columns, rtt_text
from ipop.wording import duration_text, nat_text, route_text, size_text

CANDIDATE_WORDS = {
    "host": "own address",
    "server-reflexive": "as others see it",
    "peer-reflexive": "as this peer sees it",
    "mapped": "forwarded by the router",
    "predicted": "guess at the next port",
}
FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}


def show_why(why: dict[str, Any]) -> None:
    """The path in use and why it is not direct, then all that is known."""
    console = make_console()
    rtt_ms = why["rtt_ms"]
    within = "" if rtt_ms is None else f", {rtt_ms:.1f} ms"
    console.print(Text(f"{why['peer']}: {route_text(why)}{within}", PATH_STYLES.get(why["path"] or "", "")))
    if why["not_direct"] is None:
        console.print(Text(f"why: {why['reason']}"))
    else:
        console.print(Text(f"why not direct: {why['not_direct']}"))
        if why["advice"] is not None:
            console.print(Text(f"what would help: {why['advice']}"))
    grid = _grid()
    if why["not_direct"] is not None:
        grid.add_row("path chosen", Text(why["reason"]))
    if why["since_s"] is not None:
        grid.add_row("in use for", duration_text(why["since_s"]))
    if why["demand"] is not None:
        grid.add_row("demand", Text(why["demand"] + _score_text(why["score"])))
    if why["next_retry_s"] is not None:
        grid.add_row("next try", f"in {duration_text(why['next_retry_s'])}")
    for side, who, nats in (
        ("local", "this node", why["local_nat"]),
        ("remote", why["peer"], why["remote_nat"]),
    ):
        for family in _families_shown(side, nats, why["candidates"]):
            name = FAMILIES[family]
            if nats is not None:
                grid.add_row(Text(f"{name} NAT of {who}"), nat_text(nats[family]))
    if grid.row_count:
        console.print(grid)
    _show_paths(why["paths"])
    _show_attempts(why["attempts"])
    if why["candidates"]:
        console.print()
        rows = [
            (
                "this node" if candidate["side"] == "local" else why["peer"],
                candidate["endpoint"],
                CANDIDATE_WORDS.get(candidate["kind"], candidate["kind"]),
            )
            for candidate in why["candidates"]
        ]
        print_columns((Column("WHERE TO TRY"), Column("ENDPOINT"), Column("HOW IT IS KNOWN", spare=1)), rows)
    if any(path["path"] == "overlay" for path in (why, *why["paths"])):
        console.print(Text(f"\n{OVERLAY_MEANS}", "dim"))


def _score_text(score: float) -> str:
    return f" (score {score:.0f}: a packet adds 1, a second takes 2)" if score >= 0.5 else ""


def _families_shown(side: str, nats: dict[str, Any] | None, candidates: list[dict[str, Any]]) -> list[str]:
    """The families in which a NAT is worth a word: those in which something is known of it, else the only ones in which
    that end has an address."""
    if nats is None:
        return []
    known = [family for family in FAMILIES if any(value is not None for value in nats[family].values())]
    own = [each["endpoint"] for each in candidates if each["side"] == side and each["kind"] == "host"]
    if not own:
        return known
    of_family = {"ipv4": [each for each in own if each[0] != "["], "ipv6": [each for each in own if each[0] == "["]}
    return [family for family in known if of_family[family]] or [family for family in FAMILIES if of_family[family]]


def _show_paths(paths: list[dict[str, Any]]) -> None:
    if not paths:
        return
    make_console().print()
    rows = [
        (
            Text(("* " if path["in_use"] else "  ") + route_text({"hops": None, **path}), PATH_STYLES[path["path"]]),
            rtt_text(path["rtt_ms"]),
            "-" if path["path"] == "overlay" else _ago_text(path["proven_s_ago"]),
            str(path["failures"]),
        )
        for path in paths
    ]
    columns = (
        Column("  KNOWN PATHS (* in use)"),
        Column("RTT", right=True),
        Column("LAST WORKED", right=True),
        Column("MISSED SINCE", right=True, spare=1),
    )
    print_columns(columns, rows)


def _show_attempts(attempts: list[dict[str, Any]]) -> None:
    for attempt in attempts:
        make_console().print()
        make_console().print(Text(f"try {_ago_text(attempt['began_s_ago'])}: {attempt['outcome']}"))
        rows = [
            (
                f"  {trial['endpoint']}",
                CANDIDATE_WORDS.get(trial["kind"], trial["kind"]),
                trial["outcome"],
            )
            for trial in attempt["trials"]
        ]
        if rows:
            print_columns((Column("  TRIED"), Column("WHICH IS", spare=1), Column("OUTCOME", wraps=True)), rows)


def show_shortcuts(shortcuts: list[dict[str, Any]]) -> None:
    """One line a peer."""
    if not shortcuts:
        make_console().print("no shortcuts: they come with traffic, and go when it has ended for some minutes")
        return
    rows = [
        (
            each["peer"],
            path_cell(each),
            rtt_text(each["rtt_ms"]),
            f"{each['score']:.0f}",
            "-" if each["since_s"] is None else duration_text(each["since_s"]),
            "-" if each["next_retry_s"] is None else f"in {duration_text(each['next_retry_s'])}",
            each["reason"],
        )
        for each in shortcuts
    ]
    columns = (
        Column("PEER"),
        Column("PATH"),
        Column("RTT", right=True, spare=1),
        Column("SCORE", right=True, spare=2),
        Column("SINCE", right=True, spare=3),
        Column("NEXT TRY", right=True, spare=4),
        Column("REASON", wraps=True),
    )
    print_columns(columns, rows)


def show_proxies(proxies: dict[str, Any]) -> None:
    """Who relays for this node, then for whom it relays."""
    console = make_console()
    if proxies["used"]:
        columns = (
            Column("TO"),
            Column("THROUGH"),
            Column("RTT", right=True),
            Column("IN USE"),
            Column("LAST WORKED", right=True, spare=1),
        )
        rows = [
            (
                used["peer"],
                used["via"] or "-",
                rtt_text(used["rtt_ms"]),
                "yes" if used["in_use"] else "spare",
                _ago_text(used["proven_s_ago"]),
            )
            for used in proxies["used"]
        ]
        print_columns(columns, rows)
    else:
        console.print("nobody relays for this node")
    console.print()
    if proxies["carried"]:
        if proxies.get("limit_mbit") is not None:
            console.print(_relay_text(proxies))
        pairs = [(carried["one"], carried["other"], size_text(carried["bytes"])) for carried in proxies["carried"]]
        print_columns((Column("RELAYED FOR"), Column("AND"), Column("PASSED ON", right=True)), pairs)
    else:
        console.print(_relay_text(proxies))


def show_netcheck(check: dict[str, Any]) -> None:
    """What works, what the NAT does, and what follows from it."""
    console = make_console()
    grid = _grid()
    works = "works" if check["udp"] else "nobody has answered yet: is any other node up, or does a firewall stop UDP?"
    grid.add_row("UDP", Text(works, "green" if check["udp"] else "bold red"))
    for family, name in FAMILIES.items():
        _add_family(grid, name, check[family])
    if "stun" in check:
        for family, name in FAMILIES.items():
            if family in check["stun"]:
                grid.add_row(f"STUN over {name}", Text(_stun_text(check["stun"]["server"], check["stun"][family])))
    mapping = check["port_mapping"]
    forwarded = mapping["note"] if mapping["endpoint"] is None else f"{mapping['endpoint']} ({mapping['note']})"
    grid.add_row("forwarded port", Text(forwarded or "none"))
    grid.add_row("keepalive", f"every {check['keepalive_s']:g} s on idle paths, so that NATs don't forget them")
    grid.add_row("relaying", _relay_text(check["relay"]))
    for carried in check["relay"]["carried"]:
        grid.add_row("", Text(f"{carried['one']} and {carried['other']}: {size_text(carried['bytes'])}"))
    nearest = ", ".join(f"{peer['name']} {rtt_text(peer['rtt_ms'])}" for peer in check["nearest"])
    grid.add_row("nearest peers", Text(nearest or "none yet"))
    console.print(grid)


def _add_family(grid: Table, name: str, family: dict[str, Any]) -> None:
    if not family["local"]:
        grid.add_row(name, "this machine has no address for it")
        return
    grid.add_row(name, Text(" ".join(family["local"])))
    witnesses = family["witnesses"]
    seen = f"{witnesses} peer{'' if witnesses == 1 else 's'} told"
    if family["outside"] is not None:
        grid.add_row("", Text(f"seen from outside as {family['outside']} ({seen})"))
    elif witnesses:
        grid.add_row("", f"seen from outside at no one endpoint ({seen})")
    if witnesses or family["nat"]["mapping"] is not None:
        grid.add_row("", nat_text(family["nat"]))


def _stun_text(server: str, seen: str | None) -> str:
    if seen is None:
        return f"{server} does not answer: is it a STUN server, and may UDP leave this network?"
    return f"{server} sees this machine at {seen} (asked from a port of its own, not the node's)"


def _relay_text(relay: dict[str, Any]) -> str:
    if not relay["willing"]:
        return "this node does not relay for others (--no-proxy)"
    count = len(relay["carried"])
    limit = relay.get("limit_mbit")
    bound = "" if limit is None else f" at most {limit:g} Mbit/s"
    return f"this node relays{bound} for others: {count or 'no'} pair{'' if count == 1 else 's'} of members now"


def _ago_text(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration_text(seconds)} ago"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    return grid
