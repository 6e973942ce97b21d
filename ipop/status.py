"""What a node shows of itself, as JSON objects. Programs depend on these names: add fields, never change them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dht.ids import id_bytes
from dht.node import PeerView, PingResult
from ipop.node import Target, VpnNode


def status_object(vpn: VpnNode) -> dict[str, Any]:
    """`p2pvpn status --json`."""
    member, ring = vpn.member, vpn.ring.ring_view()
    return {
        "node": {
            "name": member.name,
            "id": hex_id(member.id),
            "addresses": [str(member.address4), str(member.address6)],
            "state": vpn.ring.state.value,
            "uptime_s": round(vpn.host.now() - vpn.started_at, 1),
            "network": vpn.identity.network.name,
            "tap": vpn.tap.name,
            "mtu": vpn.mtu,
            "underlay_mtu": vpn.underlay_mtu,
            "alarm": vpn.ring.alarm,
            "expires": _iso(member.not_after),
            "offloads": vpn.offloads(),
        },
        "ring": {
            "successors": [hex_id(node_id) for node_id in ring.successors],
            "predecessors": [hex_id(node_id) for node_id in ring.predecessors],
            "fingers": [hex_id(node_id) for node_id in ring.fingers],
            "size_estimate": ring.size_estimate,
        },
        "peers": peer_objects(vpn),
        "counters": dict(sorted(vpn.counters.items())),
    }


def peer_objects(vpn: VpnNode) -> list[dict[str, Any]]:
    """`p2pvpn peers --json`: everybody this node has a session with, by name."""
    scores = {explained.peer_id: explained.score for explained in vpn.shortcuts.explanations()}
    peers = sorted(vpn.ring.peers(), key=lambda peer: (peer.name, peer.id))
    return [_peer_object(vpn, peer, scores.get(peer.id, peer.score)) for peer in peers]


def _peer_object(vpn: VpnNode, peer: PeerView, score: float) -> dict[str, Any]:
    return {
        "name": peer.name,
        "id": hex_id(peer.id),
        "addresses": [str(address) for address in peer.addresses],
        "path": peer.path,
        "via": None if peer.via is None else vpn.name_of(peer.via),
        "hops": peer.hops,
        "endpoint": None if peer.endpoint is None else str(peer.endpoint),
        "rtt_ms": rounded(peer.rtt_ms),
        "tx_bytes": peer.tx_bytes,
        "rx_bytes": peer.rx_bytes,
        "score": round(score, 1),
    }


def ping_object(vpn: VpnNode, target: Target, result: PingResult | None) -> dict[str, Any]:
    """One line of `p2pvpn ping --json`; without a round trip and a path when no answer came."""
    path = via = hops = endpoint = rtt_ms = None
    if result is not None:
        path, hops, rtt_ms = result.path, result.hops, rounded(result.rtt_ms)
        via = None if result.via is None else vpn.name_of(result.via)
        endpoint = None if result.endpoint is None else str(result.endpoint)
    return {
        "peer": str(target),
        "id": hex_id(target.id),
        "addresses": list(target.addresses),
        "rtt_ms": rtt_ms,
        "path": path,
        "via": via,
        "hops": hops,
        "endpoint": endpoint,
    }


def _iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


def hex_id(node_id: int) -> str:
    """A node's id as programs see it: 40 hex digits."""
    return id_bytes(node_id).hex()


def rounded(milliseconds: float | None) -> float | None:
    """To a microsecond."""
    return None if milliseconds is None else round(milliseconds, 3)
