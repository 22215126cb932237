"""How long a fit of 10,000 kernels takes: 30 families of made-up kernels, energy and time.

    python benchmarks/fit_speed.py [--kernels 10000] [--families 30]

Prints wall time, and the processor time that this process took, which a busy machine does not inflate.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from joulemeter.models import learning
from joulemeter.record import Record


def made_up(count: int, families: int, seed: int = 0) -> list[Record]:
    """Kernels of three dimensions whose energy is a launch, FLOPs and bytes, with 3 % noise."""
    random = np.random.default_rng(seed)
    records = []
    for i in range(count):
        size, c_in, c_out = (
            int(random.integers(4, 112)),
            int(random.integers(8, 1024)),
            int(random.integers(8, 1024)),
        )
        family = i % families
        product = family % 3 == 0
        flops = 2.0 * size * size * c_in * (c_out if product else 1)
        moved = 4.0 * size * size * (c_in + (c_out if product else c_in))
        joules = (1e-5 + (family + 1) * 1e-12 * flops + 1e-9 * moved) * float(np.exp(0.03 * random.normal()))
        shape = {"height": size, "width": size, "in_channels": c_in} | (
            {"out_channels": c_out} if product else {}
        )
        name = f"conv-{family}" if product else f"family-{family}"
        records.append(Record(level="kernel", family=name, origin="simulated", device="made up", shape=shape,
                              flops=flops, read_bytes=moved, write_bytes=0.0, parameters=0.0,
                              energy_j=joules, time_s=joules / 10))  # fmt: skip
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=int, default=10_000)
    parser.add_argument("--families", type=int, default=30)
    options = parser.parse_args()
    records = made_up(options.kernels, options.families)
    wall, own = time.monotonic(), time.process_time()
    predictor = learning.fit(records)
    wall, own = time.monotonic() - wall, time.process_time() - own
    overall = predictor.card["overall"]
    print(f"{len(records)} kernels of {options.families} families: {wall:.0f} s, {own:.0f} s of processor time; "
          f"cross-validated MAPE {100 * overall.mape:.1f} %, coverage {100 * overall.coverage_90:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
