"""A data set of 1,000,000 generated runs: filtered by qc, read, fitted, plotted; seconds and memory of each.

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

from joulemeter import butter, dataset, energy_model, energy_plots, energy_runs, qc
from joulemeter.errors import UsageError
from joulemeter.models.hierarchy.terms import design
from joulemeter.models.hierarchy.training import Training
from joulemeter.record import Record


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
    """Writes ``records`` runs as a sweep would, a hundred thousand a part."""
    random = np.random.default_rng(0)
    trainings = grid()
    print(f"the grid has {len(trainings)} configurations")
    energy = {}
    for device, levels in butter.NODES.items():
        counts = design(trainings, levels)
        costs = 1 / np.maximum(counts.mean(axis=0), 1) * random.uniform(0.2, 1, counts.shape[1]) * 1e5
        energy[device] = counts @ costs
    dataset.append(folder, [], name="generated", part="0-start")
    for part, first in enumerate(range(0, records, 100_000)):
        rows = random.integers(0, len(trainings), min(100_000, records - first))
        devices = random.choice(["cpu", "gpu"], len(rows)).tolist()
        noise = np.exp(random.normal(0, 0.1, len(rows)))
        lucky = random.random((2, len(rows)))
        made = [
            record(trainings[row], device, energy[device][row] * noise[k], *lucky[:, k].tolist())
            for k, (row, device) in enumerate(zip(rows.tolist(), devices, strict=True))
        ]
        dataset.append(folder, made, part=f"{part:03}")


def record(training: Training, device: str, energy_j: float, failed: float, zero: float) -> Record:
    """A run as a sweep records it; ``failed`` and ``zero`` are drawn from 0 … 1."""
    facts = {
        "dataset": training.dataset, "shape": training.shape, "depth": training.depth, "size": training.size,
        "learning_rate": 1e-4, "batch_size": 256, "optimizer": "adam", "device": device, "threads": 1,
        "dtype": "float32", "epochs": 3000, "repetition": 0, "inputs": training.inputs, "outputs": training.outputs,
        "rows": training.rows, "widths": list(training.widths), "data": "pmlb", "host": "generated",
        "status": "failed" if failed < 0.02 else "done", "error": "generated" if failed < 0.02 else None,
        "train_loss": 0.3, "test_loss": 0.3 + 1e3 / training.size**0.9 + 0.1 * failed,
    }  # fmt: skip
    return Record(
        level="run", family="mlp", origin="simulated", network=training.shape, device=device, backend="torch",
        batch=256, direction="training", parameters=training.parameters, time_s=energy_j / 300, power_w=300,
        idle_power_w=220, energy_j=0.0 if zero < 0.01 else energy_j, facts=facts,
    )  # fmt: skip


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
        generate(folder / "raw", records)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        whole = watch = Watch()
        report = qc.check(dataset.table(folder / "raw"), qc.Rules(reference_w=220))
        dataset.write_table(folder / "clean", "clean", report.kept)
        print(f"{records} records filtered, {len(report.kept)} kept: {watch}")
        for reason, count in report.reasons.most_common():
            print(f"  filtered: {count} × {reason}")
        del report
        watch = Watch()
        table = energy_runs.read(folder / "clean")
        print(f"read {len(table.runs)} runs: {watch}")
        watch = Watch()
        fitted = energy_model.fit(table.runs, butter.NODES, bootstrap=20)
        print(f"fitted: {watch}")
        watch = Watch()
        paths = energy_plots.draw(table.runs, fitted, folder / "plots", endings=("png",))
        print(f"plotted {len(paths)} figures: {watch}")
        print(f"in all: {whole}")
    print(
        f"peak memory: {before / 2**20:.2f} GiB generating, in all {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
