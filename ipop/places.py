"""Where a node keeps its files, and where its commands find its control socket. † Shell module.

Root: /run/p2pvpn/NAME.sock and /var/lib/p2pvpn/NAME. Others: the XDG directories. Never makes anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from ipop.control import alive
from ipop.errors import SetupError

SYSTEM_RUNTIME = Path("/run/p2pvpn")
SYSTEM_STATE = Path("/var/lib/p2pvpn")


def runtime_directory() -> Path:
    """Where the control socket goes. SetupError where there is no good place."""
    # Root in a user namespace may not write to /run.
    if os.geteuid() == 0 and os.access(SYSTEM_RUNTIME.parent, os.W_OK):
        return SYSTEM_RUNTIME
    users = os.environ.get("XDG_RUNTIME_DIR", "")
    if not users.startswith("/"):
        raise SetupError("no place for the control socket: choose one with --control, or set XDG_RUNTIME_DIR")
    return Path(users, "p2pvpn")


def state_directory() -> Path:
    """Where the nodes' state directories are."""
    if os.geteuid() == 0 and os.access(SYSTEM_STATE.parent, os.W_OK):
        return SYSTEM_STATE
    users = os.environ.get("XDG_STATE_HOME", "")
    return Path(users if users.startswith("/") else Path.home() / ".local" / "state", "p2pvpn")


def only_socket() -> str:
    """The control socket of the one node that runs here. SetupError when there is none, or more than one."""
    folders = [SYSTEM_RUNTIME]
    users = os.environ.get("XDG_RUNTIME_DIR", "")
    if users.startswith("/"):
        folders.append(Path(users, "p2pvpn"))
    # `*/control`: where a systemd unit with a RuntimeDirectory of its own puts it.
    paths = [path for folder in folders for pattern in ("*.sock", "*/control") for path in sorted(folder.glob(pattern))]
    sockets = [path for path in paths if alive(str(path))]
    if not sockets:
        raise SetupError(
            f"no p2pvpn node is running here (no control socket in {' or '.join(map(str, folders))}):"
            " start one with 'p2pvpn up FILE', or name its socket with --control"
        )
    if len(sockets) > 1:
        raise SetupError(f"several nodes run here: choose one with --control: {', '.join(map(str, sockets))}")
    return str(sockets[0])
