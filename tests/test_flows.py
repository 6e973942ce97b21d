"""Flows between TAPs of simulated nodes: every packet is accounted for, by the path that it really took."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sims.scenario.perform import perform
from sims.scenario.plan import ScenarioError, read_scenario

VPN = """
nodes = 3
duration_s = 4
drain_s = 1
[stack]
kind = "vpn"
crypto = "plain"
[network]
duplicate = 0.0
latency = { kind = "constant", rtt_ms = 40 }
[[workload]]
kind = "flows"
count = 2
rate_per_s = 1
lasts_s = 2
packets_per_s = 10
wait_s = 0.5
"""


def flows_of(text: str, seed: int = 1) -> list[dict[str, Any]]:
    performed = perform(read_scenario(text, "test.toml", lambda name: None).points[0][1], seed)
    return [row for row in map(json.loads, performed.rows) if row["kind"] == "flow"]


def test_a_flow_between_neighbours_arrives_whole_directly_and_after_half_a_round_trip() -> None:
    first, second = flows_of(VPN)
    assert (first["t_s"], second["t_s"]) == (0.0, pytest.approx(1.0))
    for flow in (first, second):
        assert (flow["sent"], flow["received"], flow["delivered"], flow["repeated"]) == (20, 20, 1.0, 0)
        assert (flow["path"], flow["source_behind"], flow["target_behind"]) == ("direct", "public", "public")
        assert flow["delay_ms"] == pytest.approx(20.0) and flow["stretch"] == pytest.approx(1.0)


def test_what_the_network_loses_is_missing_and_what_it_repeats_comes_once() -> None:
    (flow, _) = flows_of(VPN + "[[fault]]\nkind = 'loss'\nat_s = 0.95\nloss = 1.0\n")
    assert (flow["sent"], flow["received"], flow["delivered"]) == (20, 10, 0.5)
    # What comes twice is opened once: replays are dropped.
    (flow, _) = flows_of(VPN.replace("duplicate = 0.0", "duplicate = 1.0"))
    assert (flow["received"], flow["repeated"]) == (20, 0)


def test_a_flow_ends_with_its_sender_and_outlives_its_receiver() -> None:
    crashed = VPN.replace("nodes = 3", "nodes = 2") + "[[fault]]\nkind = 'crash'\nat_s = 0.95\nfraction = 0.5\n"
    ran = {flow["sent"]: flow for seed in range(1, 7) for flow in flows_of(crashed, seed)[:1]}
    # Node 1 dies after a second: where it sends, so does its flow; where it receives, nothing comes any more.
    assert set(ran) == {10, 20}, ran
    assert ran[10]["received"] == ran[20]["received"] == 10


def test_two_symmetric_nats_are_bridged_by_a_proxy() -> None:
    text = VPN.replace("nodes = 3", "nodes = 6").replace("count = 2", "count = 6").replace("lasts_s = 2", "lasts_s = 3")
    text = text.replace("duration_s = 4", "duration_s = 9") + "[nat]\nsym = 0.7\n"
    flows = flows_of(text)
    hidden = [flow for flow in flows if flow["source_behind"] == flow["target_behind"] == "sym"]
    assert hidden, flows
    for flow in hidden:
        assert flow["path"] == "proxy" and flow["direct_after_s"] is None and flow["delivered"] > 0.9


def test_flows_need_taps_and_packets_that_fit_them() -> None:
    with pytest.raises(ScenarioError, match=r"workload\.0\.kind: this needs whole VPN nodes"):
        flows_of(VPN.replace('"vpn"', '"ring"'))
    with pytest.raises(ScenarioError, match=r"workload\.0\.packet_bytes: 2,000 is more than 1,400"):
        flows_of(VPN + "packet_bytes = 2000\n")
