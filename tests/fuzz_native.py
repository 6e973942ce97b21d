"""The C data path beside Python's for a while, with sanitizers where it was built with them: `make fuzz`.

    python -m tests.fuzz_native EXTENSION SECONDS [SEED]

EXTENSION is a build of `ipop._fastpath`, which stands in for the usual one. Every world lives for some rounds only, so
that making and dropping it is tried as well. Prints its seed, and ends with an exception at the first difference; a
sanitizer ends the process.
"""

from __future__ import annotations

import gc
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from random import Random

ROUNDS = 300


def stand_in(extension: str) -> None:
    spec = spec_from_file_location("ipop._fastpath", extension)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["ipop._fastpath"] = module
    spec.loader.exec_module(module)
    __import__("ipop").__dict__["_fastpath"] = module


def main(extension: str, seconds: float, seed: int) -> None:
    stand_in(extension)
    from tests.native_traffic import Arrivals, frame  # noqa: PLC0415
    from tests.test_fastpath import WORLDS, alike, world  # noqa: PLC0415

    random, ends, rounds = Random(seed), time.monotonic() + seconds, 0
    print(f"seed {seed}", flush=True)
    while time.monotonic() < ends:
        options, hostile = random.choice(WORLDS), random.choice((0.1, 0.5, 0.9))
        with world(True, False, **options) as sides:
            arrivals = Arrivals(random, sides)
            for _ in range(ROUNDS):
                if random.random() < 0.5:
                    arrivals.one(hostile)
                else:
                    frames = [frame(random, sides[0], hostile) for _ in range(random.choice((1, 2, 6)))]
                    for side in sides:
                        side.from_tap(frames)
                rounds += 1
                alike(sides, f"seed {seed}, round {rounds}")
        del sides, arrivals
        gc.collect()
    print(f"{rounds} rounds, no difference")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else Random().getrandbits(32))
