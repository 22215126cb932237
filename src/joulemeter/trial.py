"""One configuration of a sweep, trained in PyTorch and metered: ``python -m joulemeter.trial``.

A process of its own gives each run clean threads, devices and memory, and makes a crash one failed run. The
job is one JSON object on stdin, the outcome the last line of stdout.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter import butter, topology, training_data
from joulemeter.errors import JoulemeterError, UsageError
from joulemeter.ledger import number
from joulemeter.plan import SEQUENCES, Configuration

if TYPE_CHECKING:
    import torch

    from joulemeter.ledger import Ledger
    from joulemeter.meter import Meter

PHASES = ("data", "forward", "backward", "optimizer", "evaluation")
REST_S = 0.25
"""The rest before the training, for the idle power."""
MOST_SPANS = 200_000
"""Longer trainings get phases in their first epochs only: a span costs memory, and its ledger time."""


@dataclass(frozen=True)
class Job:
    """What a run's process is told: the configuration, where tables lie, and the meters (None: all here)."""

    configuration: Configuration
    tables: Path
    sources: tuple[str, ...] | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self), "tables": str(self.tables)})

    @staticmethod
    def from_json(text: str) -> Job:
        """The job that ``to_json`` wrote."""
        data = json.loads(text)
        sources = data["sources"]
        return Job(
            Configuration(**data["configuration"]),
            Path(data["tables"]),
            None if sources is None else tuple(sources),
        )


@dataclass
class Setup:
    """A network, its data on its device, and what trains it."""

    network: torch.nn.Module
    loss: Any
    optimizer: torch.optim.Optimizer
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    device: str
    batch_size: int

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.train[0]) // self.batch_size)


def run(job: Job) -> dict[str, Any]:
    """Trains and meters; the figures of the record, NaN as null. Raises whatever the training raises."""
    import torch

    from joulemeter.meter import Meter

    configuration = job.configuration
    if configuration.threads:
        torch.set_num_threads(configuration.threads)
    torch.manual_seed(configuration.seed)
    table = training_data.load(configuration.dataset, job.tables)
    setup, described = prepare(configuration, table)
    setup_step(setup)
    meter = Meter(None if job.sources is None else list(job.sources))
    with meter:
        rest = time.monotonic_ns()
        time.sleep(REST_S)
        began = time.time()
        marks = [time.monotonic_ns()]
        losses = list(epochs(setup, configuration.epochs, meter, marks))
    return {
        **described,
        **_energies(meter, rest, marks),
        "start": began,
        "end": began + (marks[-1] - marks[0]) / 1e9,
        "train_loss": losses[-1][0],
        "test_loss": losses[-1][1],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def prepare(configuration: Configuration, table: training_data.Table) -> tuple[Setup, dict[str, Any]]:
    """The network on its device with its data, and what is to be said of it."""
    import torch

    from joulemeter import networks_trained

    facts = table.facts
    device, dtype = configuration.device, getattr(torch, configuration.dtype)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"there is no device '{device}' here: PyTorch sees no CUDA device", "--device cpu")
    described: dict[str, Any] = {"inputs": facts.inputs, "outputs": facts.outputs, "rows": facts.rows}
    described["data"] = table.source
    network: torch.nn.Module
    if configuration.shape in SEQUENCES:
        network = networks_trained.sequence(
            configuration.shape, configuration.depth, configuration.size, facts.outputs
        )
    else:
        widths = topology.solve(
            configuration.shape,
            depth=configuration.depth,
            size=configuration.size,
            inputs=facts.inputs,
            outputs=facts.outputs,
        ).widths
        network = networks_trained.dense(
            facts.inputs, widths, residual=configuration.shape.endswith("_residual")
        )
        described["widths"] = widths
    described["parameters"] = sum(each.numel() for each in network.parameters())
    network = network.to(device=device, dtype=dtype)
    inputs, targets = torch.from_numpy(table.inputs).to(dtype), torch.from_numpy(table.targets).to(dtype)
    order = torch.randperm(facts.rows)
    # scikit-learn rounds the test share up; the study split with it.
    held = math.ceil(facts.rows * butter.TEST_SHARE - 1e-9)
    train, test = order[held:], order[:held]
    return Setup(
        network,
        _loss(table.task),
        _optimizer(configuration, network),
        (inputs[train], targets[train]),
        (inputs[test], targets[test]),
        device,
        configuration.batch_size,
    ), described


def _loss(task: str) -> Any:
    import torch

    kinds = {"regression": torch.nn.MSELoss, "binary": torch.nn.BCEWithLogitsLoss}
    return kinds.get(task, torch.nn.CrossEntropyLoss)()


def _optimizer(configuration: Configuration, network: torch.nn.Module) -> torch.optim.Optimizer:
    import torch

    kinds = {
        "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop, "adagrad": torch.optim.Adagrad,
    }  # fmt: skip
    kind: Any = kinds[configuration.optimizer]
    made: torch.optim.Optimizer = kind(network.parameters(), lr=configuration.learning_rate)
    return made


def setup_step(setup: Setup) -> None:
    """One forward and backward pass that changes no weight: libraries wake up before the meter runs."""
    x, y = (each[: setup.batch_size].to(setup.device) for each in setup.train)
    setup.loss(setup.network(x), y).backward()
    setup.optimizer.zero_grad()
    _wait(setup.device)


def epochs(setup: Setup, count: int, meter: Meter, marks: list[int]) -> Iterator[tuple[float, float]]:
    """Trains and evaluates ``count`` times; yields the losses, and marks the end of each epoch."""
    spans = 4 * setup.steps + 1
    for epoch in range(count):
        phased = epoch == 0 or (epoch + 1) * spans <= MOST_SPANS
        yield _train(setup, meter, phased), _evaluate(setup, meter, phased)
        marks.append(time.monotonic_ns())


def _train(setup: Setup, meter: Meter, phased: bool) -> float:
    import torch

    def phase(name: str) -> AbstractContextManager[Any]:
        """A span of this phase, where phases are asked for."""
        return meter.span(name) if phased else nullcontext()

    order = torch.randperm(len(setup.train[0]))
    total = torch.zeros((), device=setup.device)
    for rows in torch.split(order, setup.batch_size):
        with phase("data"):
            x, y = (each[rows].to(setup.device) for each in setup.train)
        with phase("forward"):
            loss = setup.loss(setup.network(x), y)
        with phase("backward"):
            setup.optimizer.zero_grad()
            loss.backward()
        with phase("optimizer"):
            setup.optimizer.step()
        total += loss.detach() * len(rows)
    _wait(setup.device)
    return float(total) / len(order)


def _evaluate(setup: Setup, meter: Meter, phased: bool) -> float:
    import torch

    total = torch.zeros((), device=setup.device)
    with meter.span("evaluation") if phased else nullcontext(), torch.inference_mode():
        held = (torch.split(each, setup.batch_size) for each in setup.test)
        for x, y in zip(*held, strict=True):
            total += setup.loss(setup.network(x.to(setup.device)), y.to(setup.device)) * len(x)
        _wait(setup.device)
    return float(total) / len(setup.test[0])


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _energies(meter: Meter, rest_ns: int, marks: list[int]) -> dict[str, Any]:
    """Joules of the training, of each epoch, and of the phases; the power of the rest before it."""
    from joulemeter.window import energy_between

    lines = meter.run.timelines()
    whole = energy_between(lines, marks[0], marks[-1])
    rest = energy_between(lines, rest_ns, marks[0]).energy_j
    each = [energy_between(lines, a, b).energy_j for a, b in pairwise(marks)]
    return {
        "time_s": (marks[-1] - marks[0]) / 1e9,
        **whole.to_json(),
        "idle_w": number(rest / ((marks[0] - rest_ns) / 1e9)),
        "epochs_j": [number(energy) for energy in each],
        "phases_j": _phases(meter.ledger),
        "origin": meter.origin,
        "source": ", ".join(sorted({rail.source for rail in meter.run.rails})),
    }


def _phases(ledger: Ledger) -> dict[str, Any]:
    """Joules above idle, seconds and calls of each phase, and whether the meter can tell it from others."""
    from joulemeter.reading import outermost

    outer = {rail.id for rail in outermost(tuple(each.rail for each in ledger.rails))}
    found = {}
    for site in ledger.sites:
        parts = [entry for entry in site.rails if entry.rail in outer]
        if site.site.name in PHASES:
            found[site.site.name] = {
                "calls": site.calls,
                "time_s": site.time_s,
                "energy_j": number(math.fsum(entry.exclusive.energy_j for entry in parts)),
                "low_j": number(math.fsum(entry.exclusive.low_j for entry in parts)),
                "high_j": number(math.fsum(entry.exclusive.high_j for entry in parts)),
                "resolved": all(entry.resolved for entry in parts),
            }
    return found


def _die_with_the_parent() -> None:
    """A sweep that is killed takes its run along: nobody would record it, and it would disturb the next."""
    import ctypes
    import os
    import signal

    death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
        if os.getppid() == 1:
            raise SystemExit(1)


def main() -> None:
    """Reads a job on stdin, writes its outcome as the last line of stdout."""
    _die_with_the_parent()
    try:
        outcome = {"status": "done", **run(Job.from_json(sys.stdin.read()))}
    except (JoulemeterError, RuntimeError, ValueError, MemoryError, NotImplementedError) as error:
        lines = str(error).strip().splitlines()
        said = f": {lines[0][:200]}" if lines else ""
        outcome = {"status": "failed", "error": f"{type(error).__name__}{said}"}
    sys.stdout.write("\n" + json.dumps(_plain(outcome)) + "\n")


def _plain(outcome: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a loss that diverged is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in outcome.items()}


if __name__ == "__main__":
    main()
