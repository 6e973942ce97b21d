"""The laboratory with NATs, firewalls, IPv6-only hosts and bad lines †, as a TOML file describes it.

    with NatLab.from_file(Path("sims/lab/labs/grid.toml")) as lab:
        lab.issue_all()                           # a network, and a bundle for every host
        lab.start_all()                           # the real `p2pvpn up` on each; or lab.start(host, bootstraps=[...])
        lab.wait_ready()
        sym, port = lab.host("sym"), lab.host("port")
        sym.namespace.run("ping", "-c1", str(port.member.address4))
        lab.nodes["sym"].ask_json("peers")        # any p2pvpn command against a node

        lab.cut("sym", "port", one_way=True)      # and lab.mend("sym", "port")
        lab.cut("port")                           # everything that host, or site, sends and should get
        lab.rebind("port")                        # its router forgets its mappings; new ones have other ports
        lab.move("sym")                           # another address at the same site
        lab.move("sym", "home")                   # to another site; "internet" is the switch itself
        lab.block_udp("full")                     # and lab.block_udp("full", blocked=False)
        lab.wire("home").change(Impairment(delay_ms=50))   # of a link that has `wire` in the file

`sims.lab.plan` has the values, `sims.lab.plan_file` the file's keys. Two hosts at the same site meet on its LAN;
`cut` between hosts of different sites cuts these sites from each other. Nodes find each other through the plan's
bootstraps. `lab.start(host)` returns a `LabNode`, kept in `lab.nodes` by the host's name; nodes listen on 7000 and
counting, `host.port`. Use it from the thread that made it: what it starts ends with that thread, so that nothing stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sims.lab.lab import TOOLS, LabHost, Laboratory, wait_until
from sims.lab.namespace import LabError
from sims.lab.node import READY_LIMIT_S, LabNode
from sims.lab.plan import INTERNET, Plan, SitePlan
from sims.lab.plan_file import read_plan
from sims.lab.site import Internet, NatHost, Site
from sims.lab.switch import Port
from sims.lab.wires import Wire, Wires
from sims.toml_source import suggestion

NAT_TOOLS = (*TOOLS, "nft")
WIRES_LIMIT_S = 10.0


class NatLab(Laboratory):
    """Sites, and hosts at them, as planned. A context."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(NAT_TOOLS, plan.subnet)
        self.plan = plan
        self.sites: dict[str, Site] = {}
        self.nodes: dict[str, LabNode] = {}
        self._hosts: dict[str, NatHost] = {}
        try:
            self._wires = Wires()
            self.internet = Internet(self._wires)
            for site in (*plan.sites, SitePlan(INTERNET)):
                self.sites[site.name] = Site(site, self.internet)
            for number, host in enumerate(plan.hosts, 1):
                made = NatHost(host, number, self.folder / host.name)
                self._hosts[host.name] = made
                self.sites[host.site].attach(made)
            self.wait_for_wires()
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_file(cls, path: Path) -> NatLab:
        """As a TOML file describes it. Raises LabFileError when the file can't be used."""
        return cls(read_plan(path))

    @property
    def hosts(self) -> Sequence[NatHost]:
        return list(self._hosts.values())

    def host(self, name: str) -> NatHost:
        """Raises LabError when there is none of that name."""
        if name not in self._hosts:
            raise LabError(f"there is no host '{name}'{suggestion(name, list(self._hosts))}")
        return self._hosts[name]

    def site(self, name: str) -> Site:
        """Raises LabError when there is none of that name."""
        if name not in self.sites:
            raise LabError(f"there is no site '{name}'{suggestion(name, list(self.sites))}")
        return self.sites[name]

    def wait_for_wires(self) -> None:
        """Wait until every switch forwards to all of its ports."""
        switches = [self.internet.switch, *(switch for site in self.sites.values() for switch in site.switches)]

        def up() -> bool:
            """every switch forwards"""
            return all(switch.forwards() for switch in switches)

        wait_until(up, WIRES_LIMIT_S)

    def bootstraps_of(self, host: LabHost) -> Sequence[str]:
        """Where the plan's bootstraps are, each by a version of IP that this host has too."""
        found = []
        for other in (self._hosts[name] for name in self.plan.bootstraps):
            if other is not host and host.underlay4 and other.underlay4:
                found.append(f"{other.underlay4}:{other.port}")
            elif other is not host and host.underlay6 and other.underlay6:
                found.append(f"[{other.underlay6}]:{other.port}")
        return found

    def start(
        self,
        host: LabHost,
        *options: str,
        bootstraps: Sequence[str] | None = None,
        finds: Sequence[str] = (),
    ) -> LabNode:
        self.nodes[host.name] = super().start(host, *options, bootstraps=bootstraps, finds=finds)
        return self.nodes[host.name]

    def start_all(self) -> None:
        """Start a node on every host at once."""
        for host in self.hosts:
            self.start(host)

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> None:
        """Wait for the ready line of every node started since. Raises LabError when one doesn't get there."""
        for node in self.nodes.values():
            if not node.ready_at:
                node.wait_ready(limit_s)

    def cut(self, a: str, b: str | None = None, *, one_way: bool = False) -> None:
        """Lose what two hosts, or sites, send each other, or one of them and everybody; with `one_way`, only what the
        first sends."""
        near, far = self._meeting(a, b)
        near.switch.cut(near, far)
        if not one_way:
            near.switch.cut(far, near)

    def mend(self, a: str, b: str | None = None) -> None:
        """Undo `cut` of the same two, or of the same one, in either direction."""
        near, far = self._meeting(a, b)
        near.switch.mend(near, far)
        near.switch.mend(far, near)

    def wire(self, name: str) -> Wire:
        """The wire of a host or site, to change it. Raises LabError when it has none."""
        port = self._link(name)
        if port.wire is None:
            raise LabError(f"'{name}' has no wire that can be changed: give it one in the file, wire = {{}} at least")
        return port.wire

    def rebind(self, name: str) -> None:
        """The NAT of a site, or of the site where that host is, loses its mappings. Raises LabError without a NAT."""
        site = self.host(name).site if name in self._hosts else self.site(name)
        if site is None or not site.routers:
            raise LabError(f"'{name}' is behind no NAT that could be rebound")
        site.rebind()

    def move(self, host_name: str, site_name: str | None = None) -> None:
        """Move a host to another site, or else to other addresses where it is. What was cut of its link is whole."""
        host = self.host(host_name)
        assert host.site is not None
        if site_name is None:
            host.site.readdress(host)
            return
        site = self.site(site_name)
        host.site.detach(host)
        site.attach(host)
        self.wait_for_wires()

    def block_udp(self, name: str, *, blocked: bool = True) -> None:
        """Lose all UDP on the link of a host or site, in both directions, or no more; everything else passes."""
        port = self._link(name)
        if blocked:
            port.switch.block_udp(port)
        else:
            port.switch.unblock_udp(port)

    def _link(self, name: str) -> Port:
        """A host's link, or a site's to the internet, which is the one meant where both have the same name."""
        if name in self.sites and self.sites[name].ports:
            return self.sites[name].ports[-1]
        if (link := self.host(name).link) is None:
            raise LabError(f"'{name}' is plugged in nowhere")
        return link

    def _meeting(self, a: str, b: str | None) -> tuple[Port, Port | None]:
        """The ports of two at the first switch that both their traffic passes."""
        if b is None:
            return self._link(a), None
        far = self._way(b)
        for near in self._way(a):
            for other in far:
                if near.switch is other.switch:
                    if near == other:
                        raise LabError(f"'{a}' and '{b}' are one, as far as a wire can tell: name two that are not")
                    return near, other
        raise LabError(f"'{a}' and '{b}' do not meet at a switch")

    def _way(self, name: str) -> list[Port]:
        return list(self.host(name).ports()) if name in self._hosts else self.site(name).ports

    def _dismantle(self) -> None:
        for site in self.sites.values():
            site.close()
        if hasattr(self, "internet"):
            self.internet.close()
        if hasattr(self, "_wires"):
            self._wires.close()
