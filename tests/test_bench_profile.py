"""The profile's table adds up: every sample is of one kind, and shares are of the time that the kernel has measured."""

from __future__ import annotations

import pytest

from sims.lab.bench_profile import KINDS, shares, table

REPORT = """\
# Samples: 2K of event 'cpu-clock:ppp'
# Overhead  Shared Object
# ........  .............

    45.00%  libpython3.11.so.1.0
     5.00%  _struct.cpython-311-x86_64-linux-gnu.so
    20.00%  [kernel.kallsyms]
    15.00%  _rust.abi3.so
     9.00%  libc.so.6
     1.00%  [vdso]
     5.00%  something.so
"""


def test_every_file_is_of_one_kind() -> None:
    found = shares(REPORT)
    assert found == pytest.approx({"kernel": 0.2, "AEAD": 0.15, "Python": 0.5, "memory, libc": 0.1, "other": 0.05})
    assert tuple(found) == KINDS


def test_a_report_without_samples_has_no_shares() -> None:
    assert shares("# Samples: 0\n") == {}


def test_the_parts_are_of_the_measured_time_per_segment() -> None:
    heading, sender, receiver = table(
        {"sender": (0.3, 0.1, 100_000, shares(REPORT)), "receiver": (0.5, 0.5, 100_000, {})}
    ).splitlines()
    assert heading.split()[:6] == ["µs", "per", "segment", "all", "user", "system"]
    assert sender.split() == ["sender", "4.00", "3.00", "1.00", "0.80", "0.60", "2.00", "0.40", "0.20"]
    assert receiver.split() == ["receiver", "10.00", "5.00", "5.00", *["-"] * 5]
