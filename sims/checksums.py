"""† What a result depends on, as SHA-256: the program's code, whether committed or not, and data files."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ("dht", "shortcuts", "ipop", "sims")


def file_sha256(path: str) -> str:
    """Raises OSError."""
    return sha256(Path(path).read_bytes()).hexdigest()


@cache
def code_sha256() -> str:
    """One checksum over every module of the program, as it was when this process first asked."""
    whole = sha256()
    for package in CODE:
        for path in sorted((ROOT / package).rglob("*.py")):
            whole.update(f"{path.relative_to(ROOT)}\0{file_sha256(str(path))}\n".encode())
    return whole.hexdigest()
