"""What a running node asks of the network around it: a mapped port of its gateway, and members on its own link. †

Joins the components of `shortcuts` to one node, its real socket and this machine. What is found is a hint: a mapped
port becomes one more candidate, a member on the link is dialled, and only a handshake makes either of them count.
"""

from __future__ import annotations

from dht.host import Endpoint, Timer
from dht.node import NodeState
from dht.udp import UdpHost
from ipop.node import VpnNode
from shortcuts.gateway import RealGateway
from shortcuts.lan import LanDiscovery
from shortcuts.multicast import MulticastLink
from shortcuts.portmap import PortMapper

ALONE_S = 10.0  # between two looks whether the node is alone
PORTMAP_PURPOSE = "port mapping"


class Surroundings:
    """Between `start` and `finish`. Without `portmap` the gateway is left alone, without `lan` the link."""

    def __init__(self, host: UdpHost, vpn: VpnNode, *, portmap: bool, lan: bool) -> None:
        self._host, self._vpn = host, vpn
        self._gateway = RealGateway() if portmap else None
        self._link = MulticastLink(host.local_endpoints) if lan else None
        self._timer: Timer | None = None
        self._mapper: PortMapper | None = None
        self._lan: LanDiscovery | None = None
        identity = vpn.identity
        if self._gateway is not None:
            # The same in every run, so that after a crash the gateway knows us again; and nobody else's to know.
            secret = identity.secret(PORTMAP_PURPOSE)
            self._mapper = PortMapper(host, self._gateway, lambda: host.port, secret, self._mapped)
            vpn.counted.append(self._mapper.counters)
        if self._link is not None:
            self._lan = LanDiscovery(host, self._link, identity.network, vpn.ring.contact, vpn.ring.meet)
            vpn.counted.append(self._lan.counters)
        former = vpn.ring.upkeep.moved

        def moved() -> None:
            former()
            if self._mapper is not None:
                self._mapper.addresses_changed()
            if self._lan is not None:
                self._lan.addresses_changed()

        vpn.ring.upkeep.moved = moved

    def start(self) -> None:
        """Begin to ask, once the node has started."""
        if self._mapper is not None:
            self._mapper.start()
            self._look_at_mapper()
        if self._lan is not None:
            self._lan.start()
        self._look()

    async def finish(self) -> None:
        """Give the mapped port back, and fall silent. Takes a few seconds at most."""
        if self._timer is not None:
            self._timer.cancel()
        if self._lan is not None:
            self._lan.stop()
        if self._link is not None:
            self._link.close()
        if self._mapper is not None:
            self._mapper.stop()
        if self._gateway is not None:
            await self._gateway.finish()

    def _mapped(self, endpoint: Endpoint | None) -> None:
        self._vpn.shortcuts.use_mapped(endpoint, self._note())

    def _note(self) -> str:
        assert self._mapper is not None
        status = self._mapper.status
        if status.method is not None and status.external is not None:
            return f"by {status.method.value}"
        failures = "; ".join(f"{method.value}: {reason}" for method, reason in status.failures)
        return ", ".join(text for text in (status.reason, failures) if text)

    def _look_at_mapper(self) -> None:
        assert self._mapper is not None
        self._vpn.shortcuts.use_mapped(self._mapper.status.external, self._note())

    def _look(self) -> None:
        self._timer = self._host.call_later(ALONE_S, self._look)
        if self._mapper is not None:
            self._look_at_mapper()
        if self._lan is not None and self._vpn.ring.state is NodeState.ISOLATED:
            self._lan.seek()
