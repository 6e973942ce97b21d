"""What a laboratory is to look like: sites, the hosts at them, their wires. Values only.

A *site* is a place on the laboratory's internet. A public one is a plug in the internet's switch; any other has a
router, whose NAT is one of these, in the terms of RFC 4787:

    full   endpoint-independent mapping and filtering ("full cone")
    addr   endpoint-independent mapping, address-dependent filtering ("restricted cone")
    port   endpoint-independent mapping, address and port-dependent filtering: the usual home router
    sym    address and port-dependent mapping and filtering, a random port for each peer ("symmetric")

and, with `carrier`, a second router with a NAT of its own before the internet (CGNAT).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from sims.lab.impairment import Impairment

UDP_TIMEOUT_S, UDP_STREAM_TIMEOUT_S = 30, 120  # As Linux has them.
INTERNET = "internet"  # The place of a host that moves to the switch itself.


class NatType(StrEnum):
    """What stands between a site and the internet."""

    PUBLIC = "public"
    FULL = "full"
    ADDR = "addr"
    PORT = "port"
    SYM = "sym"


class Firewall(StrEnum):
    """What a site's firewall lets in beside its NAT: `STATEFUL` only what belongs to traffic from inside, `NO_UDP`
    the same and no UDP in either direction."""

    OPEN = "open"
    STATEFUL = "stateful"
    NO_UDP = "no-udp"


class Family(StrEnum):
    """Which versions of IP a site has."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    DUAL = "dual"


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A place on the internet, and its link to it. The timers are the NAT's, in seconds: of a mapping that was
    answered never, or lately."""

    name: str
    nat: NatType = NatType.PUBLIC
    carrier: NatType | None = None
    hairpin: bool = False
    firewall: Firewall = Firewall.OPEN
    ip: Family = Family.DUAL
    udp_timeout_s: int = UDP_TIMEOUT_S
    udp_stream_timeout_s: int = UDP_STREAM_TIMEOUT_S
    wire: Impairment | None = None

    def flaw(self) -> tuple[str, str] | None:
        """The key that contradicts another, and how; None when this can be built."""
        natted = self.nat is not NatType.PUBLIC
        if self.carrier is not None and not natted:
            return "carrier", "a carrier's NAT is in front of a site's own: set nat to full, addr, port or sym, too"
        if self.carrier is NatType.PUBLIC:
            return "carrier", "a carrier without NAT is none: leave the key out"
        if self.hairpin and not natted:
            return "hairpin", "only a NAT can hairpin: set nat to full, addr, port or sym, or leave hairpin out"
        if natted and self.ip is Family.IPV6:
            return "ip", "the NATs here translate IPv4: set ip to ipv4 or dual, or nat to public"
        if self.carrier is not None and self.ip is not Family.IPV4:
            return "ip", "a carrier's NAT here has IPv4 only: leave ip out"
        return None


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A machine at a site. `wire` is its own link, to the site's router or, at a public site, to the internet."""

    name: str
    site: str
    wire: Impairment | None = None
    bootstrap: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole laboratory. `subnet` is the network's virtual one."""

    name: str
    sites: tuple[SitePlan, ...]
    hosts: tuple[HostPlan, ...]
    subnet: str = "10.77.0.0/16"
    bootstraps: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        marked = [host.name for host in self.hosts if host.bootstrap]
        open_hosts = [host.name for host in self.hosts if self.reachable(host)]
        object.__setattr__(self, "bootstraps", tuple(marked or open_hosts[:1]))

    def site(self, name: str) -> SitePlan:
        """KeyError when there is none of that name."""
        return {site.name: site for site in self.sites}[name]

    def reachable(self, host: HostPlan) -> bool:
        """Whether anybody may send to it unasked."""
        site = self.site(host.site)
        return site.nat is NatType.PUBLIC and site.firewall is Firewall.OPEN
