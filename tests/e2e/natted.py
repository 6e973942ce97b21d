"""Real nodes behind real NATs of every type, several of each, and what the tests ask of two of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count, pairwise, permutations
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ipop.control import Client
from sims.lab.namespace import LabError, end
from sims.lab.natlab import NatLab
from sims.lab.plan_file import parse_plan
from sims.lab.work import wait_for_ring
from tests.patience import PATIENCE_S

PLANS = {
    "public": "",
    "full": 'nat = "full"',
    "addr": 'nat = "addr"',
    "port": 'nat = "port"',
    "sym": 'nat = "sym"',
    "cgnat-port": 'nat = "port"\ncarrier = "port"',
    "cgnat-sym": 'nat = "port"\ncarrier = "sym"',
    "ipv6": 'ip = "ipv6"',
    "firewalled": 'firewall = "stateful"',
}
BOOTSTRAP = "public1"
MAX_PRINTED_BYTES = 1 << 23
NUMBERED = Path(__file__).with_name("numbered.py")
FIRST_PORT = 5000


class NattedNetwork:
    """`copies` hosts of every type of `kinds`, named "port1", "port2" and so on, each with its running node."""

    def __init__(self, copies: int, kinds: Sequence[str] = tuple(PLANS)) -> None:
        names = [f"{kind}{number}" for number in range(1, copies + 1) for kind in kinds]
        tables = (f"[host.{name}]\n{PLANS[kind_of_host(name)]}\n" for name in names)
        text = "".join(tables).replace(f"[host.{BOOTSTRAP}]", f"[host.{BOOTSTRAP}]\nbootstrap = true")
        self.lab = NatLab(parse_plan(text, "this test", "grid"))
        self.addresses: dict[str, str] = {}
        self.names = names
        self._ports = count(FIRST_PORT)

    def __enter__(self) -> NattedNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.close()

    def start(self) -> None:
        """All at once; returns when they are one ring."""
        self.lab.issue_all()
        self.addresses = {host.name: str(host.member.address4) for host in self.lab.hosts}
        self.lab.start_all()
        self.lab.wait_ready()
        self.whole()

    def restart(self, name: str) -> None:
        """Start a node that was killed, and wait until all are one ring again."""
        self.lab.start(self.lab.host(name)).wait_ready()
        self.whole()

    def whole(self, limit_s: float = PATIENCE_S) -> None:
        """Wait until all that run are one ring."""
        wait_for_ring([node for node in self.lab.nodes.values() if node.process.poll() is None], limit_s)

    def peers(self, name: str) -> dict[str, Any]:
        """What a node says of its peers, by their names."""
        with Client(str(self.lab.host(name).control)) as client:
            return {peer["name"]: peer for peer in client.ask("peers")}

    def path(self, one: str, other: str) -> str:
        """How `one` sends to `other`: direct, proxy, overlay or, without a session, none."""
        return str(self.peers(one).get(other, {"path": "none"})["path"])

    def paths(self, one: str, other: str) -> tuple[str, str]:
        """Both ways."""
        return self.path(one, other), self.path(other, one)

    def why(self, one: str, other: str) -> str:
        """What `p2pvpn why` prints there."""
        return f"\n{one}: {self.lab.nodes[one].ask('why', other).stdout}"

    def all_paths(self) -> dict[tuple[str, str], str]:
        """Of everybody to everybody."""
        found = dict.fromkeys(permutations(self.names, 2), "none")
        for name in self.names:
            found |= {(name, other): peer["path"] for other, peer in self.peers(name).items()}
        return found

    def wait_for(self, one: str, other: str, accepted: Sequence[str], limit_s: float = PATIENCE_S) -> float:
        """Wait until both ends use such a path; how long that took. Raises LabError with what they use instead."""
        start = time.monotonic()
        while not set(paths := self.paths(one, other)) <= set(accepted):
            if time.monotonic() - start > limit_s:
                raise LabError(f"{one} and {other}: {paths} after {limit_s:.0f} s, not {' or '.join(accepted)}")
            time.sleep(0.05)
        return time.monotonic() - start

    def pings(self, one: str, other: str, every_s: float) -> Pings:
        """A ping by virtual address that goes on until it is closed."""
        # stdbuf: a reply must not wait in a buffer, and its time is the one that ping prints.
        command = ("stdbuf", "-oL", "ping", "-D", "-n", "-i", str(every_s), self.addresses[other])
        printed = tempfile.TemporaryFile()  # noqa: SIM115  closed with the pings
        return Pings([self.lab.host(one).namespace.spawn(*command, stdout=printed)], printed, every_s)

    def numbered(self, one: str, other: str, every_s: float) -> Pings:
        """The same by UDP, at any rate."""
        port, printed = str(next(self._ports)), tempfile.TemporaryFile()  # noqa: SIM115  closed with the pings
        echo = self.lab.host(other).namespace.spawn(sys.executable, NUMBERED, "echo", port)
        words = (sys.executable, NUMBERED, "send", self.addresses[other], port, str(every_s))
        return Pings([self.lab.host(one).namespace.spawn(*words, stdout=printed), echo], printed, every_s)


class Pings:
    """One ping at work, or what prints as it does. A context."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], printed: IO[bytes], every_s: float) -> None:
        self._processes, self._printed, self._every_s = processes, printed, every_s

    def __enter__(self) -> Pings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            end(process)
        self._printed.close()

    def replies(self) -> list[tuple[float, int, float]]:
        """Arrival (as `time.time`), sequence number and round trip in ms of every reply so far, as they came."""
        printed = os.pread(self._printed.fileno(), MAX_PRINTED_BYTES, 0).decode()
        found = re.findall(r"^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+) .* time=([\d.]+)", printed, re.MULTILINE)
        numbered, wraps, last = [], 0, 0
        for at, text, rtt_ms in found:
            number = int(text)
            wraps += (last - number > 1 << 15) - (number - last > 1 << 15)
            last = number
            numbered.append((float(at), number + (wraps << 16), float(rtt_ms)))
        return numbered

    def wait_for_reply(self, after: float = 0.0, limit_s: float = PATIENCE_S) -> None:
        """Wait for a reply to a request that was sent after a moment (of `time.time`). Raises LabError."""
        deadline = time.monotonic() + limit_s
        while not any(at - rtt_ms / 1000.0 > after for at, _, rtt_ms in self.replies()):
            if time.monotonic() > deadline:
                raise LabError(f"no reply for {limit_s:.0f} s")
            time.sleep(0.1)

    def lost_since(self, moment: float) -> float:
        """For how long, in all, requests that were sent after a moment went without a reply, up to the last reply."""
        return len(self.missing(moment)) * self._every_s

    def missing(self, since: float = 0.0) -> list[int]:
        """The numbers that have had no reply, from the first request after `since`, or the first that ever had one, to
        the last that has one."""
        replies = self.replies()
        seen = {number for _, number, _ in replies}
        before = max((number for at, number, rtt_ms in replies if at - rtt_ms / 1000.0 <= since), default=0)
        first = max(before + 1, min(seen, default=0))
        return sorted(set(range(first, max(seen, default=0) + 1)) - seen)

    def repeated(self) -> list[int]:
        """The numbers that were answered more than once."""
        numbers = [number for _, number, _ in self.replies()]
        return sorted(number for number, times in Counter(numbers).items() if times > 1)

    def disordered(self) -> int:
        """How many replies came after one to a later request."""
        return sum(after < before for (_, before, _), (_, after, _) in pairwise(self.replies()))


def kind_of_host(name: str) -> str:
    """The type of NAT that a host of this name is behind."""
    return name[:-1]
