"""`p2pvpn crawl`: what the node answers, what people see, and the picture."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from dht.aggregate import Missing, Reason
from dht.arcs import Arc
from dht.coordinate import Coordinate
from dht.crawl import Crawled, Sight
from dht.storage import MemoryStorage
from ipop import crawl_tables
from ipop.cli import app
from ipop.commands import Commands
from ipop.config import VpnConfig
from ipop.control import ANSWER_S, MAX_ANSWER_S, SOON_S, _patience_s
from ipop.crawl_status import REASONS, crawl_object
from ipop.node import VpnNode, build_node
from ipop.ring_picture import agrees, dot, is_drawable, svg
from ipop.tap import MemoryTap
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from tests.identities import START_S, make_identities


def sight(node_id: int, name: str, successor: int, predecessor: int) -> Sight:
    return Sight(node_id, name, "1.0", Coordinate(1.0, -2.0, 3.0, 0.2), (successor,), (predecessor,), (successor,), 2)


ONE, TWO, THREE = 1 << 156, 5 << 156, 11 << 156
CRAWLED = Crawled(
    (sight(ONE, "a", TWO, THREE), sight(TWO, 'b<&"', THREE, ONE), sight(THREE, "c", ONE, TWO)),
    (
        Missing(7 << 156, Arc(7 << 60, (7 << 60) + 1), Reason.SILENT),
        Missing(None, Arc(9 << 60, 10 << 60), Reason.UNREACHED),
    ),
    0.61234,
    False,
)


def crawl() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(json.dumps(crawl_object(CRAWLED, sequential=False)))
    return answer


def test_a_crawl_as_json_says_everything() -> None:
    answer = crawl()
    assert answer["took_s"] == 0.612 and not answer["complete"] and not answer["sequential"]
    first = answer["nodes"][0]
    assert first["name"] == "a" and first["id"] == f"{ONE:040x}" and first["version"] == "1.0"
    assert first["coordinate"] == {"x_ms": 1.0, "y_ms": -2.0, "height_ms": 3.0, "error": 0.2}
    assert first["successors"] == [f"{TWO:040x}"] and first["predecessors"] == [f"{THREE:040x}"]
    silent, nobody = answer["missing"]
    assert silent == {
        "id": f"{7 << 156:040x}",
        "reason": "silent",
        "alone": True,
        "from": f"{7 << 60:016x}",
        "to": f"{(7 << 60) + 1:016x}",
    }
    assert nobody["id"] is None and not nobody["alone"]
    assert set(REASONS) == set(Reason)


def test_people_see_names_what_is_missing_and_what_it_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    crawl_tables.show_crawl(crawl())
    shown = capsys.readouterr().out
    assert "b<&" in shown and "(1, -2) + 3 ms" in shown
    assert "70000000 did not answer: silent" in shown
    assert "nobody was reached of the nodes from 90000000 to a0000000" in shown
    assert "3 nodes seen by tree in 0.6 s, incomplete; consistency" in shown


def test_the_picture_is_well_formed_and_shows_every_node_and_the_silent_ones() -> None:
    drawing = ElementTree.fromstring(svg(crawl()))
    space = "{http://www.w3.org/2000/svg}"
    dots = drawing.findall(f"{space}circle")
    titles = [found.text for each in dots if (found := each.find(f"{space}title")) is not None]
    assert titles == ["a", 'b<&"', "c", "70000000: no answer"]
    assert len(drawing.findall(f".//{space}line")) == 6
    graph = dot(crawl())
    assert graph.startswith("digraph") and graph.count("->") == 6 and '"b<&\\""' in graph
    assert is_drawable("a.svg") and is_drawable("a.dot") and not is_drawable("a.png")


def test_who_is_not_its_neighbours_neighbour_stands_out() -> None:
    answer = crawl()
    nodes = {node["id"]: node for node in answer["nodes"]}
    assert all(agrees(nodes, node) for node in nodes.values())
    nodes[f"{TWO:040x}"]["predecessors"] = [f"{THREE:040x}"]
    assert [agrees(nodes, node) for node in nodes.values()] == [False, False, True], (
        "c names b as its predecessor, which is right"
    )


def test_a_picture_of_a_form_that_is_not_drawn_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["crawl", "--picture", "ring.png"])
    assert result.exit_code == 2 and "neither in .svg nor in .dot" in result.output.replace("\n", " ")


def test_the_control_socket_waits_as_long_as_a_command_says_it_takes() -> None:
    assert _patience_s({"command": "ping"}) == ANSWER_S
    assert _patience_s({"command": "crawl", "deadline_s": 5}) == ANSWER_S
    assert _patience_s({"command": "crawl", "deadline_s": 300.0}) == 300.0 + SOON_S
    for strange in ("300", None, True, float("nan"), float("inf"), MAX_ANSWER_S, -1):
        assert _patience_s({"command": "crawl", "deadline_s": strange}) == ANSWER_S


def test_nodes_crawl_their_ring_by_tree_and_by_walk_and_refuse_nonsense() -> None:
    engine = Engine(1)
    network = Network(engine, Constant(20.0))
    nodes: list[VpnNode] = []
    for identity in make_identities(6, 1, now=START_S):
        host = network.host()
        nodes.append(build_node(host, MemoryTap(), VpnConfig(identity, MemoryStorage(), version="9.9")))
        nodes[-1].start([nodes[0].ring.contact().endpoints[0]] if len(nodes) > 1 else ())
        engine.run_for(0.3)
    commands = Commands(nodes[2], lambda: None)
    unready = build_node(network.host(), MemoryTap(), VpnConfig(make_identities(7, 1, now=START_S)[6], MemoryStorage()))
    replies: list[dict[str, Any]] = []
    Commands(unready, lambda: None).serve({"command": "crawl"}, replies.append)
    assert "not in a ring" in replies.pop()["error"]
    engine.run_for(20)
    for request in ({"deadline_s": "1"}, {"deadline_s": 0}, {"deadline_s": True}, {"sequential": 1}):
        commands.serve({"command": "crawl", **request}, replies.append)
        assert "deadline" in replies.pop()["error"]
    for sequential in (False, True):
        commands.serve({"command": "crawl", "deadline_s": 5, "sequential": sequential}, replies.append)
        engine.run_for(5)
        (answer,) = (replies.pop()["result"],)
        assert not replies
        assert [node["name"] for node in answer["nodes"]] == [
            node.member.name for node in sorted(nodes, key=lambda node: node.member.id)
        ]
        assert answer["complete"] and answer["consistency"] == 1.0 and answer["sequential"] is sequential
        assert {node["version"] for node in answer["nodes"]} == {"9.9"}
