"""Why the path to a peer is not direct, and what a person could do about it, in words.

The verdict follows from what both ends know of their NATs (`shortcuts.punching`), and is only as good as that. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shortcuts.candidates import Candidate, CandidateKind
from shortcuts.nat import Answer, Filtering, Mapping, Nat
from shortcuts.punching import Expectation, expectation
from shortcuts.scope import Scope, is_ipv6, scope_of
from shortcuts.views import AttemptView, Explanation

FAMILIES: Final = ("IPv4", "IPv6")
_BY_HOPE: Final = (Expectation.YES, Expectation.MAYBE, Expectation.BY_GUESSING_PORTS, Expectation.NO)
_SEEN_FROM_OUTSIDE: Final = (CandidateKind.SERVER_REFLEXIVE, CandidateKind.MAPPED)
SYMMETRIC: Final = "symmetric (another outside port for every peer)"


class Advice(NamedTuple):
    """Why there is no direct path, and what to do about it; None when there is nothing but to wait."""

    reason: str
    action: str | None


def why_not_direct(explained: Explanation) -> Advice | None:
    """None when the path in use is direct."""
    if explained.path.kind == "direct":
        return None
    name = explained.name
    if not explained.attempts:
        return Advice(f"it has not been tried yet ({explained.demand})", f"'p2pvpn ping {name}' makes this node try")
    if explained.remote_nat is None or not explained.remote_candidates:
        if _finished(explained) is None:
            return Advice(f"{name} has just been asked where it can be reached", None)
        return Advice(
            f"{name} has not said where it can be reached",
            f"see that {name} is up, and that its p2pvpn is not older than this one",
        )
    here, there = _families(explained.local_candidates), _families(explained.remote_candidates)
    common = here & there
    if not common:
        return Advice(
            f"this node has {_family_text(here)}, {name} has {_family_text(there)}",
            f"give this node an address that can reach {name}'s network, or the other way round",
        )
    chances = {family: _chance(explained, family) for family in common}
    # IPv6 of which nothing is known must not hide what is known of IPv4.
    known = [family for family, chance in chances.items() if chance is not Expectation.MAYBE]
    family = min(known or chances, key=lambda each: _BY_HOPE.index(chances[each]))
    return _advice(explained, family, chances[family])


def _advice(explained: Explanation, family: int, chance: Expectation) -> Advice:
    name, finished = explained.name, _finished(explained)
    here, there = _nats(explained, family)
    hard = [who for who, nat in (("this node", here), (name, there)) if _is_symmetric(nat)]
    if finished is None and chance in (Expectation.YES, Expectation.MAYBE):
        return Advice(f"it is being tried now: {explained.attempts[0].outcome}", None)
    last = "it is being tried now" if finished is None else f"the last try: {finished.outcome}"
    if here.mapping is Mapping.NONE and there.mapping is Mapping.NONE:
        return Advice(
            f"no NAT is in the way, so a firewall or a missing route must be; {last}", _firewall_text(explained, family)
        )
    if chance is Expectation.YES:
        return Advice(f"the NATs of both ends should allow it, but {last}", _firewall_text(explained, family))
    if len(hard) == 2:
        reason = f"the NATs of both ends are {SYMMETRIC}, so that neither knows where to send"
        return Advice(reason, _forward_text(explained, family))
    if len(hard) == 1:
        other = name if hard == ["this node"] else "this node"
        # Who gets in is learnt late or never; after a try that failed, this is the reason that is left.
        what = "the firewall" if (there if hard == ["this node"] else here).mapping is Mapping.NONE else "that"
        surely = "" if chance is Expectation.BY_GUESSING_PORTS else "likely "
        return Advice(
            f"the NAT of {hard[0]} is {SYMMETRIC}, and {what} of {other} {surely}lets in only packets from"
            f" where {other} has sent to",
            _forward_text(explained, family),
        )
    if chance is Expectation.NO:
        return Advice(
            f"this node and {name} are behind the same NAT, which does not pass packets from one of its hosts to"
            " another (no hairpinning)",
            "let the two reach each other in their local network, or switch 'NAT loopback' on in the router",
        )
    reason, action = f"too little is known yet {_unknown_text(here, there, name)}", _firewall_text(explained, family)
    translated = False
    for who, nat, known in _sides(explained, family):
        if nat.mapping or not is_translated(known, family):
            continue
        translated = True
        if nat.preserves_ports is Answer.NO:
            reason += f"; the one of {who} changes port numbers, so it is likely {SYMMETRIC}"
    if translated:
        action += f"; or {_forward_text(explained, family)}"
    return Advice(f"{reason}; {last}", action)


def _chance(explained: Explanation, family: int) -> Expectation:
    seen_here, seen_there = (
        {each.endpoint.address for each in side if each.kind in _SEEN_FROM_OUTSIDE and _family(each) == family}
        for side in (explained.local_candidates, explained.remote_candidates)
    )
    return expectation(*_nats(explained, family), same_outside=bool(seen_here & seen_there))


def _nats(explained: Explanation, family: int) -> tuple[Nat, Nat]:
    assert explained.remote_nat is not None
    return explained.local_nat[family], explained.remote_nat[family]


def _is_symmetric(nat: Nat) -> bool:
    return nat.mapping in (Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)


def _unknown_text(here: Nat, there: Nat, name: str) -> str:
    ends = [who for who, nat in (("this node", here), (name, there)) if not nat.mapping or not nat.filtering]
    if not ends:
        return "of the NAT that both are behind: whether it passes packets from one of its hosts to another"
    return f"of the NAT or firewall of {' and of '.join(ends)}"


def is_translated(candidates: Sequence[Candidate], family: int) -> bool:
    """Whether somebody saw a host at another address than its own ones, in family 0 (IPv4) or 1 (IPv6)."""
    own, seen = (
        {each.endpoint.address for each in candidates if each.kind in kinds and _family(each) == family}
        for kinds in ((CandidateKind.HOST,), (CandidateKind.SERVER_REFLEXIVE, CandidateKind.PEER_REFLEXIVE))
    )
    return bool(own) and bool(seen - own)


def _family(candidate: Candidate) -> int:
    return int(is_ipv6(candidate.endpoint.address))


def _families(candidates: Sequence[Candidate]) -> set[int]:
    """The families that lead anywhere: private IPv6 addresses, which every host has, lead to the same link at most."""
    return {
        _family(each)
        for each in candidates
        if scope_of(each.endpoint.address) is Scope.PUBLIC
        or (not _family(each) and scope_of(each.endpoint.address) > Scope.LINK_LOCAL)
    }


def _family_text(families: set[int]) -> str:
    return "only " + FAMILIES[min(families)] if len(families) == 1 else "IPv4 and IPv6" if families else "no network"


def _finished(explained: Explanation) -> AttemptView | None:
    """The last attempt that came to its end. Another may be on its way: that alone would be no answer."""
    finished = [attempt for attempt in explained.attempts if attempt.over]
    return min(finished, key=lambda attempt: attempt.began_s_ago, default=None)


def _port(candidates: Sequence[Candidate]) -> str:
    ports = {each.endpoint.port for each in candidates if each.kind is CandidateKind.HOST}
    return f"UDP port {min(ports)}" if ports else "its UDP port"


def _sides(explained: Explanation, family: int) -> tuple[tuple[str, Nat, Sequence[Candidate]], ...]:
    here, there = _nats(explained, family)
    return (
        ("this node", here, explained.local_candidates),
        (explained.name, there, explained.remote_candidates),
    )


def _firewall_text(explained: Explanation, family: int) -> str:
    restricted = (Filtering.ADDRESS_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    # Without a NAT, it is a firewall that keeps strangers out.
    closed = [
        _open_text(who, candidates)
        for who, nat, candidates in _sides(explained, family)
        if nat.mapping is Mapping.NONE and nat.filtering in restricted
    ]
    if closed:
        return f"open {', or '.join(closed)}"
    here, there = _port(explained.local_candidates), _port(explained.remote_candidates)
    return f"see that no firewall at either end stops {here} of this node, or {there} of {explained.name}"


def _open_text(who: str, candidates: Sequence[Candidate]) -> str:
    return f"{_port(candidates)} in the firewall of {who}"


def _forward_text(explained: Explanation, family: int) -> str:
    sides = _sides(explained, family)
    # Where a port is forwarded already, forwarding it is no advice; and without a NAT there is nothing to forward.
    forwards = [
        f"{_port(candidates)} to {who} on its router"
        for who, nat, candidates in sides
        if nat.mapping is not Mapping.NONE and all(each.kind is not CandidateKind.MAPPED for each in candidates)
    ]
    opens = [_open_text(who, candidates) for who, nat, candidates in sides if nat.mapping is Mapping.NONE]
    ways = [f"open {', or '.join(opens)}"] if opens else []
    if forwards:
        ways.append(
            f"forward {', or '.join(forwards)} (by hand, or by switching on UPnP, NAT-PMP or PCP there; in vain where"
            " the provider translates addresses too)"
        )
    if not ways:
        return "a router forwards a port already, and that did not help: is there another NAT in front of it?"
    ipv6 = all(1 in _families(candidates) for _, _, candidates in sides)
    return f"{'; or '.join(ways)}{'' if ipv6 else '; or use IPv6 at both ends'}"
