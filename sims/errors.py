"""How a run in a simulated world may fail. `NeverHappened` is an assertion: what was expected did not come true."""


class NeverHappened(AssertionError):
    """A run reached its limit before what it waited for came true. The text names the seed."""


class TooSoon(AssertionError):
    """A datagram took less time from one shard of a world to another than was promised."""
