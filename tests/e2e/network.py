"""A running network of real nodes for the tests: who is who, and how to watch it while something happens to it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise, permutations
from types import TracebackType
from typing import IO, Any

from sims.lab.lab import Lab, LabHost
from sims.lab.namespace import LabError, end
from sims.lab.node import LabNode
from sims.lab.work import wait_for_ring

PING_EVERY_S = 0.2
# A reply this late counts as an outage; below it, a busy machine is a likelier reason.
OUTAGE_S = 1.2
MAX_PRINTED_BYTES = 1 << 20


class RealNetwork:
    """Hosts of a laboratory, each with its running node and its virtual addresses."""

    def __init__(self, names: Sequence[str]) -> None:
        self.lab = Lab(names)
        self.nodes: dict[str, LabNode] = {}
        self.addresses: dict[str, tuple[str, str]] = {}
        self.ring: list[str] = []  # names in the order of their node ids
        self.last_ready_at = 0.0

    def __enter__(self) -> RealNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.close()

    def issue(self) -> None:
        """A bundle for every host, which also says where on the ring and at which addresses it will be."""
        self.lab.issue_all()
        members = {host.name: host.member for host in self.lab.hosts}
        self.addresses = {name: (str(member.address4), str(member.address6)) for name, member in members.items()}
        self.ring = sorted(members, key=lambda name: members[name].id)

    def start_all(self) -> None:
        """Start all at once, and wait for the last ready line."""
        for host in self.lab.hosts:
            self.nodes[host.name] = self.lab.start(host)
        for node in self.nodes.values():
            node.wait_ready()
        self.last_ready_at = time.monotonic()

    def running(self) -> list[LabNode]:
        return [node for node in self.nodes.values() if node.process.poll() is None]

    def host(self, name: str) -> LabHost:
        return next(host for host in self.lab.hosts if host.name == name)

    def address4(self, name: str) -> str:
        return self.addresses[name][0]

    def address6(self, name: str) -> str:
        return self.addresses[name][1]

    def wait_for_ring(self, limit_s: float) -> list[Any]:
        """The running nodes' statuses in ring order, once they are one ring."""
        return wait_for_ring(self.running(), limit_s)

    def far_apart(self) -> tuple[str, str]:
        """Two nodes that are not ring neighbours, half a ring apart; neither is the bootstrap of the others."""
        half = len(self.ring) // 2
        pairs = zip(self.ring, self.ring[half:] + self.ring[:half], strict=True)
        return next(pair for pair in pairs if self.lab.hosts[0].name not in pair)

    def restart(self, name: str, *options: str, bootstraps: Sequence[str] | None = None) -> LabNode:
        """Start a node that has ended, with the bundle and the state it had."""
        self.nodes[name] = self.lab.start(self.host(name), *options, bootstraps=bootstraps)
        return self.nodes[name]

    def seconds_until_reply(self, source: str, target: str, limit_s: float) -> float:
        """Ping by virtual IPv4 until the first reply. Raises LabError after `limit_s`."""
        start = time.monotonic()
        while time.monotonic() - start < limit_s:
            if self.host(source).namespace.run("ping", "-c1", "-W1", "-q", self.address4(target)).returncode == 0:
                return time.monotonic() - start
        raise LabError(f"{target} did not answer {source} within {limit_s} s")

    def relays_between(self, source: str, target: str) -> list[str]:
        """Which third hosts carry packets between two, found by weighing what each interface moves; the two
        directions may have different ones."""
        others = [host for host in self.lab.hosts if host.name not in (source, target)]
        before = {host.name: host.moved_bytes() for host in others}
        many = ("ping", "-q", "-i", "0.01", "-c", "200", "-s", "1000", self.address4(target))
        self.host(source).namespace.run(*many)
        moved = {host.name: host.moved_bytes() - before[host.name] for host in others}
        # 200 requests or 200 replies of 1000 bytes, in and out again.
        relays = [name for name, count in moved.items() if count > 300_000]
        if not relays:
            raise LabError(f"nobody carried the packets from {source} to {target}: {moved}")
        return relays


class Watch:
    """Pings between pairs of nodes without a pause, to see who lost whom, and for how long."""

    def __init__(self, network: RealNetwork, pairs: Iterable[tuple[str, str]]) -> None:
        self._running: list[tuple[str, str, subprocess.Popen[bytes], IO[bytes]]] = []
        for source, target in pairs:
            # stdbuf: a reply must not wait in a buffer, and its time is the one that ping prints.
            command = ("stdbuf", "-oL", "ping", "-D", "-n", "-i", str(PING_EVERY_S), network.address4(target))
            printed = tempfile.TemporaryFile()  # noqa: SIM115  closed with the watch
            process = network.host(source).namespace.spawn(*command, stdout=printed)
            self._running.append((source, target, process, printed))

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, _, process, printed in self._running:
            end(process)
            printed.close()

    def outages(self, since: float) -> dict[str, float]:
        """For every pair, when (seconds after `since`, a time of `time.time`) its last outage so far ended; 0 for a
        pair that had none, infinity for one that has not come back."""
        found = {}
        for source, target, _, file in self._running:
            now = time.time()
            printed = os.pread(file.fileno(), MAX_PRINTED_BYTES, 0).decode()
            replies = [float(stamp) for stamp in re.findall(r"^\[([\d.]+)\] \d+ bytes from", printed, re.MULTILINE)]
            found[f"{source} -> {target}"] = last_outage_end(replies, since, now)
        return found

    def outages_until_over(self, since: float, at_least_s: float, limit_s: float) -> dict[str, float]:
        """As `outages`, once `at_least_s` seconds have passed since and every pair is back, or after `limit_s`."""
        time.sleep(max(0.0, since + at_least_s - time.time()))
        while float("inf") in (found := self.outages(since)).values() and time.time() - since < limit_s:
            time.sleep(PING_EVERY_S)
        return found


def last_outage_end(replies: Sequence[float], since: float, until: float) -> float:
    """When the last gap longer than OUTAGE_S ended, in seconds after `since`."""
    times = [since, *(reply for reply in replies if reply > since)]
    if until - times[-1] > OUTAGE_S:
        return float("inf")
    ends = [after - since for before, after in pairwise(times) if after - before > OUTAGE_S]
    return ends[-1] if ends else 0.0


def all_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    return list(permutations(names, 2))
