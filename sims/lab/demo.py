"""`make demo` †: six real nodes on this machine, from a new network to a ring that outlives its bootstrap.

Says what it does as it goes, and ends with a line PASS or FAIL and the time it took. Leaves nothing behind.
"""

from __future__ import annotations

import signal
import sys
import time
from itertools import permutations
from types import FrameType
from typing import Any

from sims.lab.lab import PORT, TOOLS, Lab, LabHost
from sims.lab.namespace import LabError, missing_tools
from sims.lab.node import LabNode
from sims.lab.work import fetch, make_file, ping_all, serve, sha256, wait_for_ring

NAMES = ("alder", "birch", "cedar", "elder", "fir", "gorse")
FILE_BYTES = 100_000_000
RING_LIMIT_S = 15.0
PING_LIMIT_S = 10.0
FETCH_LIMIT_S = 240.0


def say(text: str) -> None:
    print(text, flush=True)


class Demo:
    """The six hosts and what happens to them, step by step."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._nodes: list[LabNode] = []
        self._hosts = {host.name: host for host in lab.hosts}

    def run(self) -> None:
        self._found_network()
        self._start_nodes()
        ring = self._show_ring("3. The ring. Nobody arranged it: the nodes found their places by their ids.")
        self._ping_all(ring, "Every host pings every other by virtual IPv4 and IPv6")
        self._carry_a_file(ring)
        self._lose_the_bootstrap()

    def _found_network(self) -> None:
        say(f"1. A new network, {self._lab.subnet}: 'p2pvpn init', then 'p2pvpn issue' makes a file for each host.")
        self._lab.issue_all()

    def _start_nodes(self) -> None:
        first = self._lab.hosts[0]
        say(f"2. 'p2pvpn up FILE' on each host. All they know of each other: {first.name} is at")
        say(f"   {first.underlay4}:{PORT}.")
        self._nodes = [self._lab.start(host) for host in self._lab.hosts]
        for node, host in zip(self._nodes, self._lab.hosts, strict=True):
            node.wait_ready()
            say(f"     {node.name:<6} {node.address:<10} on {node.tap}, underlay {host.underlay4}")

    def _show_ring(self, title: str) -> list[Any]:
        ring = wait_for_ring(self._nodes, RING_LIMIT_S)
        say(title)
        for position, status in enumerate(ring):
            after = ring[(position + 1) % len(ring)]["node"]["name"]
            node = status["node"]
            say(f"     {node['id'][:8]}  {node['name']:<6} {node['addresses'][0]:<10} successor {after}")
        return ring

    def _ping_all(self, ring: list[Any], title: str) -> None:
        start = time.monotonic()
        pairs = [
            (self._hosts[source["node"]["name"]], address)
            for source, target in permutations(ring, 2)
            for address in target["node"]["addresses"]
        ]
        if failed := ping_all(pairs, PING_LIMIT_S):
            raise LabError(f"no reply within {PING_LIMIT_S} s: {', '.join(map(str, failed))}")
        say(f"   {title}: {len(pairs)} of {len(pairs)} answered ({time.monotonic() - start:.1f} s).")

    def _carry_a_file(self, ring: list[Any]) -> None:
        getter, giver = ring[1]["node"], ring[1 + len(ring) // 2]["node"]
        source, target = self._hosts[giver["name"]], self._hosts[getter["name"]]
        size = f"{FILE_BYTES // 1_000_000} MB"
        say(f"4. {target.name} fetches {size} from {source.name} by HTTP. They are not ring neighbours, and we")
        say("   cut the wire between them: others must carry what they can't read.")
        self._lab.cut(source, target)
        client = next(node for node in self._nodes if node.name == target.name)
        self._show_path(client, giver)
        web = self._lab.folder / "web"
        web.mkdir()
        expected = make_file(web / "file", FILE_BYTES, seed=1)
        serve(self._lab, source, giver["addresses"][0], web)
        copy = target.folder / "file"
        carried_before = {host.name: host.moved_bytes() for host in self._lab.hosts}
        took_s = fetch(target, giver["addresses"][0], "file", copy, FETCH_LIMIT_S)
        carried = {host.name: host.moved_bytes() - carried_before[host.name] for host in self._lab.hosts}
        relays = [host.name for host in self._relays(source, target) if carried[host.name] > FILE_BYTES]
        rate = f"{FILE_BYTES * 8 / took_s / 1e6:.0f} Mbit/s"
        say(f"     {took_s:.1f} s, {rate}, carried by {' and '.join(relays) or 'nobody'}")
        say(f"     SHA-256 sent     {expected}")
        say(f"     SHA-256 received {sha256(copy)}")
        if sha256(copy) != expected:
            raise LabError("the file that arrived is not the file that was sent")
        if not relays:
            raise LabError("no third host carried the file, though the wire is cut")

    def _relays(self, *ends: LabHost) -> list[LabHost]:
        return [host for host in self._lab.hosts if host not in ends]

    def _show_path(self, client: LabNode, giver: Any) -> None:
        deadline = time.monotonic() + PING_LIMIT_S
        while (done := client.ask("ping", giver["name"], "-c", "1")).returncode != 0:
            if time.monotonic() > deadline:
                raise LabError(f"'p2pvpn ping {giver['name']}' failed on {client.name}: {done.stderr.strip()}")
        say(f"     p2pvpn ping {giver['name']}: {done.stdout.strip()}")

    def _lose_the_bootstrap(self) -> None:
        lost, *self._nodes = self._nodes
        say(f"5. kill -9 {lost.name}, the only host the others were told about.")
        lost.kill()
        start = time.monotonic()
        ring = self._show_ring("   The others close the ring among themselves:")
        say(f"   whole again after {time.monotonic() - start:.1f} s")
        self._ping_all(ring, "And they still reach each other")


def interrupted(number: int, _frame: FrameType | None) -> None:
    raise LabError(f"interrupted by {signal.Signals(number).name}")


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    start = time.monotonic()
    say(f"p2pvpn demo: {len(NAMES)} hosts, each a network namespace of this machine, on one switch. No server.")
    try:
        if missing := missing_tools([*TOOLS, "ping", "curl"]):
            raise LabError(f"these commands are missing: {' '.join(missing)}")
        with Lab(NAMES) as lab:
            try:
                Demo(lab).run()
            except LabError:
                say(lab.last_words())
                raise
            say("6. Cleaning up: every node leaves, every namespace goes.")
    except LabError as error:
        say(f"FAIL after {time.monotonic() - start:.1f} s: {error}")
        return 1
    say(f"PASS in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
