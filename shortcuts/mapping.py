"""What a port mapping is: how it is asked for, which states that has, what a gateway must be able to do. Pure values.

`shortcuts.portmap` does what they mean; `shortcuts.gateway` is the real gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from dht.host import Endpoint
from shortcuts.upnp_wire import UpnpMapping, UpnpRequest

NOT_ASKED: Final = "not asked for"


class Method(Enum):
    """How a gateway is asked, in the order in which that is tried."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


class State(Enum):
    """What a mapper is at."""

    STOPPED = auto()
    ASKING = auto()  # every method in turn
    MAPPED = auto()
    RENEWING = auto()  # by the method that worked
    WAITING = auto()  # every method failed, or there is nothing to ask for


class Event(Enum):
    """What changes a mapper's state."""

    STARTED = auto()
    STOPPED = auto()
    GRANTED = auto()
    REFUSED = auto()  # by the last method that was left
    DUE = auto()
    MOVED = auto()


NEXT: Final = {
    (State.STOPPED, Event.STARTED): State.ASKING,
    (State.ASKING, Event.GRANTED): State.MAPPED,
    (State.ASKING, Event.REFUSED): State.WAITING,
    (State.ASKING, Event.MOVED): State.ASKING,
    (State.ASKING, Event.STOPPED): State.STOPPED,
    (State.MAPPED, Event.DUE): State.RENEWING,
    (State.MAPPED, Event.MOVED): State.ASKING,
    (State.MAPPED, Event.STOPPED): State.STOPPED,
    (State.RENEWING, Event.GRANTED): State.MAPPED,
    (State.RENEWING, Event.REFUSED): State.ASKING,
    (State.RENEWING, Event.MOVED): State.ASKING,
    (State.RENEWING, Event.STOPPED): State.STOPPED,
    (State.WAITING, Event.DUE): State.ASKING,
    (State.WAITING, Event.MOVED): State.ASKING,
    (State.WAITING, Event.STOPPED): State.STOPPED,
}


class Route(NamedTuple):
    """The IPv4 gateway of the default route, and this host's address on the way there."""

    gateway: str
    client: str


class Gateway(Protocol):
    """The way to the gateway, and what it says."""

    def find(self) -> Route | str:
        """Look the default route up and turn to its gateway; or the reason why there is none to turn to."""

    def send(self, datagram: bytes) -> None:
        """To port 5351 of the gateway that was found last. May be lost; no answer comes before
        this returns."""

    def on_answer(self, answered: Callable[[bytes], None]) -> None:
        """Give what came from that port to `answered`; empty when nobody listens there. The last call wins."""

    def on_announcement(self, announced: Callable[[bytes], None]) -> None:
        """Give what that gateway told everybody on the link to `announced`. The last call wins."""

    def upnp(self, request: UpnpRequest, done: Callable[[UpnpMapping | str], None]) -> None:
        """Speak UPnP to the gateway, within a bounded time: `done` gets the mapping, or a reason. Replaces a request
        that is still under way; `done` is never called before this returns."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """What the gateway does for us."""

    method: Method
    route: Route
    internal_port: int
    external: Endpoint
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class PortMapStatus:
    """For a person. `reason`: why there is no external endpoint, empty when there is one. `failures`: what came of
    each method that was tried last."""

    state: State = State.STOPPED
    gateway: str | None = None
    method: Method | None = None
    external: Endpoint | None = None
    reason: str = NOT_ASKED
    failures: tuple[tuple[Method, str], ...] = ()
