"""Small named files that outlive the process. The seam; `dht.files` is the real one.

`save` is atomic: after a SIGKILL at any instant, `load` gives the old content or the new, whole. `append`
adds to a journal; after a SIGKILL a journal may end in part of its last entry, which its reader must expect.
This module never touches a disk.
"""

from __future__ import annotations

from typing import Protocol


class Storage(Protocol):
    """Named byte strings that survive a restart. Names are lower-case words."""

    def load(self, name: str) -> bytes | None:
        """The content last saved or appended under `name`; None when there is none."""

    def save(self, name: str, content: bytes) -> None:
        """Replace the content of `name` atomically."""

    def append(self, name: str, content: bytes) -> None:
        """Add `content` at the end of `name` with one write."""


class MemoryStorage:
    """Keeps everything in a dict: for simulations, and for nodes that should leave no trace."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        return self._contents.get(name)

    def save(self, name: str, content: bytes) -> None:
        self._contents[name] = content

    def append(self, name: str, content: bytes) -> None:
        self._contents[name] = self._contents.get(name, b"") + content
