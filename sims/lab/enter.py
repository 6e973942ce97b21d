"""Runs a command on a host of a laboratory that another process holds †, with this terminal.

The command ends with the laboratory at the latest: nothing of a host outlives it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence

from sims.lab.lab import COMMAND
from sims.lab.namespace import LabError, end
from sims.lab.running import Running


def enter(lab: Running, host: str, command: Sequence[str]) -> int:
    """Run it to its end; its exit code. There, `p2pvpn status` and the like mean that host's node."""
    pid, folder = lab.host(host)
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(folder),
        # Other nodes of this machine are in the same file system, so their sockets would be found as well.
        "P2PVPN_CONTROL": str(folder / "control"),
        "PATH": f"{COMMAND.parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    # An interrupt from the keyboard is the command's, which may have its own mind about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        words = ["nsenter", *same_user(pid), f"--net=/proc/{pid}/ns/net", "--", *command]
        holder = os.pidfd_open(lab.pid)
        process = subprocess.Popen(words, env=environment, preexec_fn=heed_interrupts)  # noqa: PLW1509
    except FileNotFoundError:
        raise LabError(f"the laboratory {lab.name} has just ended") from None
    except OSError as error:
        raise LabError(f"can't run a command on {host}: {error.strerror or error}") from None
    child = os.pidfd_open(process.pid)
    try:
        readable, _, _ = select.select([holder, child], [], [])
        if child not in readable:
            end(process)
            raise LabError(f"the laboratory {lab.name} has ended, and '{command[0]}' with it")
        code = process.wait()
        return code if code >= 0 else 128 - code
    finally:
        os.close(holder)
        os.close(child)


def heed_interrupts() -> None:
    """An ignored signal stays so in what is started."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def same_user(pid: int) -> list[str]:
    """What nsenter needs when the laboratory is in another user namespace, where somebody else than root made it."""
    if os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user"):
        return []
    return [f"--user=/proc/{pid}/ns/user", "--preserve-credentials"]
