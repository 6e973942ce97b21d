"""Every pair of NAT types, by real nodes: direct where that can be done, through a proxy where it can't, and without
losing a packet when that changes for the better, nor many when a path dies.

27 nodes, three of each type, so that most pairs are no ring neighbours and have had nothing to do with each other.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import pytest

from ipop.control import Client
from ipop.errors import SetupError
from shortcuts.nat import Filtering, Mapping, Nat
from shortcuts.punching import Expectation, expectation
from sims.lab.namespace import LabError
from tests.e2e.natted import BOOTSTRAP, PLANS, NattedNetwork, kind_of_host
from tests.patience import PATIENCE_S, STRICT, Promises, patient

COPIES = 3
AT_ONCE = 4
PUBLIC = Nat(Mapping.NONE, Filtering.NONE)
WALLED = Nat(Mapping.NONE, Filtering.ADDRESS_AND_PORT_DEPENDENT)
FULL = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
ADDR = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
PORT = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
SYM = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
# What each type is in IPv4 and in IPv6; None where it has no such address.
NATS: dict[str, tuple[Nat | None, Nat | None]] = {
    "public": (PUBLIC, PUBLIC),
    "full": (FULL, None),
    "addr": (ADDR, None),
    "port": (PORT, None),
    "sym": (SYM, None),
    "cgnat-port": (PORT, None),
    "cgnat-sym": (SYM, None),
    "ipv6": (None, PUBLIC),
    "firewalled": (WALLED, WALLED),
}
DIRECT_MEDIAN_S, DIRECT_WORST_S = 2.0, 5.0
PROXY_S = 5.0
FIRST_REPLY_S = 1.0
BACK_S = 30.0
REBIND_S = 5.0
MOVE_S = 2.0
RESUME_S = 5.0
RETURN_S = 5.0
THAW_S = 10.0
FREEZE_S = 20.0


def can_be_punched(one: str, other: str) -> bool:
    """Whether theory lets two nodes behind these types reach each other directly, in either version of IP."""
    return any(
        a is not None and b is not None and expectation(a, b) is Expectation.YES
        for a, b in zip(NATS[one], NATS[other], strict=True)
    )


@pytest.fixture(scope="module")
def grid(able: None) -> Iterator[NattedNetwork]:
    with NattedNetwork(COPIES) as network:
        network.start()
        yield network


class Trial:
    """What became of one pair of types. `fresh`: the two had no session before."""

    def __init__(self, one: str, other: str, *, fresh: bool, direct: bool) -> None:
        self.one, self.other, self.fresh, self.direct = one, other, fresh, direct
        self.took_s = self.first_reply_s = 0.0
        self.failure = self.why = ""


def chosen_pairs(grid: NattedNetwork) -> list[Trial]:
    """Two hosts for every pair of types, strangers to each other where there are such."""
    before = grid.all_paths()
    trials = []
    for one, other in combinations_with_replacement(PLANS, 2):
        numbers = [(a, b) for a, b in product(range(1, COPIES + 1), repeat=2) if one != other or a < b]
        pairs = [(f"{one}{a}", f"{other}{b}") for a, b in numbers]
        a, b = min(pairs, key=lambda pair: (before[pair] != "none") + (before[pair[::-1]] != "none"))
        fresh = before[a, b] == before[b, a] == "none"
        trials.append(Trial(a, b, fresh=fresh, direct=can_be_punched(one, other)))
    return trials


def attempt(grid: NattedNetwork, trial: Trial) -> None:
    """From the first packet until both ends use the best path that theory allows."""
    began_at = time.time()
    try:
        with grid.pings(trial.one, trial.other, 0.1) as pings:
            best = ("direct",) if trial.direct else ("direct", "proxy")
            trial.took_s = grid.wait_for(trial.one, trial.other, best, patient(PROXY_S))
            pings.wait_for_reply()
            trial.first_reply_s = pings.replies()[0][0] - began_at
            if trial.took_s > DIRECT_WORST_S / 2:
                trial.why = "".join(grid.why(*ends) for ends in ((trial.one, trial.other), (trial.other, trial.one)))
    except (LabError, SetupError) as error:
        trial.failure = str(error)


def misjudged(grid: NattedNetwork) -> list[str]:
    """The nodes that take their filter for another than theirs, and the types of which none knows it."""
    wrong, known = [], set()
    for name in grid.names:
        with Client(str(grid.lab.host(name).control)) as client:
            check = client.ask("netcheck")
        for family, nat in zip(("ipv4", "ipv6"), NATS[kind_of_host(name)], strict=True):
            said = check[family]["nat"]["filtering"]
            if nat is None or said is None:
                continue
            known.add((kind_of_host(name), family))
            # Behind one address nobody uses two ports here, but for symmetric NATs, and those not to everybody.
            allowed = {nat.filtering, Filtering.ADDRESS_AND_PORT_DEPENDENT} if nat == ADDR else {nat.filtering}
            if said not in {each.name.lower().replace("_", "-") for each in allowed}:
                wrong.append(f"{name}: {said} in {family}")
    return wrong + [f"nobody of type {kind} knows" for kind in PLANS if not {(kind, "ipv4"), (kind, "ipv6")} & known]


def test_netcheck_names_whom_each_type_lets_in(grid: NattedNetwork) -> None:
    give_up_at = time.monotonic() + 2 * PATIENCE_S
    while (wrong := misjudged(grid)) and time.monotonic() < give_up_at:
        time.sleep(1.0)
    assert not wrong


def test_every_pair_of_types_gets_the_best_path_that_theory_allows(grid: NattedNetwork, promises: Promises) -> None:
    trials = chosen_pairs(grid)
    busy: set[str] = set()
    free = threading.Condition()

    def run(trial: Trial) -> None:
        """Each host takes part in one trial at a time."""
        pair = {trial.one, trial.other}
        with free:
            free.wait_for(lambda: not busy & pair)
            busy.update(pair)
        attempt(grid, trial)
        with free:
            busy.difference_update(pair)
            free.notify_all()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, trials))
    for trial in trials:
        kind = ("known" if not trial.fresh else "fresh") + (", direct" if trial.direct else ", proxy")
        print(
            f"{trial.one}, {trial.other} ({kind}): {trial.took_s:.2f} s, reply {trial.first_reply_s:.2f} s",
            trial.failure or trial.why,
        )
    assert not [trial.failure for trial in trials if trial.failure]
    direct = [trial.took_s for trial in trials if trial.direct and trial.fresh]
    proxied = [trial.took_s for trial in trials if not trial.direct and trial.fresh]
    assert len(direct) >= 5, "too few strangers to tell anything"
    promises.measured(f"direct, median of {len(direct)} fresh pairs", statistics.median(direct), DIRECT_MEDIAN_S)
    promises.measured(f"direct, worst of {len(direct)} fresh pairs", max(direct), DIRECT_WORST_S)
    promises.measured(f"proxy, worst of {len(proxied)} fresh pairs", max(proxied), PROXY_S)
    first = [trial.first_reply_s for trial in trials if trial.fresh]
    promises.measured(f"first reply, worst of {len(first)} fresh pairs", max(first), FIRST_REPLY_S)


# --- switching


def test_no_packet_of_1000_a_second_is_lost_or_repeated_when_a_better_path_is_found(grid: NattedNetwork) -> None:
    def from_the_overlay(best: str) -> Flow:
        one, other = strangers(grid, best)
        with grid.pings(one, other, 0.1) as first:
            first.wait_for_reply()  # there is a session now, and hardly any time has passed
        return flow_during(grid, one, other, best, lambda: None)

    def from_a_proxy() -> Flow:
        one, other = "addr1", "port2"
        grid.lab.cut(one, other)
        try:
            with grid.pings(one, other, 0.1):
                grid.wait_for(one, other, ("proxy",))
            return flow_during(grid, one, other, "direct", lambda: grid.lab.mend(one, other))
        finally:
            grid.lab.mend(one, other)

    nothing_lost("overlay to direct", lambda: from_the_overlay("direct"))
    nothing_lost("overlay to proxy", lambda: from_the_overlay("proxy"))
    nothing_lost("proxy to direct", from_a_proxy)


class Flow(NamedTuple):
    """What became of the packets that flowed while a path was changed."""

    replies: int
    missing: list[int]
    repeated: list[int]
    disordered: int


def flow_during(grid: NattedNetwork, one: str, other: str, best: str, change: Callable[[], None]) -> Flow:
    with grid.numbered(one, other, 0.001) as pings:
        pings.wait_for_reply()
        change()
        grid.wait_for(one, other, (best,))
        pings.wait_for_reply(time.time() + 0.5)
        return Flow(len(pings.replies()), pings.missing(), pings.repeated(), pings.disordered())


def nothing_lost(what: str, switch: Callable[[], Flow]) -> None:
    """A machine that stands still for a second loses packets at a TAP's queue: one of three tries must be clean. None
    may repeat any."""
    tries = 1 if STRICT else 3
    for _ in range(tries):
        flow = switch()
        print(
            f"{what}: {flow.replies} replies, {len(flow.missing)} missing {flow.missing[:5]}, "
            f"{len(flow.repeated)} repeated, {flow.disordered} out of order"
        )
        assert not flow.repeated
        assert flow.replies > 500
        if not flow.missing:
            return
    pytest.fail(f"{what}: packets were lost in each of {tries} tries")


def strangers(grid: NattedNetwork, best: str) -> tuple[str, str]:
    """Two hosts without a session that will have such a path."""
    known = grid.all_paths()
    return next(
        pair
        for pair, path in known.items()
        if path == known[pair[::-1]] == "none"
        and BOOTSTRAP not in pair
        and can_be_punched(*map(kind_of_host, pair)) == (best == "direct")
    )


def test_a_path_that_dies_in_silence_is_left_and_taken_again_when_it_is_back(
    grid: NattedNetwork, promises: Promises
) -> None:
    for one, other, one_way, promised_s in (("port1", "port2", False, 3.0), ("addr1", "port3", True, 5.0)):
        with grid.pings(one, other, 0.01) as pings:
            grid.wait_for(one, other, ("direct",))
            pings.wait_for_reply()
            cut_at = time.time()
            grid.lab.cut(one, other, one_way=one_way)
            try:
                grid.wait_for(one, other, ("proxy", "overlay"))
                pings.wait_for_reply(time.time() + 1.0)
                lost_s = pings.lost_since(cut_at)
            finally:
                grid.lab.mend(one, other)
                mended_at = time.time()
            back_s = grid.wait_for(one, other, ("direct",))
            pings.wait_for_reply(time.time() + 1.0)
            what = "one way" if one_way else "both ways"
            promises.measured(f"lost when a path dies {what}", lost_s, promised_s)
            promises.measured(f"direct again after the mending, {what}", back_s, BACK_S)
            missing = pings.missing(mended_at)
            print(f"{len(missing)} missing after the mending", missing[:10])
            assert not missing and not pings.repeated()


@pytest.mark.parametrize(
    ("one", "other", "best"),
    [
        ("port2", "full1", "direct"),
        ("port2", "port3", "direct"),
        ("port2", "sym1", "proxy"),
        ("sym2", "port1", "proxy"),
    ],
)
def test_a_nat_that_forgets_its_mappings_interrupts_for_5_s_at_most(
    grid: NattedNetwork, promises: Promises, one: str, other: str, best: str
) -> None:
    with grid.pings(one, other, 0.01) as pings:
        grid.wait_for(one, other, (best,))
        pings.wait_for_reply()
        at = time.time()
        grid.lab.rebind(one)
        pings.wait_for_reply(time.time() + 2.0)
        promises.measured(f"lost when the NAT of {one} is rebound", pings.lost_since(at), REBIND_S)
        grid.wait_for(one, other, (best,))
        promises.measured(f"{best} again after a NAT was rebound", time.time() - at, BACK_S)


@pytest.mark.parametrize(("one", "other", "best"), [("full2", "port1", "direct"), ("sym3", "port1", "proxy")])
def test_a_host_that_moves_is_heard_again_within_2_s(
    grid: NattedNetwork, promises: Promises, one: str, other: str, best: str
) -> None:
    with grid.pings(one, other, 0.01) as pings:
        grid.wait_for(one, other, (best,))
        pings.wait_for_reply()
        at = time.time()
        grid.lab.move(one)
        pings.wait_for_reply(time.time() + 2.0)
        promises.measured("lost when a host changes its address", pings.lost_since(at), MOVE_S)
        grid.wait_for(one, other, (best,))
        promises.measured(f"{best} again after a change of address", time.time() - at, BACK_S)


# --- failures


def test_when_the_relay_in_use_is_killed_another_takes_over(grid: NattedNetwork, promises: Promises) -> None:
    one, other = "port3", "sym3"
    with grid.pings(one, other, 0.02) as pings:
        grid.wait_for(one, other, ("proxy",))
        relay = grid.peers(one)[other]["via"]
        pings.wait_for_reply(time.time())
        killed_at = time.time()
        grid.lab.nodes[relay].kill()
        try:
            pings.wait_for_reply(time.time() + 3.0)
            promises.measured("lost when a relay is killed", pings.lost_since(killed_at), RESUME_S)
            grid.wait_for(one, other, ("proxy",))
        finally:
            grid.restart(relay)


def test_a_node_behind_a_symmetric_nat_comes_back_while_its_bootstrap_is_dead(
    grid: NattedNetwork, promises: Promises
) -> None:
    grid.lab.nodes[BOOTSTRAP].kill()
    grid.lab.nodes["sym2"].kill()
    try:
        grid.whole()
        began_at = time.time()
        grid.lab.start(grid.lab.host("sym2"))
        others = {"addr3": "direct", "sym1": "proxy"}
        with ExitStack() as stack:
            started = {other: stack.enter_context(grid.pings(other, "sym2", 0.2)) for other in others}
            for other, pings in started.items():
                pings.wait_for_reply()
                promises.measured(f"{other} reaches it after its start", pings.replies()[0][0] - began_at, RETURN_S)
                grid.wait_for(other, "sym2", (others[other],))
    finally:
        grid.restart(BOOTSTRAP)


def test_a_frozen_node_is_reached_after_its_thaw(grid: NattedNetwork, promises: Promises) -> None:
    sleeper = "cgnat-port3"
    with grid.pings("port1", sleeper, 0.1), grid.pings("sym1", sleeper, 0.1) as pings:
        grid.wait_for("port1", sleeper, ("direct",))
        grid.wait_for("sym1", sleeper, ("proxy",))
        grid.lab.nodes[sleeper].freeze()
        try:
            time.sleep(FREEZE_S)
        finally:
            thawed_at = time.time()
            grid.lab.nodes[sleeper].thaw()
        pings.wait_for_reply(thawed_at)
        promises.measured("reached after the thaw", time.time() - thawed_at, THAW_S)
        grid.wait_for("port1", sleeper, ("direct",))
        grid.wait_for("sym1", sleeper, ("proxy",))
