"""What a node shows of its paths to others, as JSON objects. Programs depend on these names: add fields, never change
them. An object a family, a NAT, a candidate; a node by its name where that is known, else by its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dht.host import Endpoint
from dht.node import PeerView
from ipop.advice import is_translated, why_not_direct
from ipop.node import Target, VpnNode
from ipop.status import hex_id, rounded
from ipop.wording import duration_text
from shortcuts.candidates import Candidate
from shortcuts.nat import Answer, Filtering, Mapping, Nat
from shortcuts.scope import is_ipv6
from shortcuts.views import AttemptView, Explanation, NetReport, PathView

_YES_NO = {Answer.UNKNOWN: None, Answer.NO: False, Answer.YES: True}


def why_object(vpn: VpnNode, target: Target) -> dict[str, Any]:
    """`p2pvpn why --json`. Lists are empty and values null where nothing is known."""
    peer = vpn.peer(target.id)
    explained = vpn.shortcuts.explain(target.id)
    why = _why_without_search(vpn, target, peer)
    if explained is not None:
        why |= _why_explained(vpn, explained)
    return why


def shortcut_objects(vpn: VpnNode) -> list[dict[str, Any]]:
    """`p2pvpn shortcuts --json`: every peer with a shortcut or a wish for one, by name."""
    return [
        {
            "peer": explained.name,
            "id": hex_id(explained.peer_id),
            "path": explained.path.kind,
            "via": _via(vpn, explained.path),
            "hops": None if (peer := vpn.peer(explained.peer_id)) is None else peer.hops,
            "endpoint": _text(explained.path.endpoint),
            "rtt_ms": rounded(explained.path.rtt_ms),
            "reason": explained.reason,
            "demand": explained.demand,
            "score": round(explained.score, 1),
            "since_s": _seconds(explained.path_s_ago),
            "next_retry_s": _seconds(explained.next_retry_s),
        }
        for explained in sorted(vpn.shortcuts.explanations(), key=lambda each: (each.name, each.peer_id))
    ]


def proxies_object(vpn: VpnNode) -> dict[str, Any]:
    """`p2pvpn proxies --json`: the tunnels that this node has, and those that it carries for others."""
    explanations = sorted(vpn.shortcuts.explanations(), key=lambda each: (each.name, each.peer_id))
    used = [
        {"peer": explained.name, "id": hex_id(explained.peer_id), **_proxy_object(vpn, path)}
        for explained in explanations
        for path in explained.paths
        if path.kind == "proxy"
    ]
    return {"used": used, **_relayed_object(vpn, vpn.shortcuts.report())}


def netcheck_object(vpn: VpnNode) -> dict[str, Any]:
    """`p2pvpn netcheck --json`."""
    report = vpn.shortcuts.report()
    direct = any(peer.path == "direct" for peer in vpn.ring.peers())
    return {
        "udp": direct or any(report.witnesses),
        "ipv4": _family_object(report, ipv6=False),
        "ipv6": _family_object(report, ipv6=True),
        "port_mapping": {"endpoint": _text(report.mapped), "note": report.mapping_note},
        "keepalive_s": round(report.keepalive_s, 1),
        "relay": _relayed_object(vpn, report),
        "nearest": [{"name": name, "rtt_ms": rounded(rtt_ms)} for name, rtt_ms in report.nearest],
    }


def nat_object(nat: Nat, *, translated: bool = False) -> dict[str, Any]:
    """A NAT's behaviour in the words of RFC 4787; null for what is not known. `translated`: somebody saw the host at
    another address than its own, which may be known while the mapping is not."""
    return {
        "translated": nat.mapping is not Mapping.NONE if nat.mapping else translated or None,
        "mapping": None if nat.mapping is Mapping.UNKNOWN else _words(nat.mapping.name),
        "filtering": None if nat.filtering is Filtering.UNKNOWN else _words(nat.filtering.name),
        "preserves_ports": _YES_NO[nat.preserves_ports],
        "hairpins": _YES_NO[nat.hairpins],
    }


def _why_without_search(vpn: VpnNode, target: Target, peer: PeerView | None) -> dict[str, Any]:
    if peer is None:
        reason = f"there is no session with {target}: nothing was sent to it lately, or it does not answer"
        if (lost := vpn.given_up(target.id)) is not None:
            reason += f"; it fell silent, and was given up {duration_text(lost[0])} ago, when it was at {lost[1]}"
    elif peer.path == "direct":
        reason = f"this node has an edge to {target} at {peer.endpoint}"
    elif peer.via is not None:
        reason = f"this node has an edge to {target} through {vpn.name_of(peer.via)}, to which both are near"
    else:
        reason = f"this node has no edge to {target}: packets go over the ring, encrypted end to end"
    return {
        "peer": str(target),
        "id": hex_id(target.id),
        "path": None if peer is None else peer.path,
        "via": None if peer is None or peer.via is None else vpn.name_of(peer.via),
        "hops": None if peer is None else peer.hops,
        "endpoint": None if peer is None else _text(peer.endpoint),
        "rtt_ms": None if peer is None else rounded(peer.rtt_ms),
        "reason": reason,
        "not_direct": None,
        "advice": None,
        "local_nat": None,
        "remote_nat": None,
        "candidates": [],
        "attempts": [],
        "paths": [],
        "proxies": [],
        "demand": None,
        "score": 0.0 if peer is None else round(peer.score, 1),
        "since_s": None,
        "next_retry_s": None,
    }


def _why_explained(vpn: VpnNode, explained: Explanation) -> dict[str, Any]:
    path, advice = explained.path, why_not_direct(explained)
    remote = explained.remote_nat
    return {
        "path": path.kind,
        "via": _via(vpn, path),
        "endpoint": _text(path.endpoint),
        "rtt_ms": rounded(path.rtt_ms),
        "reason": explained.reason,
        "not_direct": None if advice is None else advice.reason,
        "advice": None if advice is None else advice.action,
        "local_nat": _nats_object(explained.local_nat, explained.local_candidates),
        "remote_nat": None if remote is None else _nats_object(remote, explained.remote_candidates),
        "candidates": [
            {"side": side, **_candidate_object(candidate)}
            for side, candidates in (("local", explained.local_candidates), ("remote", explained.remote_candidates))
            for candidate in candidates
        ],
        "attempts": [_attempt_object(attempt) for attempt in explained.attempts],
        "paths": [_path_object(vpn, path) for path in explained.paths],
        "proxies": [_proxy_object(vpn, path) for path in explained.paths if path.kind == "proxy"],
        "demand": explained.demand,
        "score": round(explained.score, 1),
        "since_s": _seconds(explained.path_s_ago),
        "next_retry_s": _seconds(explained.next_retry_s),
    }


def _nats_object(nats: tuple[Nat, Nat], candidates: Sequence[Candidate]) -> dict[str, Any]:
    return {
        name: nat_object(nat, translated=is_translated(candidates, family))
        for family, (name, nat) in enumerate(zip(("ipv4", "ipv6"), nats, strict=True))
    }


def _candidate_object(candidate: Candidate) -> dict[str, Any]:
    return {"kind": _words(candidate.kind.name), "endpoint": str(candidate.endpoint)}


def _attempt_object(attempt: AttemptView) -> dict[str, Any]:
    return {
        "began_s_ago": _seconds(attempt.began_s_ago),
        "outcome": attempt.outcome,
        "over": attempt.over,
        "trials": [{**_candidate_object(trial.candidate), "outcome": trial.outcome} for trial in attempt.trials],
    }


def _path_object(vpn: VpnNode, path: PathView) -> dict[str, Any]:
    return {
        "path": path.kind,
        "via": _via(vpn, path),
        "endpoint": _text(path.endpoint),
        "in_use": path.in_use,
        "rtt_ms": rounded(path.rtt_ms),
        "proven_s_ago": _seconds(path.proven_s_ago),
        "failures": path.failures,
    }


def _proxy_object(vpn: VpnNode, path: PathView) -> dict[str, Any]:
    """A proxy is what `paths` shows of it, without what is the same for all of them."""
    return {name: value for name, value in _path_object(vpn, path).items() if name not in ("path", "endpoint")}


def _relayed_object(vpn: VpnNode, report: NetReport) -> dict[str, Any]:
    carried = [
        {"one": vpn.name_of(circuit.one), "other": vpn.name_of(circuit.other), "bytes": circuit.octets}
        for circuit in report.circuits
    ]
    limit = None if vpn.relay_mbit is None else round(vpn.relay_mbit, 3)
    return {"willing": report.willing, "limit_mbit": limit, "carried": sorted(carried, key=lambda each: -each["bytes"])}


def _family_object(report: NetReport, *, ipv6: bool) -> dict[str, Any]:
    local, outside = [each for each in report.local if is_ipv6(each.address) == ipv6], report.outside[ipv6]
    elsewhere = outside is not None and outside.address not in {each.address for each in local}
    return {
        "local": [str(endpoint) for endpoint in local],
        "outside": _text(outside),
        "witnesses": report.witnesses[ipv6],
        "nat": nat_object(report.nat[ipv6], translated=bool(local) and elsewhere),
    }


def _via(vpn: VpnNode, path: PathView) -> str | None:
    return None if path.via is None else path.via_name or vpn.name_of(path.via)


def _text(endpoint: Endpoint | None) -> str | None:
    return None if endpoint is None else str(endpoint)


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _words(name: str) -> str:
    return name.lower().replace("_", "-")
