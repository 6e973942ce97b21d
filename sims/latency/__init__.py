"""How long a datagram takes from one place to another: constants, measured matrices, points, and a synthetic Internet.

A model knows places by number. It holds no state that matters and draws no random numbers: loss and jitter are the
network's.
"""

from sims.latency.files import load
from sims.latency.king import load_king
from sims.latency.models import COLOCATED_RTT_MS, Constant, Euclid, Latency, Matrix, Missing
from sims.latency.synthetic import Synthetic

__all__ = [
    "COLOCATED_RTT_MS",
    "Constant",
    "Euclid",
    "Latency",
    "Matrix",
    "Missing",
    "Synthetic",
    "load",
    "load_king",
]
