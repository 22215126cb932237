"""`joulemeter report` on a run of 10 million spans and 1 million readings: seconds and memory, all in.

python benchmarks/report_scale.py [--spans 1e7] [--readings 1e6]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from joulemeter.run import Run, save
from report_scale_attribution import program, readings


def main() -> None:
    """Writes the folder, reports it in a process of its own, and prints what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=float, default=1e7)
    parser.add_argument("--readings", type=float, default=1e6)
    args = parser.parse_args()
    sites, spans = program(int(args.spans))
    line = readings(spans, int(args.readings))
    with tempfile.TemporaryDirectory() as folder:
        columns = (np.zeros(len(line.t_ns), np.int16), line.t_ns, line.energy_j)
        save(Run(Path(folder), {"schema": 1, "state": "finished"}, (line.rail,), sites, spans, *columns))
        began = time.perf_counter()
        command = [sys.executable, "-m", "joulemeter", "report", folder, "--format", "json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(spans):,} spans, {len(line.t_ns):,} readings: {wall:.1f} s wall, "
        f"{usage.ru_utime + usage.ru_stime:.1f} s of processor, peak {usage.ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
