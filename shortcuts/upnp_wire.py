"""UPnP's search for a gateway, and what the process that speaks UPnP is told and tells. Pure: no clock, no I/O.

Only a gateway that names itself counts: a description lies at a literal address, that of the default route's gateway,
and is fetched from nowhere else, whatever an answer to the search says.

Source: UPnP Device Architecture 2.0, section 1.3; UPnP InternetGatewayDevice:2.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

from dht.errors import BadDatagram

SSDP_GROUP: Final = "239.255.255.250"
SSDP_PORT: Final = 1900
MAX_SSDP_BYTES: Final = 2048
MAX_URL_CHARACTERS: Final = 256
MAX_REPORT_BYTES: Final = 1024
MAX_REASON_CHARACTERS: Final = 120
MAX_LIFETIME_S: Final = 604_800  # section 2.4.16 of WANIPConnection:2: a week
FOREVER_S: Final = MAX_LIFETIME_S  # what an old gateway's mapping without a lifetime counts as

TARGETS: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)

_LOCATION: Final = re.compile(rb"^location[ \t]*:[ \t]*(\S+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_URL: Final = re.compile(r"http://([0-9.]{7,15})(?::([0-9]{1,5}))?(?:/[!-~]*)?")


@dataclass(frozen=True, slots=True)
class UpnpRequest:
    """Map `external_port` of `gateway` to `internal_port` of `client`; `lifetime_s` 0 deletes that."""

    gateway: str
    client: str
    internal_port: int
    external_port: int
    lifetime_s: int

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> UpnpRequest:
        """The inverse of `to_text`, from our own parent."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class UpnpMapping:
    """`address`:`port` leads here for `lifetime_s` seconds."""

    address: str
    port: int
    lifetime_s: int


def search(target: str) -> bytes:
    """The datagram that asks all gateways to name themselves."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {SSDP_GROUP}:{SSDP_PORT}",
        'MAN: "ssdp:discover"',
        "MX: 1",
        f"ST: {target}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def read_location(datagram: bytes, gateway: str) -> str:
    """Where `gateway` keeps its description, from its answer to a search. Raises BadDatagram."""
    if len(datagram) > MAX_SSDP_BYTES:
        raise BadDatagram(f"an answer to a search with {len(datagram)} bytes")
    if not datagram.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")):
        raise BadDatagram("not an answer to a search")
    found = _LOCATION.search(datagram)
    if found is None or len(found[1]) > MAX_URL_CHARACTERS:
        raise BadDatagram("an answer to a search without a location")
    url = found[1].decode("ascii", "replace")
    check_url(url, gateway)
    return url


def check_url(url: str, gateway: str) -> None:
    """Raises BadDatagram unless `url` is plain HTTP to the gateway itself."""
    parts = _URL.fullmatch(url)
    if parts is None or parts[1] != gateway or not 0 < int(parts[2] or 80) < 65536:
        raise BadDatagram("a gateway that sends us elsewhere")


def report(result: UpnpMapping | str) -> bytes:
    """The line in which the process says what came of a request."""
    content: Any = {"failed": result[:MAX_REASON_CHARACTERS]} if isinstance(result, str) else asdict(result)
    return json.dumps(content).encode() + b"\n"


def read_report(line: bytes) -> UpnpMapping | str:
    """The inverse of `report`, for a process that has listened to somebody it can't trust. Raises BadDatagram."""
    try:
        content = json.loads(line) if len(line) <= MAX_REPORT_BYTES else None
    except (ValueError, RecursionError):
        content = None
    match content:
        case {"failed": str(reason)} if len(reason) <= MAX_REASON_CHARACTERS and reason.isprintable():
            return reason
        case {"address": str(address), "port": int(port), "lifetime_s": int(lifetime_s)}:
            try:
                address = str(ipaddress.IPv4Address(address))
            except ValueError:
                raise BadDatagram("a gateway without an external address") from None
            if type(port) is int and 0 < port < 65536 and 0 <= lifetime_s <= MAX_LIFETIME_S:
                return UpnpMapping(address, port, int(lifetime_s))
    raise BadDatagram("a report that says nothing")
