"""Paths, times and sizes in words, for people. Pure, and free of anything slow to load."""

from __future__ import annotations

from typing import Any

SHOWN_CHARS = 64

# RFC 4787's terms, with what they mean for others.
MAPPING_WORDS = {
    None: "whether addresses are translated is not known yet",
    "none": "addresses are not translated",
    "endpoint-independent": "one outside port for all peers (endpoint-independent mapping)",
    "address-dependent": "symmetric: another outside port for every address (address-dependent mapping)",
    "address-and-port-dependent": "symmetric: another outside port for every peer (address and port-dependent mapping)",
}
FILTERING_WORDS = {
    "none": "everybody gets in",
    "endpoint-independent": "everybody gets in (endpoint-independent filtering)",
    "address-dependent": "only addresses that were sent to get in (address-dependent filtering)",
    "address-and-port-dependent": "only ports that were sent to get in (address and port-dependent filtering)",
}


def shown(text: str, limit: int = SHOWN_CHARS) -> str:
    """What somebody typed, fit for one line of a terminal: no control characters, and cut where it is long."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(character if character.isprintable() else "?" for character in cut)


def path_text(view: dict[str, Any]) -> str:
    """A path by its full name: direct, proxy(via X) or overlay(n hops). Never just "relayed"."""
    match view["path"]:
        case "direct":
            return "direct"
        case "proxy":
            return f"proxy(via {view['via']})"
        case "overlay" if view["hops"] is not None:
            return f"overlay({view['hops']} hop{'' if view['hops'] == 1 else 's'})"
        case "overlay":
            return "overlay"
        case _:
            return "no path"


def route_text(view: dict[str, Any]) -> str:
    """The same with the place it leads by: `direct 192.0.2.1:7000`, `proxy X`, `overlay (3 hops)`."""
    match view["path"]:
        case "direct" if view.get("endpoint"):
            return f"direct {view['endpoint']}"
        case "proxy":
            return f"proxy {view['via']}"
        case _:
            return path_text(view).replace("(", " (")


def nat_text(nat: dict[str, Any]) -> str:
    """What a NAT does, for people, a line each: how it maps, known or not; of the rest what is known."""
    words = [MAPPING_WORDS.get(nat["mapping"], nat["mapping"])]
    if nat["mapping"] is None and nat.get("translated"):
        symmetric = ", which is likely, as port numbers change" if nat["preserves_ports"] is False else ""
        words = [
            "addresses are translated; only one member could tell so far: a second one, elsewhere, would show whether"
            f" every peer sees another port (symmetric{symmetric})"
        ]
    if nat["filtering"] is not None:
        words.append(FILTERING_WORDS.get(nat["filtering"], nat["filtering"]))
    if nat["mapping"] != "none":
        words += {True: ["port numbers stay the same"], False: ["port numbers change"]}.get(nat["preserves_ports"], [])
        words += {
            True: ["its hosts reach each other by their outside address (hairpinning)"],
            False: ["its hosts don't reach each other by their outside address (no hairpinning)"],
        }.get(nat["hairpins"], [])
    return "\n".join(words)


def duration_text(seconds: float) -> str:
    """The two largest units: `3 d 4 h`, `5 min 6 s`."""
    whole = int(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for unit, size_s in units:
        count, whole = divmod(whole, size_s)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def size_text(size_bytes: int) -> str:
    """Decimal units, as network tools count: `999 B`, `1.2 kB`, `3.4 GB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
