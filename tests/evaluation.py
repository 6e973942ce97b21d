"""Where evaluation data lies that is not ours to ship: a folder named by P2PVPN_DATA.

Tests that need a file of it skip where it is absent, and say which one they miss.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("P2PVPN_DATA", "/nonexistent"))


def evaluation_file(name: str) -> Path:
    """The path of an evaluation file; skips the calling test without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder that P2PVPN_DATA names")
    return path
