"""The two families of error in protocol code.

`BadDatagram`: a peer sent bytes we refuse. It is raised by parsers and machines, caught once where a
datagram enters the node, counted and dropped. Anything else that escapes (assertions above all) is our own
fault and must crash loudly in tests. Never raised for our own mistakes; never raised towards users.
"""


class BadDatagram(Exception):
    """A peer's bytes were refused; the text says which rule they broke."""


class StaleDatagram(BadDatagram):
    """A datagram for something that is over: a session of an earlier run, an answered handshake. Not suspicious."""


class CertificateRefused(BadDatagram):
    """A certificate does not prove membership of this network; the text says why."""
