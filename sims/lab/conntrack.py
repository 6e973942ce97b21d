"""Flushes the connection tracking of the namespace it runs in †, by ctnetlink: `python -m sims.lab.conntrack`.

Source: linux/netfilter/nfnetlink_conntrack.h; IPCTNL_MSG_CT_DELETE without attributes deletes every entry.
"""

from __future__ import annotations

import os
import socket
import struct

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE = 1, 2
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource


def flush() -> None:
    """Raises OSError when the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        body = _FAMILY.pack(socket.AF_UNSPEC, 0, 0)
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
        (error,) = struct.unpack_from("=i", netlink.recv(4096), _HEADER.size)
    if error:
        raise OSError(-error, os.strerror(-error))


if __name__ == "__main__":
    flush()
