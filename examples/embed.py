"""Two nodes of a private ring in one program: they share records and send each other a message of an own type.

Runs as it is, without root and without a network interface of its own:    python examples/embed.py
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from ipop.authority_files import init, issue
from ipop.embed import Fields, Message, Taken, Value, join


@dataclass(frozen=True)
class Greeting(Message):
    """A message type is a code of your own, and how its fields are written and read."""

    CODE = 1024
    text: str

    def fields(self) -> dict[int, Value]:
        return {0: self.text}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.text(0, max_chars=100))


async def talk(folder: Path) -> None:
    # In earnest, the two nodes run on two machines, and the laptop says bootstraps=["server.example:7077"].
    async with (
        join(folder / "server.p2pvpn", listen="127.0.0.1:0") as server,
        join(folder / "laptop.p2pvpn", listen="127.0.0.1:0", bootstraps=server.endpoints) as laptop,
    ):
        greetings = server.messages(Greeting)

        await laptop.put("service/printer", b"room 12")
        for record in await server.get("service/printer"):
            print(f"{record.owner.name} says that the printer is in {record.value.decode()}")

        await server.create("leader", b"server")
        try:
            await laptop.create("leader", b"laptop")
        except Taken as taken:
            print(f"laptop does not lead: {taken}")

        await laptop.send(server.id, Greeting("hello"))
        async for sender, greeting in greetings:
            print(f"{sender.name} tells the server: {greeting.text}")
            break


with TemporaryDirectory() as name:
    folder = Path(name)
    # Once a network, on the command line: p2pvpn init lab --subnet 10.77.0.0/16; p2pvpn issue laptop --ca lab.ca ...
    network = init("lab", "10.77.0.0/16", folder)
    for node in ("server", "laptop"):
        issue(node, network.authority, folder / f"{node}.p2pvpn")
    asyncio.run(talk(folder))
