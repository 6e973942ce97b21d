"""What a person may choose about the search for paths, and about helping others with theirs. Plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShortcutsConfig:
    """`willing`: this node may relay for others; `proxy_bytes_per_s` bounds what it passes on, 0 meaning nothing bounds
    it. `portmap`: its router may be asked to forward a port. `lan`: it looks for members on its own link by multicast.
    """

    willing: bool = True
    proxy_bytes_per_s: float = 0.0
    portmap: bool = True
    lan: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.proxy_bytes_per_s < float("inf"):
            raise ValueError(f"{self.proxy_bytes_per_s} bytes a second are no bound")
