"""Makes a veth device cut and merge packets as a network card does †, as a program that runs inside a namespace.

    python -m sims.lab.bench_card card INTERFACE    send single packets, and merge on receipt
    python -m sims.lab.bench_card port INTERFACE    a port of a switch: gives single packets, merges none

A card merges only while the device at its other end sends no super-packets either: else the kernel does not try.
"""

from __future__ import annotations

import sys

from pyroute2.ethtool.ioctl import IoctlEthtool


def main() -> None:
    match sys.argv[1:]:
        case ["card" | "port" as kind, interface]:
            ethtool = IoctlEthtool(interface)
        case _:
            sys.exit(__doc__)
    features = ethtool.get_features()
    for name, *_ in features:
        if name.startswith("tx-tcp") or name == "tx-udp-segmentation":
            features[name] = False
    features["rx-gro"] = kind == "card"
    ethtool.set_features(features)


if __name__ == "__main__":
    main()
