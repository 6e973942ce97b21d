"""sd_notify(3) without libsystemd: one datagram to the socket that systemd names. † Shell module.

Does nothing where the process was not started by systemd. Never raises: a lost notification must not stop a node.
Source: the man page sd_notify(3), section "Standalone Implementations".
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Tell systemd, for example, `READY=1`. Returns whether somebody was told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as systemd:
            systemd.connect(address)
            systemd.sendall(state.encode())
    except OSError:
        return False
    return True
