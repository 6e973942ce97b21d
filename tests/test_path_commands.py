"""why, shortcuts, proxies, netcheck and ping: the fields that programs read, and that people get sentences that fit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from rich.console import Console

from dht.host import Endpoint
from dht.views import PeerView, PingResult
from ipop import path_tables, tables
from ipop.commands import Commands
from ipop.node import Target
from ipop.pinging import Limits, replies
from shortcuts.candidates import Candidate, CandidateKind
from shortcuts.nat import Answer, Filtering, Mapping, Nat
from shortcuts.views import AttemptView, Explanation, NetReport, PathView, RelayView, TrialView

ALICE, BOB, CAROL, DAVE, ERIN = range(1, 6)
NAMES = {ALICE: "alice", BOB: "bob[red]", CAROL: "carol", DAVE: "dave"}
SYMMETRIC = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Answer.NO, Answer.NO)
OPEN = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Answer.YES)

BY_CAROL = PathView("proxy", None, CAROL, "carol", True, 23.45678, 0.26, 0)
BY_DAVE = PathView("proxy", None, DAVE, None, False, 31.0, 12.0, 1)
OVERLAY = PathView("overlay", None, None, None, False, None, None, 0)
DIRECT = PathView("direct", Endpoint("2001:db8:1234:5678:11:2233:4455:6677", 7078), None, None, False, None, None, 2)
LOCAL = Candidate(CandidateKind.HOST, Endpoint("192.168.1.5", 7077))
REMOTE = Candidate(CandidateKind.SERVER_REFLEXIVE, Endpoint("203.0.113.9", 40_000))
PREDICTED = Candidate(CandidateKind.PREDICTED, Endpoint("203.0.113.9", 40_001))

EXPLAINED = Explanation(
    peer_id=BOB,
    name=NAMES[BOB],
    path=BY_CAROL,
    reason="no direct path: no candidate answered",
    demand="in use",
    score=41.26,
    local_nat=(SYMMETRIC, Nat()),
    remote_nat=(SYMMETRIC, Nat(Mapping.NONE)),
    local_candidates=(LOCAL,),
    remote_candidates=(REMOTE, PREDICTED),
    attempts=(
        AttemptView(
            3.04,
            "no candidate answered",
            True,
            (TrialView(REMOTE, "no answer to 4 checks"), TrialView(PREDICTED, "not tried")),
        ),
    ),
    paths=(BY_CAROL, BY_DAVE, OVERLAY, DIRECT),
    next_retry_s=12.34,
    path_s_ago=90.0,
)
REPORT = NetReport(
    local=(Endpoint("192.168.1.5", 7077), Endpoint("2001:db8::5", 7077)),
    nat=(OPEN, Nat()),
    outside=(Endpoint("203.0.113.5", 7077), None),
    witnesses=(3, 0),
    mapped=None,
    mapping_note="no gateway answered PCP, NAT-PMP or UPnP",
    keepalive_s=27.0,
    willing=True,
    circuits=(RelayView(BOB, CAROL, 1_234), RelayView(CAROL, ERIN, 5_000_000)),
    nearest=(("carol", 1.25), ("dave", 9.0)),
)
PEERS = (
    PeerView(BOB, NAMES[BOB], (IPv4Address("10.77.0.2"),), "proxy", CAROL, 2, None, 23.4, 1000, 2000, 0.0),
    PeerView(
        CAROL, "carol", (IPv4Address("10.77.0.3"),), "direct", None, 1, DIRECT.endpoint, 1.25, 123_456_789, 2_000, 0.0
    ),
    PeerView(DAVE, "dave", (IPv4Address("10.77.0.4"),), "overlay", None, 3, None, None, 0, 0, 0.0),
)

# What programs depend on: the names, and what is under them.
PATH_FIELDS = {"path", "via", "endpoint", "in_use", "rtt_ms", "proven_s_ago", "failures"}
PROXY_FIELDS = PATH_FIELDS - {"path", "endpoint"}
NAT_FIELDS = {"translated", "mapping", "filtering", "preserves_ports", "hairpins"}
WHY_FIELDS = {
    "peer", "path", "reason", "local_nat", "remote_nat", "candidates", "attempts", "proxies", "score", "next_retry_s",
    "id", "via", "hops", "endpoint", "rtt_ms", "not_direct", "advice", "paths", "demand", "since_s",
}  # fmt: skip
SHORTCUT_FIELDS = {
    "peer", "id", "path", "via", "hops", "endpoint", "rtt_ms", "reason", "demand", "score", "since_s", "next_retry_s",
}  # fmt: skip
NETCHECK_FIELDS = {"udp", "ipv4", "ipv6", "port_mapping", "keepalive_s", "relay", "nearest"}


@dataclass
class KnownPaths:
    """As much of a VpnNode, its ring and its search for paths as commands need."""

    explained: dict[int, Explanation] = field(default_factory=lambda: {BOB: EXPLAINED})
    net: NetReport = REPORT
    views: tuple[PeerView, ...] = PEERS
    pinged: PingResult | None = None
    relay_mbit: float | None = None
    silent: tuple[float, Endpoint] | None = None

    @property
    def ring(self) -> KnownPaths:
        return self

    @property
    def shortcuts(self) -> KnownPaths:
        return self

    def peers(self) -> list[PeerView]:
        return list(self.views)

    def peer(self, node_id: int) -> PeerView | None:
        return next((view for view in self.views if view.id == node_id), None)

    def name_of(self, node_id: int) -> str:
        return NAMES.get(node_id, f"{node_id:040x}")

    def given_up(self, node_id: int) -> tuple[float, Endpoint] | None:
        return self.silent

    def explain(self, peer_id: int) -> Explanation | None:
        return self.explained.get(peer_id)

    def explanations(self) -> list[Explanation]:
        return list(self.explained.values())

    def report(self) -> NetReport:
        return self.net

    def find(self, text: str, done: Callable[[Target | str], None]) -> None:
        found = [node_id for node_id, name in NAMES.items() if name.startswith(text)]
        done(Target(found[0], NAMES[found[0]], ()) if found else Target(ERIN, None, ()))

    def ping(self, peer_id: int, done: Callable[[PingResult | None], None]) -> None:
        done(self.pinged)

    def ask(self, command: str, **arguments: object) -> Any:
        """The result of a command, after the journey through JSON that it makes to a program."""
        vpn: Any = self
        answers: list[dict[str, Any]] = []
        Commands(vpn, lambda: None).serve({"command": command, **arguments}, answers.append)
        (answer,) = answers
        assert answer["ok"], answer
        return json.loads(json.dumps(answer["result"]))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a table prints into a terminal of some width."""

    def run(show: Callable[[Any], None], answer: object, width: int = 80) -> str:
        out = io.StringIO()

        def console() -> Console:
            return Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False)

        monkeypatch.setattr(tables, "make_console", console)
        monkeypatch.setattr(path_tables, "make_console", console)
        show(answer)
        lines = out.getvalue().splitlines()
        assert all(len(line) <= width for line in lines), out.getvalue()
        assert "…" not in out.getvalue(), "something was cut off"
        return out.getvalue()

    return run


def test_why_has_every_field_of_the_contract() -> None:
    why = KnownPaths().ask("why", peer="bob")
    assert set(why) == WHY_FIELDS
    assert (why["peer"], why["path"], why["via"], why["hops"]) == ("bob[red]", "proxy", "carol", 2)
    assert why["reason"] == EXPLAINED.reason
    assert "symmetric" in why["not_direct"]
    assert why["advice"].startswith("forward UDP port 7077 to this node")
    for end in ("local_nat", "remote_nat"):
        assert set(why[end]) == {"ipv4", "ipv6"}
        assert all(set(nat) == NAT_FIELDS for nat in why[end].values())
    assert why["local_nat"]["ipv4"] == {
        "translated": True,
        "mapping": "address-and-port-dependent",
        "filtering": "address-and-port-dependent",
        "preserves_ports": False,
        "hairpins": False,
    }
    assert set(why["local_nat"]["ipv6"].values()) == {None}
    assert why["candidates"] == [
        {"side": "local", "kind": "host", "endpoint": "192.168.1.5:7077"},
        {"side": "remote", "kind": "server-reflexive", "endpoint": "203.0.113.9:40000"},
        {"side": "remote", "kind": "predicted", "endpoint": "203.0.113.9:40001"},
    ]
    (attempt,) = why["attempts"]
    assert set(attempt) == {"began_s_ago", "outcome", "over", "trials"}
    assert attempt["trials"][0] == {
        "kind": "server-reflexive", "endpoint": "203.0.113.9:40000", "outcome": "no answer to 4 checks",
    }  # fmt: skip
    assert [(proxy["via"], proxy["rtt_ms"], proxy["in_use"]) for proxy in why["proxies"]] == [
        ("carol", 23.457, True),
        ("dave", 31.0, False),
    ]
    assert all(set(proxy) == PROXY_FIELDS for proxy in why["proxies"])
    assert all(set(path) == PATH_FIELDS for path in why["paths"])
    assert (why["score"], why["next_retry_s"], why["since_s"]) == (41.3, 12.3, 90.0)


def test_why_of_a_peer_that_nobody_searched_a_path_to_is_what_the_session_shows() -> None:
    node = KnownPaths(explained={})
    why = node.ask("why", peer="bob")
    assert set(why) == WHY_FIELDS
    assert (why["path"], why["via"], why["local_nat"], why["attempts"]) == ("proxy", "carol", None, [])
    assert "through carol" in why["reason"]
    assert node.ask("why", peer="carol")["path"] == "direct"
    assert "go over the ring" in node.ask("why", peer="dave")["reason"]
    stranger = node.ask("why", peer="stranger")
    assert set(stranger) == WHY_FIELDS
    assert (stranger["path"], stranger["hops"], stranger["score"]) == (None, None, 0.0)
    assert "there is no session" in stranger["reason"]
    assert "silent" not in stranger["reason"]
    dead = KnownPaths(explained={}, silent=(65.0, Endpoint("203.0.113.9", 7))).ask("why", peer="stranger")
    assert "fell silent, and was given up 1 min 5 s ago, when it was at 203.0.113.9:7" in dead["reason"]


def test_shortcuts_has_one_entry_a_peer_that_has_or_wants_one() -> None:
    (shortcut,) = KnownPaths().ask("shortcuts")
    assert set(shortcut) == SHORTCUT_FIELDS
    assert (shortcut["peer"], shortcut["path"], shortcut["via"], shortcut["score"]) == (
        "bob[red]", "proxy", "carol", 41.3,
    )  # fmt: skip
    assert KnownPaths(explained={}).ask("shortcuts") == []


def test_proxies_shows_who_relays_for_us_and_for_whom_we_relay() -> None:
    proxies = KnownPaths().ask("proxies")
    assert set(proxies) == {"used", "willing", "limit_mbit", "carried"}
    assert [(used["peer"], used["via"]) for used in proxies["used"]] == [("bob[red]", "carol"), ("bob[red]", "dave")]
    assert all(set(used) == PROXY_FIELDS | {"peer", "id"} for used in proxies["used"])
    assert proxies["carried"] == [
        {"one": "carol", "other": f"{ERIN:040x}", "bytes": 5_000_000},
        {"one": "bob[red]", "other": "carol", "bytes": 1_234},
    ]


def test_netcheck_has_a_part_for_each_family_and_for_the_router() -> None:
    check = KnownPaths().ask("netcheck")
    assert set(check) == NETCHECK_FIELDS
    assert check["udp"] is True
    assert check["ipv4"] == {
        "local": ["192.168.1.5:7077"],
        "outside": "203.0.113.5:7077",
        "witnesses": 3,
        "nat": {
            "translated": True,
            "mapping": "endpoint-independent",
            "filtering": "endpoint-independent",
            "preserves_ports": True,
            "hairpins": None,
        },
    }
    assert (check["ipv6"]["local"], check["ipv6"]["outside"]) == (["[2001:db8::5]:7077"], None)
    assert check["port_mapping"] == {"endpoint": None, "note": REPORT.mapping_note}
    assert (check["keepalive_s"], check["relay"]["willing"]) == (27.0, True)
    assert check["nearest"][0] == {"name": "carol", "rtt_ms": 1.25}
    alone = KnownPaths(views=(), net=replace(REPORT, witnesses=(0, 0)))
    assert alone.ask("netcheck")["udp"] is False


def test_peers_name_the_relay_and_have_their_score() -> None:
    peers = KnownPaths().ask("peers")
    assert [(peer["name"], peer["path"], peer["via"], peer["hops"], peer["score"]) for peer in peers] == [
        ("bob[red]", "proxy", "carol", 2, 41.3),
        ("carol", "direct", None, 1, 0.0),
        ("dave", "overlay", None, 3, 0.0),
    ]


def test_a_pong_says_which_way_the_ping_went() -> None:
    proxy = KnownPaths(pinged=PingResult(12.0, "proxy", CAROL, 2, None)).ask("ping", peer="bob")
    assert (proxy["path"], proxy["via"], proxy["hops"], proxy["endpoint"]) == ("proxy", "carol", 2, None)
    direct = KnownPaths(pinged=PingResult(3.0, "direct", None, 1, Endpoint("192.0.2.1", 7000))).ask("ping", peer="bob")
    assert (direct["path"], direct["via"], direct["endpoint"]) == ("direct", None, "192.0.2.1:7000")
    silent = KnownPaths().ask("ping", peer="bob")
    assert {name: silent[name] for name in ("rtt_ms", "path", "via", "hops", "endpoint")} == dict.fromkeys(
        ("rtt_ms", "path", "via", "hops", "endpoint")
    )


Shown = Callable[..., str]


def test_why_answers_in_its_first_lines_and_leaves_nothing_out(shown: Shown) -> None:
    text = shown(path_tables.show_why, KnownPaths().ask("why", peer="bob"), 200)
    lines = text.splitlines()
    assert lines[0] == "bob[red]: proxy carol, 23.5 ms"
    assert lines[1].startswith("why not direct: the NATs of both ends are symmetric (another outside port for every")
    assert lines[2].startswith("what would help: forward UDP port 7077")
    for part in (
        "in use for", "1 min 30 s", "in 12 s", "IPv4 NAT of this node", "IPv4 NAT of bob[red]", "IPv6 NAT of bob[red]",
        "port numbers change", "no hairpinning", "* proxy carol", "  proxy dave", "31.0 ms", "never", "try 3 s ago",
        "no answer to 4 checks", "guess at the next port", "192.168.1.5:7077", "own address", "score 41",
    ):  # fmt: skip
        assert part in text, part
    assert "IPv6 NAT of this node" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_narrow_terminals_get_everything_that_matters(shown: Shown, width: int) -> None:
    node = KnownPaths()
    why = shown(path_tables.show_why, node.ask("why", peer="bob"), width)
    assert "why not direct:" in why
    assert "203.0.113.9:40000" in why
    shortcuts = shown(path_tables.show_shortcuts, node.ask("shortcuts"), width)
    assert "bob[red]" in shortcuts
    assert "no direct" in shortcuts
    proxies = shown(path_tables.show_proxies, node.ask("proxies"), width)
    assert "carol" in proxies
    assert "5.0 MB" in proxies
    check = shown(path_tables.show_netcheck, node.ask("netcheck"), width)
    assert "203.0.113.5:7077" in check
    peers = shown(tables.show_peers, node.ask("peers"), width)
    for part in ("bob[red]", "proxy(via", "overlay(3", "23.4 ms"):
        assert part in peers
    if width >= 80:
        assert "10.77.0.2" in peers


def test_a_direct_path_is_explained_without_advice(shown: Shown) -> None:
    path = replace(DIRECT, in_use=True, rtt_ms=3.21, failures=0)
    direct = replace(EXPLAINED, path=path, reason="a direct path works", next_retry_s=None)
    text = shown(path_tables.show_why, KnownPaths(explained={BOB: direct}).ask("why", peer="bob"))
    lines = text.splitlines()
    assert lines[:2] == [f"bob[red]: direct {DIRECT.endpoint}, 3.2 ms", "why: a direct path works"]
    assert "what would help" not in text
    assert "next try" not in text


def test_nothing_known_is_said_in_words(shown: Shown) -> None:
    node = KnownPaths(
        explained={},
        views=(),
        net=NetReport((), (Nat(), Nat()), (None, None), (0, 0), None, "", 27.0, False, (), ()),
    )
    assert "no path\nwhy: there is no session" in shown(path_tables.show_why, node.ask("why", peer="x"))
    assert "they come with traffic" in shown(path_tables.show_shortcuts, node.ask("shortcuts"))
    proxies = shown(path_tables.show_proxies, node.ask("proxies"))
    assert "nobody relays for this node" in proxies
    assert "does not relay for others (--no-proxy)" in proxies
    check = shown(path_tables.show_netcheck, node.ask("netcheck"))
    for part in ("nobody has answered yet", "no address for it", "none yet"):
        assert part in " ".join(check.split())


def test_what_one_witness_shows_is_said_and_what_nobody_knows_is_not(shown: Shown) -> None:
    once = replace(REPORT, nat=(Nat(preserves_ports=Answer.NO), Nat()), witnesses=(1, 0))
    check = KnownPaths(net=once).ask("netcheck")
    assert check["ipv4"]["nat"]["translated"] is True
    text = " ".join(shown(path_tables.show_netcheck, check).split())
    assert "addresses are translated; only one member could tell so far" in text
    assert "(symmetric, which is likely, as port numbers change)" in text
    assert "who gets in" not in text
    own = replace(once, outside=(Endpoint("192.168.1.5", 7077), None))
    assert KnownPaths(net=own).ask("netcheck")["ipv4"]["nat"]["translated"] is None


def test_a_node_without_ipv4_is_not_told_of_its_nat(shown: Shown) -> None:
    only6 = (Candidate(CandidateKind.HOST, Endpoint("2001:db8::5", 7077)),)
    unknown = (Nat(), Nat())
    node = KnownPaths(explained={BOB: replace(EXPLAINED, local_nat=unknown, local_candidates=only6, score=0.0)})
    text = shown(path_tables.show_why, node.ask("why", peer="bob"))
    assert "IPv6 NAT of this node" in text
    assert "IPv4 NAT of this node" not in text
    assert "(score" not in text


def test_the_bound_on_relaying_is_shown(shown: Shown) -> None:
    bound = KnownPaths(relay_mbit=2.5)
    for show, command in ((path_tables.show_netcheck, "netcheck"), (path_tables.show_proxies, "proxies")):
        text = " ".join(shown(show, bound.ask(command)).split())
        assert "relays at most 2.5 Mbit/s for others: 2 pairs" in text
        assert "Mbit/s" not in shown(show, KnownPaths().ask(command))


def test_netcheck_shows_what_stun_servers_said(shown: Shown) -> None:
    check = KnownPaths().ask("netcheck")
    check["stun"] = {"server": "stun.example:3478", "ipv4": "203.0.113.5:999", "ipv6": None}
    text = " ".join(shown(path_tables.show_netcheck, check).split())
    assert "stun.example:3478 sees this machine at 203.0.113.5:999" in text
    assert "stun.example:3478 does not answer" in text


class Pinged:
    """Answers pings by these paths, one after another and the last for ever; a ping takes a tenth of a second."""

    def __init__(self, *paths: str | None) -> None:
        self.now = 100.0
        self.paths = list(paths)
        self.within: list[float | None] = []

    def ask(self, within_s: float | None) -> dict[str, Any]:
        self.within.append(within_s)
        self.now += 0.1
        path = self.paths.pop(0) if len(self.paths) > 1 else self.paths[0]
        return {"path": path, "rtt_ms": None if path is None else 1.0}

    def pause(self, pause_s: float) -> None:
        self.now += pause_s

    def run(self, limits: Limits) -> list[str | None]:
        return [reply["path"] for reply in replies(limits, self.ask, lambda: self.now, self.pause)]


def test_ping_stops_at_the_first_direct_reply() -> None:
    assert Pinged("overlay", "proxy", "direct").run(Limits()) == ["overlay", "proxy", "direct"]
    assert Pinged("direct").run(Limits(count=5)) == ["direct"]
    assert Pinged("direct").run(Limits(count=5, until_direct=False)) == ["direct"] * 5


def test_ping_gives_up_after_a_number_of_replies_or_of_silence() -> None:
    assert len(Pinged("overlay").run(Limits())) == 10
    assert len(Pinged(None).run(Limits())) == 3
    assert Pinged(None, "overlay").run(Limits()) == [None] + ["overlay"] * 9
    assert len(Pinged(None).run(Limits(count=7))) == 7


def test_ping_keeps_to_its_time() -> None:
    pinged = Pinged("overlay")
    assert len(pinged.run(Limits(timeout_s=20.0))) == 19  # one every 1.1 s, the last not begun too late
    assert pinged.now <= 120.0
    assert all(within is not None and within <= 20.0 for within in pinged.within)
    assert len(Pinged("overlay").run(Limits(count=3, timeout_s=20.0))) == 3
    assert Pinged("overlay", "direct").run(Limits(timeout_s=20.0)) == ["overlay", "direct"]


def test_ping_ends_when_the_node_has_no_answer_in_time() -> None:
    assert list(replies(Limits(timeout_s=1.0), lambda within_s: None, lambda: 0.0, lambda pause_s: None)) == []
