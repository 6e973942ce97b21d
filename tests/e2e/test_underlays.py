"""The same network over other underlays than one IPv4 switch."""

from __future__ import annotations

import time
from itertools import permutations

from sims.lab.lab import PORT, Lab
from sims.lab.work import ping_all, wait_for_ring
from tests.patience import Promises, patient

NAMES = ("alder", "birch", "cedar")
JOIN_LIMIT_S = 5.0


def test_three_nodes_meet_where_there_is_only_ipv6(promises: Promises) -> None:
    with Lab(NAMES) as lab:
        lab.issue_all()
        for host in lab.hosts:
            host.namespace.ip(f"addr del {host.underlay4}/24 dev eth0")
        first = lab.hosts[0]
        bootstrap = f"[{first.underlay6}]:{PORT}"
        nodes = [lab.start(host, bootstraps=() if host is first else [bootstrap]) for host in lab.hosts]
        for node in nodes:
            node.wait_ready()
        ready_at = time.monotonic()
        pairs = [
            (source, str(address))
            for source, target in permutations(lab.hosts, 2)
            for address in (target.member.address4, target.member.address6)
        ]
        assert not ping_all(pairs, patient(JOIN_LIMIT_S))
        promises.measured("all pings answered", time.monotonic() - ready_at, JOIN_LIMIT_S)
        wait_for_ring(nodes, patient(JOIN_LIMIT_S))


def test_a_bootstrap_that_starts_last_is_found() -> None:
    with Lab(NAMES) as lab:
        lab.issue_all()
        first, *others = lab.hosts
        nodes = [lab.start(host).wait_ready() for host in others]
        time.sleep(5)
        nodes.append(lab.start(first).wait_ready())
        wait_for_ring(nodes, patient(15.0))
