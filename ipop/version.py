"""Which version of the program this is."""

from __future__ import annotations

from importlib import metadata


def program_version() -> str:
    """As it was installed; empty where it was not."""
    try:
        return metadata.version("p2pvpn")
    except metadata.PackageNotFoundError:
        return ""
