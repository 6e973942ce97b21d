"""Makes a veth device cut and merge packets as a network card does †, as a program that runs inside a namespace.

python -m sims.lab.bench_card INTERFACE
"""

from __future__ import annotations

import sys

from pyroute2.ethtool.ioctl import IoctlEthtool


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    ethtool = IoctlEthtool(sys.argv[1])
    features = ethtool.get_features()
    for name, *_ in features:
        if name.startswith("tx-tcp") or name == "tx-udp-segmentation":
            features[name] = False
    features["rx-gro"] = True
    ethtool.set_features(features)


if __name__ == "__main__":
    main()
