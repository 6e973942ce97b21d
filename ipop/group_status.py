"""What `p2pvpn groups` and `p2pvpn group` show and do, as JSON objects. Programs depend on these names: add fields,
never change them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from dht.aggregate import Outcome
from dht.groups.right import GroupSecret, SecretRight
from dht.groups.subring import Subring
from ipop.casts import NAME_PREFIX
from ipop.node import VpnNode
from ipop.roll import Present
from ipop.status import hex_id, rounded

MAX_SECRET_CHARS = 200


def groups_object(vpn: VpnNode, done: Callable[[dict[str, Any]], None]) -> None:
    """`p2pvpn groups --json`: every group is asked who is there; `done` is called when all have answered, or their
    deadline has come."""
    subrings = vpn.ring.groups.all()
    found: dict[str, dict[str, Any]] = {}
    left = len(subrings)

    def answered(subring: Subring, outcome: Outcome[Present] | None) -> None:
        nonlocal left
        kind = "secret" if isinstance(subring.right, SecretRight) else "certificate"
        found[f"{subring.name} {kind}"] = _group_object(subring, outcome)
        left -= 1
        if left == 0:
            done(_all_of_it(vpn, found))

    if not subrings:
        done(_all_of_it(vpn, found))
    for subring in subrings:
        vpn.roll.ask(subring, lambda outcome, subring=subring: answered(subring, outcome))  # type: ignore[misc]


def join_group(vpn: VpnNode, name: str, secret: str | None) -> dict[str, Any]:
    """`p2pvpn group join`. Raises ValueError with what is wrong."""
    if name.startswith(NAME_PREFIX):
        raise ValueError(f"names that begin with '{NAME_PREFIX}' are for the rings of busy multicast groups")
    if secret is not None and len(secret) > MAX_SECRET_CHARS:
        raise ValueError("this is no group secret: it is too long")
    subring = vpn.ring.groups.join(name, None if secret is None else GroupSecret.from_text(secret))
    return {"name": subring.name, "secret": secret is not None, "state": subring.state.value}


def leave_group(vpn: VpnNode, name: str) -> dict[str, Any]:
    """`p2pvpn group leave`. Raises ValueError when this node is in no group of that name."""
    left = (
        []
        if name.startswith(NAME_PREFIX)
        else [secret for secret in (False, True) if vpn.ring.groups.leave(name, secret=secret)]
    )
    if not left:
        raise ValueError(f"this node is in no group '{name}': 'p2pvpn groups' shows those it is in")
    return {"name": name}


def _all_of_it(vpn: VpnNode, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    groups = [found[key] for key in sorted(found)]
    return {
        "groups": [group for group in groups if not group["name"].startswith(NAME_PREFIX)],
        "multicast": _multicast_object(vpn, {group["name"]: group for group in groups}),
    }


def _group_object(subring: Subring, outcome: Outcome[Present] | None) -> dict[str, Any]:
    view = subring.view()
    edges = {member.id: member for member in view.members}
    answers = {} if outcome is None else outcome.answers
    members = [
        {
            "name": present.name,
            "id": hex_id(node_id),
            "hops": present.hops,
            "wants": present.wants,
            "path": edges[node_id].path if node_id in edges else None,
            "rtt_ms": rounded(edges[node_id].rtt_ms) if node_id in edges else None,
        }
        for node_id, present in sorted(answers.items(), key=lambda item: (item[1].hops, item[1].name))
    ]
    return {
        "name": view.name,
        "secret": view.secret,
        "epoch": view.epoch,
        "state": view.state.value,
        "size_estimate": view.ring.size_estimate,
        "members": members,
        "missing": 0 if outcome is None else len(outcome.missing),
        "depth": max((present.hops for present in answers.values()), default=None),
        "entry_point": view.entry_point,
        "refused": view.refused,
    }


def _multicast_object(vpn: VpnNode, rings: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """None when this node carries none."""
    multicast = vpn.multicast
    if multicast is None:
        return None
    busy = []
    for group, subring in sorted(vpn.casts.rings().items()):
        ring = rings.get(subring.name)
        sends, receives = vpn.casts.rates_per_s(group)
        busy.append(
            {
                "group": str(ip_address(group)),
                "sends_by": multicast.busy.way(group).name.lower(),
                "wanted": group in multicast.wanted,
                "members": 0 if ring is None else len(ring["members"]),
                "subscribers": 0 if ring is None else sum(member["wants"] for member in ring["members"]),
                "depth": None if ring is None else ring["depth"],
                "tx_per_s": round(sends, 1),
                "rx_per_s": round(receives, 1),
            }
        )
    sends, receives = vpn.casts.rates_per_s(None)
    return {
        "wanted": sorted(str(ip_address(group)) for group in multicast.wanted),
        "busy": busy,
        "tx_per_s": round(sends, 1),
        "rx_per_s": round(receives, 1),
        "packets_out": multicast.packets_out,
        "packets_in": multicast.packets_in,
    }
