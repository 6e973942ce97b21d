"""A node to join through, as a person names it. Parses texts; `dht.names` asks DNS what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from dht.host import Endpoint


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """HOST:PORT of a node that is likely to be there; HOST is a name or an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def literal(self) -> Endpoint | None:
        """The endpoint of a bootstrap that was given as an address, and needs no DNS."""
        try:
            return Endpoint.from_text(str(self))
        except ValueError:
            return None

    @classmethod
    def from_text(cls, text: str) -> Bootstrap:
        """Reads `host.example:7077`, `192.0.2.1:7077` or `[2001:db8::1]:7077`. Raises ValueError with what is wrong."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"'{text}' does not end in ':PORT' with a port from 1 to 65535")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not host or (":" in host and not bracketed) or any(character.isspace() for character in host):
            raise ValueError(f"'{text}' is not HOST:PORT; an IPv6 address stands in brackets, as in [2001:db8::1]:7077")
        return cls(host, int(port))
