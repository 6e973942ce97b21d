"""Paths, times and sizes in words, for people. Pure, and free of anything slow to load."""

from __future__ import annotations

from typing import Any

SHOWN_CHARS = 64


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
