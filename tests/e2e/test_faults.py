"""Real nodes that are killed, frozen, moved and started again, while the others watch.

P2PVPN_LONG=1 kills each of the eight in turn and freezes for five minutes; otherwise two are killed, and the freeze
lasts 20 s.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.e2e.conftest import NAMES
from tests.e2e.network import RealNetwork, Watch, all_pairs
from tests.patience import PATIENCE_S, Promises, patient

LONG = os.environ.get("P2PVPN_LONG") == "1"
BOOTSTRAP, ORDINARY = NAMES[0], NAMES[3]
VICTIMS = NAMES if LONG else (ORDINARY, BOOTSTRAP)
FREEZE_S = 300.0 if LONG else 20.0
RESUME_LIMIT_S = 5.0
WHOLE_LIMIT_S = 10.0
RETURN_LIMIT_S = 5.0
THAW_LIMIT_S = 10.0


def shown(outages: dict[str, float]) -> str:
    """Those that there were, in seconds."""
    return ", ".join(f"{pair} {end_s:.1f}" for pair, end_s in outages.items() if end_s) or "there were none"


@pytest.fixture(autouse=True)
def whole_again(eight: RealNetwork) -> None:
    """Every test begins with all eight in one ring."""
    eight.wait_for_ring(patient(WHOLE_LIMIT_S))


@pytest.mark.parametrize("victim", VICTIMS)
def test_after_kill_9_the_others_resume_within_5_s_and_close_the_ring_within_10_s(
    eight: RealNetwork, victim: str, promises: Promises
) -> None:
    others = [name for name in NAMES if name != victim]
    address_before = eight.address4(victim)
    with Watch(eight, all_pairs(others)) as watch:
        time.sleep(1.5)
        killed_at = time.time()
        eight.nodes[victim].kill()
        ring = eight.wait_for_ring(patient(WHOLE_LIMIT_S))
        whole_after_s = time.time() - killed_at
        outages = watch.outages_until_over(killed_at, RESUME_LIMIT_S + 2.0, patient(RESUME_LIMIT_S))
    print(f"outages after the death of {victim} ended: {shown(outages)}")
    assert len(ring) == 7
    promises.measured("ring whole", whole_after_s, WHOLE_LIMIT_S)
    promises.measured("last outage over", max(outages.values()), RESUME_LIMIT_S)
    node = eight.restart(victim)
    eight.seconds_until_reply(others[0], victim, patient(RETURN_LIMIT_S))
    promises.measured("reachable after its start", time.monotonic() - node.started_at, RETURN_LIMIT_S)
    assert node.wait_ready().address == address_before


def test_two_hosts_that_lose_each_other_by_ipv4_and_ipv6_talk_through_others_within_5_s_and_go_on(
    eight: RealNetwork, promises: Promises
) -> None:
    one, other = eight.far_apart()
    with Watch(eight, [(one, other), (other, one)]) as watch:
        time.sleep(3.0)
        cut_at = time.time()
        eight.lab.cut(eight.host(one), eight.host(other))
        try:
            # Long enough for a dead path to be tried again: an outage that ended late would be the last one.
            outages = watch.outages_until_over(cut_at, 2 * RESUME_LIMIT_S, patient(RESUME_LIMIT_S))
        finally:
            eight.lab.mend(eight.host(one), eight.host(other))
    print(f"outages after {one} and {other} lost each other ended: {shown(outages)}")
    promises.measured("last outage over", max(outages.values()), RESUME_LIMIT_S)


def test_when_the_relay_of_two_hosts_is_killed_they_find_another_way_within_5_s(
    eight: RealNetwork, promises: Promises
) -> None:
    one, other = eight.far_apart()
    eight.lab.cut(eight.host(one), eight.host(other))
    try:
        eight.seconds_until_reply(one, other, PATIENCE_S)
        relay = eight.relays_between(one, other)[0]
        with Watch(eight, [(one, other), (other, one)]) as watch:
            time.sleep(1.5)
            killed_at = time.time()
            eight.nodes[relay].kill()
            outages = watch.outages_until_over(killed_at, RESUME_LIMIT_S + 2.0, patient(RESUME_LIMIT_S))
        print(f"outages after the death of {relay} ended: {shown(outages)}")
        promises.measured("last outage over", max(outages.values()), RESUME_LIMIT_S)
    finally:
        eight.lab.mend(eight.host(one), eight.host(other))
        for name, node in list(eight.nodes.items()):
            if node.process.poll() is not None:
                eight.restart(name).wait_ready()


def test_a_node_comes_back_while_every_configured_bootstrap_is_dead(eight: RealNetwork, promises: Promises) -> None:
    for name in (BOOTSTRAP, ORDINARY):
        eight.nodes[name].kill()
    try:
        eight.wait_for_ring(patient(WHOLE_LIMIT_S))
        node = eight.restart(ORDINARY)
        eight.seconds_until_reply("ivy", ORDINARY, patient(RETURN_LIMIT_S))
        promises.measured("reachable after its start", time.monotonic() - node.started_at, RETURN_LIMIT_S)
        node.wait_ready()
    finally:
        eight.restart(BOOTSTRAP).wait_ready()


def test_a_node_whose_underlay_address_changes_is_reachable_within_5_s(eight: RealNetwork, promises: Promises) -> None:
    with Watch(eight, [("birch", "gorse"), ("gorse", "ivy"), ("alder", "gorse")]) as watch:
        time.sleep(1.5)
        moved_at = time.time()
        eight.host("gorse").readdress(77)
        outages = watch.outages_until_over(moved_at, RESUME_LIMIT_S + 2.0, patient(RESUME_LIMIT_S))
    print(f"outages after the move ended: {shown(outages)}")
    promises.measured("last outage over", max(outages.values()), RESUME_LIMIT_S)
    assert eight.nodes["gorse"].process.poll() is None


def test_a_frozen_node_is_reachable_within_10_s_of_its_thaw(eight: RealNetwork, promises: Promises) -> None:
    sleeper, others = "cedar", [name for name in NAMES if name != "cedar"]
    eight.nodes[sleeper].freeze()
    try:
        time.sleep(FREEZE_S)
        with Watch(eight, all_pairs(others[:4])) as watch:
            # A busy machine may make everybody wait, now and then: somewhen there must be three good seconds.
            ends = time.monotonic() + PATIENCE_S
            while True:
                began_at = time.time()
                time.sleep(3)
                if not any((outages := watch.outages(began_at)).values()):
                    break
                assert time.monotonic() < ends, f"the others suffer from one that sleeps: {shown(outages)}"
    finally:
        thawed_at = time.monotonic()
        eight.nodes[sleeper].thaw()
    eight.seconds_until_reply("ivy", sleeper, patient(THAW_LIMIT_S))
    promises.measured("reachable after the thaw", time.monotonic() - thawed_at, THAW_LIMIT_S)
