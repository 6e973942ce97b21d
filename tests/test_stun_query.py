"""netcheck's question to a STUN server: answered by the one who was asked, or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dht.bootstrap import Bootstrap
from dht.host import Endpoint
from dht.stun import StunResponder
from ipop.errors import SetupError
from ipop.stun_query import ask_stun


@contextmanager
def server(*, skips: int = 0, garbage: bytes | None = None) -> Iterator[Bootstrap]:
    """A STUN server on this machine that misses the first questions, and says garbage first if it is given some."""
    responder = StunResponder(on=True)
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))

    def serve() -> None:
        number = 0
        while True:
            question, (address, port) = listening.recvfrom(2048)
            if question == b"end":
                return
            number += 1
            if number <= skips:
                continue
            if garbage is not None:
                listening.sendto(garbage, (address, port))
            answer = responder.answer(question, Endpoint(address, port), 0.0)
            assert answer is not None
            listening.sendto(answer, (address, port))

    thread = threading.Thread(target=serve)
    thread.start()
    place = listening.getsockname()
    try:
        yield Bootstrap(*place)
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"end", place)
        thread.join(10)
        listening.close()


def test_a_server_says_where_it_sees_us() -> None:
    with server() as place:
        seen = ask_stun(place)
    assert set(seen) == {"ipv4"}  # the address has no other family
    assert seen["ipv4"] is not None
    assert seen["ipv4"].startswith("127.0.0.1:")


def test_a_lost_question_is_asked_again_and_garbage_is_read_over() -> None:
    with server(skips=1, garbage=b"\x01\x01garbage") as place:
        assert ask_stun(place, (0.2, 30.0))["ipv4"] is not None


def test_a_server_that_does_not_answer_or_is_none_is_given_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        place = Bootstrap(*silent.getsockname())
        assert ask_stun(place, (0.05, 0.05)) == {"ipv4": None}
    assert ask_stun(place, (0.05, 0.05)) == {"ipv4": None}


def test_a_name_that_means_nothing_is_an_error_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(SetupError, match=r"^cannot look up the STUN server 'stun.example:3478': Name or service"):
        ask_stun(Bootstrap("stun.example", 3478))
