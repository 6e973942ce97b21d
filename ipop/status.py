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
            "id": _hex(member.id),
            "addresses": [str(member.address4), str(member.address6)],
            "state": vpn.ring.state.value,
            "uptime_s": round(vpn.host.now() - vpn.started_at, 1),
            "network": vpn.identity.network.name,
            "tap": vpn.tap.name,
            "alarm": vpn.ring.alarm,
            "expires": _iso(member.not_after),
            "offloads": vpn.offloads(),
        },
        "ring": {
            "successors": [_hex(node_id) for node_id in ring.successors],
            "predecessors": [_hex(node_id) for node_id in ring.predecessors],
            "fingers": [_hex(node_id) for node_id in ring.fingers],
            "size_estimate": ring.size_estimate,
        },
        "peers": peer_objects(vpn),
        "counters": dict(sorted(vpn.counters.items())),
    }


def peer_objects(vpn: VpnNode) -> list[dict[str, Any]]:
    """`p2pvpn peers --json`: everybody this node has a session with, by name."""
    return [_peer_object(peer) for peer in sorted(vpn.ring.peers(), key=lambda peer: (peer.name, peer.id))]


def _peer_object(peer: PeerView) -> dict[str, Any]:
    return {
        "name": peer.name,
        "id": _hex(peer.id),
        "addresses": [str(address) for address in peer.addresses],
        "path": peer.path,
        "via": None,
        "hops": peer.hops,
        "endpoint": None if peer.endpoint is None else str(peer.endpoint),
        "rtt_ms": _rounded(peer.rtt_ms),
        "tx_bytes": peer.tx_bytes,
        "rx_bytes": peer.rx_bytes,
        "score": peer.score,
    }


def ping_object(target: Target, result: PingResult | None) -> dict[str, Any]:
    """One line of `p2pvpn ping --json`; without a round trip and a path when no answer came."""
    return {
        "peer": str(target),
        "id": _hex(target.id),
        "addresses": list(target.addresses),
        "rtt_ms": None if result is None else _rounded(result.rtt_ms),
        "path": None if result is None else result.path,
        "via": None,
        "hops": None if result is None else result.hops,
    }


def why_object(vpn: VpnNode, target: Target) -> dict[str, Any]:
    """`p2pvpn why --json`. Empty where nothing is known: nodes don't look for shortcuts yet."""
    peer = vpn.peer(target.id)
    if peer is None:
        path, reason = None, f"there is no session with {target}: nothing was sent to it lately, or it does not answer"
    elif peer.path == "direct":
        path, reason = "direct", f"this node has an edge to {target} at {peer.endpoint}"
    else:
        path = peer.path
        reason = f"this node has no edge to {target}: packets go over the ring, encrypted end to end"
    return {
        "peer": str(target),
        "id": _hex(target.id),
        "path": path,
        "hops": None if peer is None else peer.hops,
        "reason": reason,
        "local_nat": None,
        "remote_nat": None,
        "candidates": [],
        "attempts": [],
        "proxies": [],
        "score": 0.0 if peer is None else peer.score,
        "next_retry_s": None,
    }


def _iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _hex(node_id: int) -> str:
    return id_bytes(node_id).hex()


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)
