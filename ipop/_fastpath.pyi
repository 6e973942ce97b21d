"""What the C sources in `ipop/native` export; see `ipop.fastpath`."""

from collections.abc import Callable
from typing import Any, final

_Guards = tuple[tuple[object, str, object], ...]

@final
class Mouth:
    def __init__(self, descriptor: int, port: object, arrivals: dict[Any, Any], queue: object, /) -> None: ...

@final
class Outlet:
    def __init__(
        self,
        *,
        owner: object,
        guards: _Guards,
        mouth: Mouth,
        endpoint: tuple[str, int],
        keypair: object,
        key: bytes,
        aes: bool,
        front: bytes,
        room_bytes: int,
        segments: bool,
        class_mask: int,
        limit: int,
        dies_at: float,
    ) -> None: ...
    @property
    def owner(self) -> Any: ...
    def holds(self) -> bool: ...

@final
class Inlet:
    def __init__(
        self,
        *,
        owner: object,
        guards: _Guards,
        endpoint: tuple[str, int],
        member: object,
        window: object,
        key: bytes,
        aes: bool,
        lead: bytes,
        head: bytes,
        longest_bytes: int,
        dies_at: float,
    ) -> None: ...
    @property
    def owner(self) -> Any: ...
    def holds(self) -> bool: ...

@final
class Transit:
    def __init__(
        self,
        *,
        owner: object,
        guards: _Guards,
        endpoint: tuple[str, int],
        mouth: Mouth,
        to: tuple[str, int],
        header: bytes,
    ) -> None: ...
    @property
    def owner(self) -> Any: ...
    def holds(self) -> bool: ...

@final
class FastPath:
    def __init__(
        self,
        *,
        descriptor: int,
        takes_tcp: bool,
        takes_udp: bool,
        own4: bytes,
        own6: bytes,
        outlets: dict[bytes, Outlet],
        inlets: dict[bytes, Inlet],
        origins: dict[bytes, Any],
        transits: dict[bytes, tuple[Transit, ...]],
        on_frame: Callable[[bytes], None],
        on_virtual: Callable[[bytes], None],
        on_datagrams: Callable[[Mouth, bytearray | None, Any, Any], None],
        on_opened: Callable[[Any, list[bytes], int], None],
        on_sent: Callable[[Any, int, int, int], None],
        on_heard: Callable[[Any, int, int], None],
        on_passed: Callable[[Any, int], None],
        on_blocked: Callable[[tuple[str, int], bytes, int, int], None],
        on_tap_error: Callable[[int], None],
        on_turn: Callable[[], None],
        on_gone: Callable[[int], None],
        on_dropped: Callable[[int], None],
    ) -> None: ...
    def read_frames(self, frames: int, octets: int, /) -> bool: ...
    def read_datagrams(self, mouth: Mouth, limit: int, /) -> None: ...
    def close(self) -> None: ...
