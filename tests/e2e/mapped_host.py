"""Run inside a namespace: a UDP port that its gateway is to map, and an echo behind it.

    mapped_host.py PORT REFRESH_S METHOD...

One line on stdout whenever the external endpoint changes (`mapped METHOD ENDPOINT`, `unmapped REASON`). SIGTERM stops
it in order, and so does the end of its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

from dht.host import Endpoint
from dht.udp import UdpHost
from shortcuts.gateway import RealGateway
from shortcuts.mapping import Method
from shortcuts.portmap import PortMapper


async def serve(port: int, refresh_s: float, methods: list[Method]) -> None:
    host = UdpHost(Endpoint("0.0.0.0", port))
    gateway = RealGateway()

    def changed(endpoint: Endpoint | None) -> None:
        status = mapper.status
        if endpoint is None:
            print(f"unmapped {status.reason}", flush=True)
        else:
            assert status.method is not None
            print(f"mapped {status.method.value} {endpoint}", flush=True)

    mapper = PortMapper(
        host, gateway, lambda: host.port, bytes(range(32)), changed, methods=methods, refresh_s=refresh_s
    )
    host.on_receive(lambda datagram, source: host.send(source, datagram))
    host.on_addresses_changed(mapper.addresses_changed)
    mapper.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    said: tuple[object, ...] = ()
    while not stop.is_set():
        status = mapper.status
        if (status.state, status.failures) != said:
            said = (status.state, status.failures)
            print(status, file=sys.stderr, flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.2)
    mapper.stop()
    await gateway.finish()
    host.close()
    print("stopped", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), [Method(name) for name in sys.argv[3:]]))
