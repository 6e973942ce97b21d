"""Keeps out of a node's process what a node never uses: TLS, and OpenSSL's copies of Python's own digests.

asyncio, hashlib and hmac load these when they find them, and do without on a Python built without OpenSSL. That is
libssl and libcrypto, 5 MB of resident memory in 38; `cryptography` brings an OpenSSL of its own, the one we use.
Must run before anything imports asyncio or hashlib, in a process that is nothing but a node.

Source: the Python language reference, section 5.3.1, "The module cache": what None in sys.modules means.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

# What hashlib falls back on. Some systems leave them out of their Python, where we must leave OpenSSL's in.
_OWN_DIGESTS = ("_md5", "_sha1", "_sha3", "_blake2")

# Typed as what it holds: importlib puts modules in, and understands None.
_modules: dict[str, Any] = sys.modules


def leave_out() -> None:
    """From now on the unused modules can't be imported. Those that are here already stay."""
    _modules.setdefault("ssl", None)
    if all(find_spec(name) is not None for name in _OWN_DIGESTS):
        _modules.setdefault("_hashlib", None)


def let_in() -> None:
    """Undo `leave_out`: for a child process that is about to do something else."""
    for name in ("ssl", "_hashlib"):
        if name in _modules and _modules[name] is None:
            del _modules[name]
