"""A data set of 1,000,000 generated runs: read and filtered, fitted, plotted; seconds and memory of each.

    python benchmarks/million_records.py [RECORDS]

The runs are the published grid on two devices, repeated with log-normal noise around costs made up here;
one in fifty failed, one in a hundred says zero joules. They say nothing about any machine: what is
measured is this program.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from joulemeter import butter, energy_model, energy_plots, energy_runs
from joulemeter.errors import UsageError
from joulemeter.models.hierarchy.terms import design
from joulemeter.models.hierarchy.training import Training


def grid() -> list[Training]:
    """The published grid, less the configurations that are off by more than a fifth."""
    from joulemeter.energy_advice import training_of

    found = []
    for name in butter.DATASETS:
        for shape in butter.SHAPES:
            for depth in butter.DEPTHS:
                for power in range(5, 25):
                    try:
                        found.append(training_of(name, size=2**power, depth=depth, shape=shape))
                    except UsageError:
                        continue
    return found


def generate(folder: Path, records: int) -> None:
    """Writes ``records`` runs as Parquet parts of 100,000."""
    random = np.random.default_rng(0)
    trainings = grid()
    print(f"the grid has {len(trainings)} configurations")
    energy = {}
    for device, levels in butter.NODES.items():
        counts = design(trainings, levels)
        costs = 1 / np.maximum(counts.mean(axis=0), 1) * random.uniform(0.2, 1, counts.shape[1]) * 1e5
        energy[device] = counts @ costs
    columns = {
        name: np.array([getattr(t, name) for t in trainings])
        for name in ("dataset", "shape", "size", "depth")
    }
    for part, first in enumerate(range(0, records, 100_000)):
        rows = random.integers(0, len(trainings), min(100_000, records - first))
        device = random.choice(["cpu", "gpu"], len(rows))
        joules = np.where(device == "cpu", energy["cpu"][rows], energy["gpu"][rows])
        joules = joules * np.exp(random.normal(0, 0.1, len(rows)))
        table = {name: values[rows] for name, values in columns.items()}
        table |= {
            "device": device,
            "std_energy_J": np.where(random.random(len(rows)) < 0.01, 0.0, joules),
            "run_time_s": joules / 300,
            "test_loss": np.exp(random.normal(-1, 0.3, len(rows))) * (1 + 1e4 / columns["size"][rows] ** 0.9),
            "origin": np.full(len(rows), "simulated"),
            "status": np.where(random.random(len(rows)) < 0.02, "failed", "done"),
        }
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"part-{part:03}.parquet")


class Watch:
    """Seconds on the wall and on the processor since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return f"{wall:.1f} s ({cpu:.1f} s of processor)"


def main() -> None:
    """Prints seconds of each step and the peak memory of them all."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, records)
        whole = watch = Watch()
        table = energy_runs.read(folder)
        print(f"read and filtered {records} records to {len(table.runs)}: {watch}")
        for saying in table.runs.left_out:
            print(f"  left out: {saying}")
        watch = Watch()
        fitted = energy_model.fit(table.runs, energy_runs.levels_of(table), bootstrap=20)
        print(f"fitted: {watch}")
        watch = Watch()
        paths = energy_plots.draw(table.runs, fitted, folder / "plots", endings=("png",))
        print(f"plotted {len(paths)} figures: {watch}")
        print(f"in all: {whole}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
