"""65,000 runs against 3,200 meter files of one-minute samples (200 MB): time and memory of `joulemeter join`.

    python benchmarks/join_scale.py [--share 1.0]

The logs are generated, with gaps and zero readings. The join runs in a process of its own; the figures are its wall
time and its peak resident memory. Wanted: ≤ 10 s and ≤ 2 GiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILES, RUNS, SAMPLES = 3_200, 65_000, 2_150
EPOCH_S = 1_700_000_000


def write(folder: Path, share: float) -> int:
    """Writes the logs and the runs; returns the bytes of the logs."""
    rng = np.random.default_rng(0)
    files, runs = round(FILES * share), round(RUNS * share)
    logs = folder / "logs"
    logs.mkdir()
    stamps = np.datetime64(EPOCH_S, "s") + np.arange(SAMPLES) * np.timedelta64(60, "s")
    text = np.datetime_as_string(stamps)
    for k in range(files):
        watts = 220 + 150 * rng.random(SAMPLES)
        watts[rng.random(SAMPLES) < 0.001] = 0
        keep = rng.random(SAMPLES) > 0.002
        lines = [f"{t}Z,{w:.1f}" for t, w in zip(text[keep], watts[keep], strict=True)]
        (logs / f"node{k:04d}.csv").write_text("time,power_w\n" + "\n".join(lines) + "\n")
    start = rng.uniform(0, (SAMPLES - 200) * 60, runs)
    took = rng.lognormal(np.log(900), 1, runs).clip(5, 11_000)
    host = rng.integers(0, files, runs)
    with (folder / "runs.csv").open("w") as out:
        out.write("name,device,dataset,shape,size,depth,host,start,end\n")
        for k in range(runs):
            began = EPOCH_S + start[k]
            out.write(
                f"run{k},cpu,banana,rectangle,4096,4,node{host[k]:04d},{began:.3f},{began + took[k]:.3f}\n"
            )
    return sum(each.stat().st_size for each in logs.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="of the files and runs")
    share = parser.parse_args().share
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, share)
        command = [sys.executable, "-m", "joulemeter", "join", str(folder / "logs"), str(folder / "runs.csv")]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "-o", str(folder / "joined"), "--json"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
    assert status == 0, said
    tally = json.loads(said)
    print(f"{tally['lines']} records, {round(FILES * share)} files, {size / 1e6:.0f} MB of logs")
    print(f"{took:.1f} s, {usage.ru_maxrss / 2**20:.2f} GiB at most")
    print({key: value for key, value in tally.items() if key != "dataset"})


if __name__ == "__main__":
    main()
