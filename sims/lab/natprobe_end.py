"""One end of what `sims.lab.natprobe` tries †, as a program on a host: `sims.nat_probe` over real sockets.

python -m sims.lab.natprobe_end serve NUMBER ONE4 OTHER4 ONE6 OTHER6     one of two third parties, by their addresses
python -m sims.lab.natprobe_end classify ONE OTHER                       asks both; one line of JSON
python -m sims.lab.natprobe_end punch LIMIT SERVER4 SERVER6 PORT=SESSION...
                  prints that it is ready, reads a line from standard input, prints which sessions heard their other end
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

from dht.host import Endpoint
from dht.udp import UdpHost
from sims.nat_probe import Punch, Server, Servers, Verdict, classify

PORT, OTHER_PORT = 3478, 3479
LOCAL_PORT, BESIDE_PORT = 40_000, 40_001
TRIES = 8  # silence is an answer only after all of them: on a busy machine all takes longer


def servers(one: str, other: str) -> Servers:
    return Servers(*(Endpoint(address, port) for address in (one, other) for port in (PORT, OTHER_PORT)))


def on_all_addresses(port: int) -> UdpHost:
    return UdpHost(Endpoint("0.0.0.0", port), batching=False)


async def serve(number: int, families: Sequence[tuple[str, str]]) -> None:
    """Says where it sees a sender, has strangers knock, and lets two who name one session meet."""
    hosts = []
    for known in (servers(one, other) for one, other in families):
        for endpoint in known[2 * number : 2 * number + 2]:
            hosts.append(UdpHost(endpoint, batching=False))
            Server(hosts[-1], known)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def judge(one: str, other: str) -> Verdict:
    host, beside = on_all_addresses(LOCAL_PORT), on_all_addresses(BESIDE_PORT)
    try:
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        classify(host, servers(one, other), verdict.set_result, beside, TRIES)
        return await verdict
    finally:
        host.close()
        beside.close()


def as_json(verdict: Verdict) -> str:
    """Null where no UDP passes."""
    if verdict.outer is None:
        return "null"
    return json.dumps(
        {
            "mapping": verdict.mapping.value,
            "filtering": verdict.filtering.value,
            "translated": verdict.translated,
            "keeps_port": verdict.preserves_port,
            "hairpins": verdict.hairpins,
        }
    )


async def punch(limit_s: float, rendezvous: Sequence[Endpoint], sessions: Sequence[tuple[int, bytes]]) -> list[str]:
    """The sessions, in hexadecimal, whose other end was heard and has heard us."""
    hosts = [on_all_addresses(port) for port, _ in sessions]
    try:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        ended = []
        for host, (_, session) in zip(hosts, sessions, strict=True):
            found: asyncio.Future[Endpoint | None] = asyncio.get_running_loop().create_future()
            Punch(host, rendezvous, session, found.set_result, limit_s).start()
            ended.append(found)
        heard = await asyncio.gather(*ended)
        return [session.hex() for (_, session), where in zip(sessions, heard, strict=True) if where is not None]
    finally:
        for host in hosts:
            host.close()


def main() -> None:
    match sys.argv[1:]:
        case ["serve", number, one4, other4, one6, other6]:
            asyncio.run(serve(int(number), [(one4, other4), (one6, other6)]))
        case ["classify", one, other]:
            print(as_json(asyncio.run(judge(one, other))), flush=True)
        case ["punch", limit_s, server4, server6, *words]:
            rendezvous = [Endpoint(address, PORT) for address in (server4, server6)]
            sessions = [(int(port), bytes.fromhex(session)) for port, _, session in (w.partition("=") for w in words)]
            print(json.dumps(asyncio.run(punch(float(limit_s), rendezvous, sessions))), flush=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
