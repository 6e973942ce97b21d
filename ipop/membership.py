"""Which groups the hosts behind the TAP want, and from whom: what a router on their link keeps, and asks them.

    host's report, leave -> state of its group -> wants(group, source)?          now and then -> queries to write

A pure machine: it takes `now` (seconds) and gives IP packets for the caller to write. There is one link and no other
router on it, so it is the querier at all times and elects nobody. A group's state is RFC 3376's: INCLUDE (these
sources only, each with a timer) or EXCLUDE (all but those whose timer has run out, until the group's own timer does).
Where something is full it errs towards wanting more: a group with too many sources is wanted from everybody. Never
decides which groups need no report (link-local ones), and never sees data.

Sources: RFC 3376 sections 6.2 to 6.6 and 8, RFC 3810 sections 7 and 9 (the same machine for IPv6), RFC 2236.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from ipop import igmp, mld
from ipop.ethernet import BadFrame
from ipop.igmp import Change, GroupRecord

MAX_GROUPS = 256  # a family
MAX_SOURCES = igmp.MAX_SOURCES  # a group

ROBUSTNESS = 2
QUERY_INTERVAL_S = 125.0
RESPONSE_S = 10.0
MEMBERSHIP_S = ROBUSTNESS * QUERY_INTERVAL_S + RESPONSE_S
STARTUP_INTERVAL_S = QUERY_INTERVAL_S / 4
STARTUP_QUERIES = ROBUSTNESS
STARTUP_RESPONSE_S = 1.0  # one host behind the TAP: no crowd has to be spread
LAST_MEMBER_INTERVAL_S = 1.0
LAST_MEMBER_QUERIES = ROBUSTNESS
LAST_MEMBER_S = LAST_MEMBER_INTERVAL_S * LAST_MEMBER_QUERIES

_OLD = frozenset({Change.IS_EXCLUDE, Change.TO_INCLUDE})  # all that hosts without source filters say


@dataclass(slots=True)
class _Group:
    """One group. `until` is its timer: while it runs the mode is EXCLUDE. `sources`: wanted, each with its timer;
    `excluded`: not wanted, in EXCLUDE mode only. `old_until`: a host without source filters is present until then."""

    until: float = 0.0
    sources: dict[bytes, float] = field(default_factory=dict)
    excluded: set[bytes] = field(default_factory=set)
    old_until: float = 0.0
    asks: int = 0  # queries still to be sent about it
    ask_at: float = 0.0
    asked: set[bytes] | None = None  # about which sources; None: about the group

    def settle(self, now: float) -> bool:
        """Let timers run out; False when nobody wants the group any more."""
        gone = [source for source, until in self.sources.items() if until <= now]
        if self.until:
            if self.until > now:
                self.excluded.update(gone)
            else:
                self.until = 0.0
                self.excluded.clear()
        for source in gone:
            del self.sources[source]
        return bool(self.until or self.sources)


@dataclass(slots=True)
class _Family:
    """What differs between IGMP and MLD, and the general queries of one of them."""

    query: Callable[..., bytes]
    groups: dict[bytes, _Group] = field(default_factory=dict)
    general_at: float = 0.0
    startup_left: int = STARTUP_QUERIES


class Membership:
    """The groups that are wanted on one link. `refused` counts reports that were no such thing, and groups beyond the
    bound."""

    def __init__(self, now: float) -> None:
        self._four = _Family(igmp.query, general_at=now)
        self._six = _Family(mld.query, general_at=now)
        self.refused = 0

    def wants(self, group: bytes, source: bytes, now: float) -> bool:
        """Whether a packet from `source` to `group` is wanted here."""
        state = (self._four if len(group) == 4 else self._six).groups.get(group)
        if state is None:
            return False
        until = state.sources.get(source)
        if until is not None and until > now:
            return True
        return state.until > now and until is None and source not in state.excluded

    def groups(self) -> set[bytes]:
        """Those that are wanted from anybody; as of the last `take` or `tick`."""
        return {*self._four.groups, *self._six.groups}

    def take(self, packet: bytes, now: float) -> list[bytes]:
        """Handle an IGMP or MLD packet of a host; the queries that follow at once."""
        try:
            records = igmp.read_report(packet) if packet[0] >> 4 == 4 else mld.read_report(packet)
        except BadFrame:
            self.refused += 1
            return []
        family = self._four if packet[0] >> 4 == 4 else self._six
        for record in records:
            self._take(family, record, now)
        return self.tick(now)

    def tick(self, now: float) -> list[bytes]:
        """Whatever is due: timers run out, queries to write."""
        packets = []
        for family in (self._four, self._six):
            ask = partial(family.query, robustness=ROBUSTNESS, interval_s=QUERY_INTERVAL_S)
            if family.general_at <= now:
                starting = family.startup_left > 0
                family.startup_left -= starting
                packets.append(ask(response_s=STARTUP_RESPONSE_S if starting else RESPONSE_S))
                family.general_at = now + (STARTUP_INTERVAL_S if family.startup_left else QUERY_INTERVAL_S)
            for address, group in list(family.groups.items()):
                if not group.settle(now):
                    del family.groups[address]
                elif group.asks and group.ask_at <= now:
                    asked = tuple(sorted(group.asked & group.sources.keys())) if group.asked is not None else ()
                    if group.asked is None or asked:
                        packets.append(ask(address, asked, response_s=LAST_MEMBER_INTERVAL_S))
                    group.asks -= 1
                    group.ask_at = now + LAST_MEMBER_INTERVAL_S
        return packets

    def due_at(self) -> float:
        """When `tick` has something to do next, if no report comes."""
        moments = [self._four.general_at, self._six.general_at]
        for family in (self._four, self._six):
            for group in family.groups.values():
                moments += [group.until] if group.until else []
                moments += group.sources.values()
                moments += [group.ask_at] if group.asks else []
        return min(moments)

    def _take(self, family: _Family, record: GroupRecord, now: float) -> None:
        group = family.groups.get(record.group)
        if group is None:
            if len(family.groups) >= MAX_GROUPS:
                self.refused += 1
                return
            group = _Group()
        else:
            group.settle(now)
        change, sources = record.change, set(record.sources)
        if record.old:
            group.old_until = now + MEMBERSHIP_S
        elif group.old_until > now:
            # RFC 3376, section 7.3.2: with such a host present nobody's filters can be trusted.
            if change is Change.BLOCK:
                return
            if change is Change.TO_EXCLUDE:
                sources = set()
        if group.until:
            _while_excluding(group, change, sources, now)
        else:
            _while_including(group, change, sources, now)
        if len(group.sources) + len(group.excluded) > MAX_SOURCES:
            group.sources.clear()
            group.excluded.clear()
            group.until = max(group.until, now + MEMBERSHIP_S)
        if group.settle(now):
            family.groups[record.group] = group
        else:
            family.groups.pop(record.group, None)


def _while_including(group: _Group, change: Change, named: set[bytes], now: float) -> None:
    """The upper half of the table in RFC 3376, section 6.4."""
    wanted, until = set(group.sources), now + MEMBERSHIP_S
    match change:
        case Change.IS_INCLUDE | Change.ALLOW:
            group.sources.update(dict.fromkeys(named, until))
        case Change.BLOCK:
            _ask_sources(group, wanted & named, now)
        case Change.TO_INCLUDE:
            group.sources.update(dict.fromkeys(named, until))
            _ask_sources(group, wanted - named, now)
        case Change.IS_EXCLUDE | Change.TO_EXCLUDE:
            _keep(group, wanted & named)
            group.excluded = named - wanted
            group.until = until
            if change is Change.TO_EXCLUDE:
                _ask_sources(group, wanted & named, now)


def _while_excluding(group: _Group, change: Change, named: set[bytes], now: float) -> None:
    """The lower half."""
    wanted, unwanted, until = set(group.sources), group.excluded, now + MEMBERSHIP_S
    match change:
        case Change.IS_INCLUDE | Change.ALLOW | Change.TO_INCLUDE:
            group.sources.update(dict.fromkeys(named, until))
            group.excluded = unwanted - named
            if change is Change.TO_INCLUDE:
                _ask_sources(group, wanted - named, now)
                _ask_group(group, now)
        case Change.BLOCK:
            group.sources.update(dict.fromkeys(named - wanted - unwanted, group.until))
            _ask_sources(group, named - unwanted, now)
        case Change.IS_EXCLUDE | Change.TO_EXCLUDE:
            timer = until if change is Change.IS_EXCLUDE else group.until
            _keep(group, named - unwanted)
            group.sources.update(dict.fromkeys(named - unwanted - wanted, timer))
            group.excluded = unwanted & named
            group.until = until
            if change is Change.TO_EXCLUDE:
                _ask_sources(group, named - unwanted, now)


def _keep(group: _Group, sources: set[bytes]) -> None:
    group.sources = {source: until for source, until in group.sources.items() if source in sources}


def _ask_sources(group: _Group, sources: Iterable[bytes], now: float) -> None:
    """Ask whether anybody still wants these; they are given up unless somebody says so in time."""
    late = now + LAST_MEMBER_S
    lowered = {source for source in sources if group.sources.get(source, 0.0) > late}
    if not lowered:
        return
    group.sources.update(dict.fromkeys(lowered, late))
    if not group.asks:
        group.asked = set()
    if group.asked is not None:
        group.asked |= lowered
    group.asks, group.ask_at = LAST_MEMBER_QUERIES, now


def _ask_group(group: _Group, now: float) -> None:
    """Ask whether anybody still wants the group."""
    late = now + LAST_MEMBER_S
    if group.until <= late:
        return
    group.until = late
    group.asked = None
    group.asks, group.ask_at = LAST_MEMBER_QUERIES, now
