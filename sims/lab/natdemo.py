"""`p2pvpn-lab demo` †: nodes behind every kind of NAT, who reaches whom and how, and a router that forgets.

Says what it does as it goes, and ends with a line PASS or FAIL. It passes when every host reached every other.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import permutations
from pathlib import Path

from sims.lab.keeper import status
from sims.lab.namespace import LabError
from sims.lab.natlab import NatLab
from sims.lab.natprobe import Probes
from sims.lab.tables import show_behaviours, show_hosts, show_paths
from sims.lab.work import ping_all

PING_LIMIT_S = 15.0
SETTLE_S = 5.0
REBIND = "port"


def say(text: str) -> None:
    print(text, flush=True)


def demonstrate(file: Path) -> bool:
    """Whether it passed."""
    start = time.monotonic()
    try:
        with NatLab.from_file(file) as lab:
            silent = _show(lab)
            say("5. Cleaning up: every node leaves, every namespace goes.")
    except LabError as error:
        silent = [str(error)]
    took = f"{time.monotonic() - start:.1f} s"
    say(f"FAIL after {took}: {', '.join(silent)}" if silent else f"PASS in {took}")
    return not silent


def _show(lab: NatLab) -> list[str]:
    """Which pairs stayed silent."""
    say(f"1. {len(lab.hosts)} hosts, each a network namespace of this machine; their routers are namespaces, too.")
    lab.issue_all()
    lab.start_all()
    lab.wait_ready()
    show_hosts(status(lab))
    say("2. What these routers do, as two servers on the internet see it (RFC 4787):")
    with Probes(lab) as probes:
        found = probes.classify(lab.hosts)
    show_behaviours({name: None if nat is None else asdict(nat) for name, nat in found.items()})
    say("3. Every host pings every other by virtual address.")
    silent = _ping_all(lab)
    time.sleep(SETTLE_S)
    say("   How they reach each other: D direct, P through a proxy, o over the overlay, - not connected")
    show_paths([host.name for host in lab.hosts], paths(lab))
    say(f"4. The router of '{REBIND}' is switched off and on: all its mappings are gone, new ones have other ports.")
    lab.rebind(REBIND)
    return silent + [f"{pair} after the change" for pair in _ping_all(lab) if pair not in silent]


def _ping_all(lab: NatLab) -> list[str]:
    start = time.monotonic()
    names = {str(host.member.address4): host.name for host in lab.hosts}
    pairs = [(source, str(target.member.address4)) for source, target in permutations(lab.hosts, 2)]
    failed = ping_all(pairs, PING_LIMIT_S)
    say(f"   {len(pairs) - len(failed)} of {len(pairs)} pairs answered ({time.monotonic() - start:.1f} s)")
    return [f"{miss.source} -> {names[miss.target]}" for miss in failed]


def paths(lab: NatLab) -> dict[tuple[str, str], str]:
    """How each node reaches each other, as it says itself: direct, proxy, overlay, none."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda host: lab.nodes[host.name].ask_json("peers"), lab.hosts))
    found = dict.fromkeys(permutations([host.name for host in lab.hosts], 2), "none")
    for host, peers in zip(lab.hosts, answers, strict=True):
        found |= {
            (host.name, peer["name"]): peer["path"] for peer in peers if peer["path"] in ("direct", "proxy", "overlay")
        }
    return found
